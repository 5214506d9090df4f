"""What a sampler gives is checked before anything is learned or measured from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support import LENGTH, LETTERS

import klvi
from klvi.errors import UserError
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samples import Draw


@dataclass(frozen=True)
class Wrong(Sampler):
    kind: str
    ancestral: Ancestral = Ancestral()  # noqa: RUF009

    def sample(self, policy: Any, target: Any, contexts: Any, randomness: Any) -> Any:
        samples = self.ancestral.sample(policy, target, contexts, randomness).samples
        if self.kind == "no draw":
            return samples
        if self.kind == "fewer":
            return Draw(samples.select(torch.arange(len(samples) - 1)))
        return Draw(replace(samples, log_weight=torch.full((len(samples),), torch.nan)))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("no draw", r"Wrong\.sample: gave a Samples; return a klvi\.samples\.Draw"),
        ("fewer", r"Wrong\.sample: gave 15 completions of 16 contexts"),
        ("nan", r"Wrong\.sample: gave log weights that are not numbers"),
    ],
)
def test_a_draw_that_is_none_names_its_sampler(kind: str, line: str) -> None:
    prior = klvi.load_prior("enumerable", letters=LETTERS, length=LENGTH, device="cpu")
    target = klvi.targets.Posterior(klvi.rewards.Contains("a"), beta=0.2)
    with pytest.raises(UserError, match=line):
        klvi.evaluate(prior, target, sampler=Wrong(kind), samples=16, prior_samples=16)
    with pytest.raises(UserError, match=line):
        klvi.train(
            prior, target, klvi.objectives.GDC(), proposal=Wrong(kind), updates=1, batch_size=16
        )
