"""The score of a reward model, or the mean of an ensemble's, as `klvi reward` trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.rewards.base import REPORTED
from klvi.rewards.classifier import Classifier

# What a folder of a classifier holds, whole or as an adapter.
CONFIGS = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class RewardModel:
    """Classifiers of a single logit, which is the score: nats, up to a constant.

    Each reads a prompt and its completion as one text, as it was trained. Of several, the reward is
    their mean, and each one's score stands beside it under its number.
    """

    members: Mapping[str, Classifier]
    name: str = "model"

    @staticmethod
    def load(
        path: str,
        *,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str | None = None,
        run_device: str = "cpu",
    ) -> RewardModel:
        """One classifier's folder or hub id, or a folder of several, named 0, 1, ….

        Raises UserError where there is none, and where one has more than a logit.
        """
        members = {}
        for name, place in _places(path).items():
            member = Classifier.load(
                place,
                batch_size=batch_size,
                with_prompt=True,
                device=device,
                dtype=dtype,
                run_device=run_device,
            )
            if member.head.count != 1:
                raise UserError(
                    f"reward.path={place}: has {member.head.count} labels, not the single score of "
                    "a reward model; use reward=classifier"
                )
            members[name] = member
        return RewardModel(members)

    def __call__(
        self, texts: Sequence[str], contexts: Sequence[Context]
    ) -> Tensor | dict[str, Tensor]:
        """Score N completions: `(N,)`, or `(N,)` each by name."""
        scores = {name: member(texts, contexts) for name, member in self.members.items()}
        mean = torch.stack(list(scores.values())).mean(0)
        return mean if len(scores) == 1 else {REPORTED: mean, **scores}


def _places(path: str) -> dict[str, str]:
    """The folder of each member by its name."""
    folder = Path(path).expanduser()
    if not folder.is_dir() or _is_classifier(folder):
        return {"0": path}
    names = sorted((p.name for p in folder.iterdir() if p.name.isdecimal()), key=int)
    if not names:
        raise UserError(
            f"reward.path={path}: is no reward model: it has neither config.json nor folders 0, 1, "
            "…; give a folder that klvi reward, or another trainer of classifiers, has written"
        )
    return {name: str(folder / name) for name in names}


def _is_classifier(folder: Path) -> bool:
    return any((folder / name).exists() for name in CONFIGS)
