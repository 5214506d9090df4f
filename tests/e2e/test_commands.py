"""A run from end to end: train, measure, sample, export, resume.

The first run, and what kills one and goes on with it, are processes of the installed command.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from support import SMALL_RUN, command, records, summary
from transformers import AutoModelForCausalLM, AutoTokenizer

SMALL = (*SMALL_RUN, "checkpoint.every=2", "evaluation.every=2")
REWARD = """
import os, signal
from pathlib import Path

calls = 0

def score(texts, prompts):
    return [text.count("b") / 3 for text in texts]

def rollouts(texts):
    "How many rollouts there were; evaluations have other sizes."
    global calls
    calls += len(texts) == 32
    return calls

def dies(texts, prompts):
    "Kill the process in the fifth update, the first time that it is run."
    marker = Path(__file__).with_name("died")
    if rollouts(texts) == 5 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return score(texts, prompts)

def breaks(texts, prompts):
    if rollouts(texts) == 4 and not Path(__file__).with_name("mended").exists():
        return [float("nan")] * len(texts)
    return score(texts, prompts)
"""


class Workplace:
    """A folder in which a user works."""

    def __init__(self, folder: Path, installed: Path) -> None:
        self.folder, self.installed = folder, installed
        (folder / "score.py").write_text(REWARD)

    def klvi(
        self, *words: str, code: int = 0, process: bool = False
    ) -> subprocess.CompletedProcess[str]:
        if not process:
            result = command(self.folder, *words, COLUMNS="100")
        else:
            result = subprocess.run(
                [self.installed, *words],
                cwd=self.folder,
                env=os.environ | {"COLUMNS": "100"},
                capture_output=True,
                text=True,
                timeout=240,
            )
        assert result.returncode == code, result.stderr + result.stdout
        return result

    def train(self, *words: str, function: str = "score", run: str = "run", **how: Any) -> Path:
        reward = ("reward=python", f"reward.function=score.py:{function}")
        self.result = self.klvi("train", *SMALL, *reward, f"hydra.run.dir={run}", *words, **how)
        return self.folder / run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, installed_klvi: Path) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("work"), installed_klvi)


@pytest.fixture(scope="module")
def finished(workplace: Workplace) -> Path:
    """A finished run of objective=kl, in which no library speaks."""
    folder = workplace.train("objective=kl", "updates=5", run="finished", process=True)
    assert workplace.result.stderr == ""
    return folder


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_runs_lists_it(workplace: Workplace, finished: Path) -> None:
    result = workplace.klvi("runs", "root=.", "objective=kl", "updates=5", "--json")
    (run,) = [run for run in json.loads(result.stdout) if run["folder"] == finished.name]
    summary = json.loads((finished / "summary.json").read_text())
    assert (run["status"], run["update"], result.stderr) == ("finished", 5, "")
    assert run["metrics"] == summary["metrics"]
    assert run["config"] == yaml.safe_load((finished / "config.yaml").read_text())
    assert f" {finished.name} " in workplace.klvi("runs", "root=.", "status=finished").stdout


def test_a_run_leaves_its_contract(finished: Path) -> None:
    records = lines(finished / "metrics.jsonl")
    assert [record["update"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert records[5]["episode"] == 5 * 32
    for name in ("objective/kl", "objective/scores", "loss/policy_avg", "loss/value_avg", "lr"):
        assert name in records[3]
    assert [r["update"] for r in records if "eval/kl_prior" in r] == [0, 2, 4, 5]
    for stage in ("rollout", "prior", "reward", "update"):
        assert records[1][f"time/{stage}"] > 0
    assert records[2]["time/evaluation"] > 0
    ended = summary(finished)
    assert ended["status"] == "finished"
    assert set(ended["metrics"]["eval/kl_prior"]) == {"value", "low", "high", "n"}
    assert ended["versions"]["trl"]
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["reward"]["function"] == f"{finished.parent}/score.py:score"
    samples = lines(finished / "samples.jsonl")
    assert set(samples[0]) == {"update", "prompt", "text", "reward", "log_policy", "log_prior"}
    assert "finished after 5 updates" in (finished / "run.log").read_text()
    assert (finished / "checkpoints" / "step-5").is_dir()


def test_at_update_0_policy_and_prior_agree(finished: Path) -> None:
    first = lines(finished / "metrics.jsonl")[0]
    assert first["eval/kl_prior"] == pytest.approx(0, abs=1e-6)
    for sample in lines(finished / "samples.jsonl"):
        if sample["update"] == 0:
            assert sample["log_policy"] == pytest.approx(sample["log_prior"], abs=1e-4)


def test_eval_with_the_runs_settings_repeats_its_last_evaluation(
    workplace: Workplace, finished: Path
) -> None:
    shown = workplace.klvi("eval", f"run={finished}").stdout
    assert "kl_prior" in shown
    assert "KL(π‖π0), nats" in shown
    before = summary(finished)["metrics"]
    again = json.loads((finished / "eval.json").read_text())["metrics"]
    for name in ("eval/reward", "eval/kl_prior", "eval/entropy", "eval/log_z"):
        assert again[name]["value"] == pytest.approx(before[name]["value"], abs=1e-5)


def test_eval_takes_other_settings(workplace: Workplace, finished: Path) -> None:
    workplace.klvi(
        "eval", f"run={finished}", "evaluation.samples=100", "reward=contains", "reward.text=b",
        "beta=1.0", "out=other.json",
    )  # fmt: skip
    report = json.loads((workplace.folder / "other.json").read_text())
    assert report["metrics"]["eval/reward"]["n"] == 100
    assert report["config"]["reward"]["name"] == "contains"
    assert report["config"]["lora"]["r"] == 4


def test_eval_of_a_prior_alone(workplace: Workplace) -> None:
    workplace.klvi("eval", *[o for o in SMALL if o.split("=")[0] not in TRAIN_ONLY],
                   "reward=contains", "reward.text=b", "out=prior.json")  # fmt: skip
    metrics = json.loads((workplace.folder / "prior.json").read_text())["metrics"]
    assert metrics["eval/kl_prior"]["value"] == pytest.approx(0, abs=1e-9)


TRAIN_ONLY = {"lora.r", "batch_size", "checkpoint.every", "evaluation.every"}


def test_code_of_a_run_from_elsewhere_runs_where_it_is_trusted(
    workplace: Workplace, finished: Path
) -> None:
    theirs = Path(shutil.copytree(finished, workplace.folder / "theirs"))
    code, ran = workplace.folder / "theirs.py", workplace.folder / "ran"
    code.write_text(f"open({str(ran)!r}, 'w')\n{REWARD}")
    config = (finished / "config.yaml").read_text()
    (theirs / "config.yaml").write_text(config.replace("score.py:", "theirs.py:"))
    refused = workplace.klvi("sample", f"run={theirs}", "n=3", code=2)
    assert refused.stderr == (
        f"klvi: error: run={theirs}: reward.function={code}:score is code that this run names, and "
        "you did not make it here, or not as its config.yaml is now; read it, then add trust=true\n"
    )
    assert not ran.exists()
    shown = workplace.klvi("sample", f"run={theirs}", "n=3", "trust=true").stdout
    assert "log π0" in shown
    assert ran.exists()


def test_samples_are_written(workplace: Workplace, finished: Path) -> None:
    workplace.klvi("sample", f"run={finished}", "n=40", "out=texts.jsonl")
    rows = lines(workplace.folder / "texts.jsonl")
    assert len(rows) == 40
    assert all(row["reward"] == pytest.approx(row["text"].count("b") / 3) for row in rows)


def test_an_exported_policy_is_the_policy(workplace: Workplace, finished: Path) -> None:
    workplace.klvi("export", f"run={finished}", "out=merged")
    workplace.klvi("export", "model=enumerable", "model.letters=3", "model.length=3", "out=prior")
    merged = AutoModelForCausalLM.from_pretrained(workplace.folder / "merged").eval()
    prior = AutoModelForCausalLM.from_pretrained(workplace.folder / "prior").eval()
    tokenizer = AutoTokenizer.from_pretrained(workplace.folder / "merged")
    samples = [s for s in lines(finished / "samples.jsonl") if s["update"] == 5][:20]
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(workplace.folder / "prior"), finished / "adapter"
    ).eval()
    for row in samples:
        letters = tokenizer.encode(row["text"], add_special_tokens=False)
        ids = [tokenizer.bos_token_id, *letters]
        if len(letters) < 3:
            ids.append(tokenizer.eos_token_id)
        for model, expected in (
            (merged, row["log_policy"]),
            (adapted, row["log_policy"]),
            (prior, row["log_prior"]),
        ):
            assert log_prob(model, ids) == pytest.approx(expected, abs=1e-3)


@torch.no_grad()
def log_prob(model: torch.nn.Module, ids: list[int]) -> float:
    log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(log_probs[t, token]) for t, token in enumerate(ids[1:]))


def test_export_keeps_what_is_there(workplace: Workplace, finished: Path) -> None:
    (workplace.folder / "full").mkdir()
    (workplace.folder / "full" / "mine.txt").touch()
    result = workplace.klvi("export", f"run={finished}", "out=full", code=2)
    assert "exists and is not empty; choose a new folder" in result.stderr


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(tmp_path: Path, installed_klvi: Path) -> None:
    work = Workplace(tmp_path, installed_klvi)
    whole = work.train("updates=6", run="whole")
    killed = work.train(
        "updates=6", function="dies", run="killed", code=-signal.SIGKILL, process=True
    )
    assert not (killed / "summary.json").exists()
    assert not (killed / "adapter").exists()
    assert (killed / "checkpoints" / "step-4").is_dir()
    work.klvi("resume", f"run={killed}", process=True)
    assert records(killed) == records(whole)
    assert lines(killed / "samples.jsonl") == lines(whole / "samples.jsonl")
    file = "adapter/adapter_model.safetensors"
    assert (killed / file).read_bytes() == (whole / file).read_bytes()
    again = work.klvi("resume", f"run={killed}").stdout
    assert "nothing to resume" in again


@pytest.mark.slow
def test_a_reward_that_fails_stops_the_run_safely(tmp_path: Path, installed_klvi: Path) -> None:
    work = Workplace(tmp_path, installed_klvi)
    run = work.train("objective=gdc", "updates=6", function="breaks", code=2)
    error = work.result.stderr
    assert "reward python (score.py:breaks) returned nan for sample 0: " in error
    assert error.count("\n") == 1
    assert "(update 4)" in error
    assert summary(run)["status"] == "failed"
    assert work.result.stdout.endswith(f"klvi resume run={run}\n")
    assert not (run / "adapter").exists()
    steps = [int(path.name.split("-")[1]) for path in (run / "checkpoints").iterdir()]
    assert sorted(steps) == [2, 3]
    (tmp_path / "mended").touch()
    work.klvi("resume", f"run={run}")
    assert summary(run)["status"] == "finished"


def test_a_folder_with_a_run_is_not_written_over(workplace: Workplace, finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_text()
    workplace.train("objective=kl", "updates=5", run="finished", code=2)
    assert "holds this run, finished; choose another folder" in workplace.result.stderr
    workplace.train("objective=gdc", "updates=5", run="finished", code=2)
    assert "holds another run; choose another folder" in workplace.result.stderr
    assert (finished / "metrics.jsonl").read_text() == before
