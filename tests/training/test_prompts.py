"""What moves a policy, with many prompts and with none, and what is too much of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import LetterReward, assembled, prompted, train_config
from torch import Tensor

from klvi.contexts import Context
from klvi.prompts.stream import PromptStream
from klvi.runs.assembly import assemble_run
from klvi.training.loop import DivergenceError, Loop

GDC = {"name": "gdc"}


class Constant:
    name = "constant"

    def __call__(self, texts: list[str], contexts: list[Context]) -> Tensor:
        return torch.full((len(texts),), 0.7)


def moved(loop: Loop, updates: int = 2) -> bool:
    before = [p.detach().clone() for p in loop.policy.adapter_parameters()]
    for _ in range(updates):
        loop.step()
    return not all(map(torch.equal, before, loop.policy.adapter_parameters()))


@pytest.mark.parametrize("optim", [{}, {"algorithm": "muon"}, {"weight_decay": 0.1}])
def test_a_constant_reward_moves_nothing(prompt_file: Path, optim: dict[str, object]) -> None:
    config = prompted(prompt_file, optim=optim, updates=9, objective={**GDC, "epochs": 2})
    loop = assembled(config)
    loop.target = replace(loop.target, reward=Constant())
    assert not moved(loop)
    loop.target = replace(loop.target, reward=LetterReward())
    assert moved(loop, 1)


def test_a_sample_a_prompt_says_nothing_in_the_first_pass() -> None:
    prompts = [
        Context(row, " ".join("abcd"[row // 4**i % 4] for i in range(5))) for row in range(300)
    ]
    loop = assembled(train_config(objective=GDC, batch_size=300))
    loop.contexts = PromptStream(prompts)
    loop.target = replace(loop.target, reward=LetterReward())
    assert not moved(loop, 1)
    assert moved(loop, 1)


def divergent() -> Iterator[tuple[str, dict[str, object]]]:
    for objective in ("gdc", "kl"):
        yield objective, {"lr": 1e12, "schedule": "constant"}
        yield objective, {"lr": 1e10, "schedule": "constant"}


@pytest.mark.parametrize(("objective", "optim"), list(divergent()))
def test_a_policy_that_diverges_reaches_no_checkpoint(
    objective: str, optim: dict[str, object], tmp_path: Path
) -> None:
    config = train_config(
        objective={"name": objective},
        optim=optim,
        updates=6,
        reward={"name": "letters"},
        evaluation={"samples": 16, "prior_samples": 16, "ess_floor": 2, "every": 6},
        checkpoint={"every": 1},
    )
    with pytest.raises(DivergenceError, match=r"update \d: .*lower optim.lr=1e\+"):
        assemble_run(config, tmp_path).train()
    for state in tmp_path.glob("checkpoints/step-*/adapter_model.safetensors"):
        from safetensors.torch import load_file

        assert all(bool(weight.isfinite().all()) for weight in load_file(state).values())
