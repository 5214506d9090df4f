"""What is left to the model: what is chosen, and what its reward is at first."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from support import SHORT, train_config
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from klvi.errors import UserError
from klvi.policy.tiny import tiny_path
from klvi.runs.assembly import assemble_evaluator, assemble_run
from klvi.runs.defaults import facts_of
from klvi.runs.schema import TrainConfig
from klvi.tracking.output import Output


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in bfloat16, with more outputs than its tokenizer has tokens."""
    folder = tmp_path_factory.mktemp("models") / "small"
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_path()))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def started(config: TrainConfig, folder: Path) -> str:
    """What the console says of a run."""
    folder.mkdir(exist_ok=True)
    console = io.StringIO()
    assemble_run(config, folder, Output(Console(file=console, width=300))).train()
    return console.getvalue()


def test_what_was_chosen_is_in_the_run_s_config_and_on_its_console(
    checkpoint: Path, tmp_path: Path
) -> None:
    asked = train_config(
        **SHORT, model={"name": "small", "path": str(checkpoint)}, max_new_tokens=4, updates=1
    )
    console = started(asked, tmp_path)
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored["model"]["dtype"] == "float32"
    assert stored["optim"]["lr"] == 2e-3
    assert stored["engine"]["batch_size"] == 512
    first = console.splitlines()[0]
    for word in ("small", "optim.lr=0.002", "engine.batch_size=512", "model.dtype=float32"):
        assert word in first
    assert first in (tmp_path / "run.log").read_text()
    again = TrainConfig.model_validate(stored)
    console = started(again, tmp_path / "again")
    assert "chosen for" not in console


def test_facts_are_those_of_the_model_without_its_adapter(checkpoint: Path) -> None:
    config = train_config(model={"name": "small", "path": str(checkpoint)})
    evaluator = assemble_evaluator(config, adapted=True)
    plain = LlamaForCausalLM.from_pretrained(checkpoint)
    facts = facts_of(evaluator.policy.prior)
    assert facts.parameters == plain.num_parameters()
    assert facts.vocabulary == plain.config.vocab_size
    assert facts.cache_bytes == 2 * 2 * 2 * 4 * 4
    assert (facts.dtype, facts.device) == ("float32", "cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": {"name": "contains", "text": "zzz"}}, ["reward 0", "0.17"]),
        (
            {
                "reward": {"name": "length"},
                "target": {"name": "constraint", "threshold": 5.0},
                "objective": {"name": "gdc"},
            },
            ["none of 16", "target.threshold"],
        ),
    ],
)
def test_a_reward_that_never_comes_up_is_one_warning(
    changes: dict[str, Any], words: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    changes = {**SHORT, **changes, "model": {"name": "small", "path": str(checkpoint)}}
    console = started(train_config(**changes, updates=1), tmp_path)
    warned = [line for line in console.splitlines() if "base rate" in line]
    assert len(warned) == 1
    assert all(word in warned[0] for word in words), warned


def test_a_constraint_that_no_listed_sequence_satisfies_is_refused(tmp_path: Path) -> None:
    target = {"name": "constraint", "threshold": 5.0}
    with pytest.raises(UserError, match=r"target=constraint: .* lower target\.threshold"):
        started(train_config(**SHORT, target=target, objective={"name": "gdc"}), tmp_path)


def test_a_reward_that_comes_up_is_none(tmp_path: Path) -> None:
    console = started(train_config(**SHORT), tmp_path)
    assert "base rate" not in console
