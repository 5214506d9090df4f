"""`policy.path`: anybody's policy, measured, sampled and compared like a run's."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from stored_runs import stored_run
from support import command, eval_config, listed, train_config

from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.policy.schema import EnumerableModelConfig
from klvi.runs.load import load_policy

SMALL = ("model=enumerable", "model.letters=4", "model.length=4", "max_new_tokens=4", "device=cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model that another trainer might have made."""
    prior = load_prior(EnumerableModelConfig(name="enumerable", letters=4, length=4))
    model = copy.deepcopy(prior.plain)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.8)
    model.save_pretrained(tmp_path / "theirs")
    prior.tokenizer.save_pretrained(tmp_path / "theirs")
    return tmp_path


def test_its_metrics_and_their_exact_values_are_those_of_the_model(folder: Path) -> None:
    config = eval_config(
        train_config(),
        policy={"path": str(folder / "theirs")},
        evaluation={"samples": 2000, "prior_samples": 500},
    )
    evaluator, source = load_policy(config)
    assert source == str(folder / "theirs")
    found = evaluator.evaluate(0)
    space, policy = listed(), evaluator.policy
    log_policy = space.log_probs(policy).detach()
    log_prior = space.log_probs_prior(Policy(policy.prior))
    kl = float((log_policy.exp() * (log_policy - log_prior)).sum())
    assert kl > 0.01
    assert found.exact["eval/kl_prior"] == pytest.approx(kl, abs=1e-4)
    measured = found.metrics["eval/kl_prior"]
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low < kl < measured.high  # wrong once in 20 seeds


def test_commands_take_it(folder: Path) -> None:
    words = (*SMALL, "reward=letters", "policy.path=theirs", "n=5")
    shown = command(folder, "sample", *words, "out=texts.jsonl")
    assert f"5 samples of {folder / 'theirs'} in texts.jsonl" in shown.stdout
    rows = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]
    assert any(row["log_policy"] != row["log_prior"] for row in rows)
    labelled = command(folder, "preferences", *words, "out=pairs.jsonl")
    assert f"5 pairs of {folder / 'theirs'} in pairs.jsonl" in labelled.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("policy.path=/none",), "policy.path=/none: no such folder"),
        (
            ("policy.path=theirs", "model=tiny"),
            "policy.path={folder}/theirs: has another vocabulary than model tiny: it tells "
            "probabilities of 5 tokens, the prior of 392; set model.path to the prior that it was "
            "trained from",
        ),
    ],
)
def test_what_cannot_be_measured_is_told(folder: Path, words: tuple[str, ...], line: str) -> None:
    refused = command(folder, "eval", *words)
    expected = f"klvi: error: {line.format(folder=folder)}\n"
    assert (refused.returncode, refused.stderr) == (2, expected)
    assert [path.name for path in folder.iterdir()] == ["theirs"]


def test_a_run_has_its_own(folder: Path) -> None:
    stored_run(folder / "run")
    refused = command(folder, "eval", "run=run", "policy.path=theirs", "trust=true")
    assert (refused.returncode, refused.stderr) == (
        2,
        "klvi: error: policy.path and run= exclude each other: a run has its own policy; leave one "
        "out\n",
    )
