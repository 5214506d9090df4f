"""A package adds a target, a sampler, a proposal and a metric; klvi knows nothing of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

# Each needs the package built and installed, and commands of their own that see it.
pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[1] / "extension"
OWN = Path(__file__).parents[2] / "conf" / "target"
TARGETS = sorted(["mean", *(file.stem for file in OWN.glob("*.yaml"))])
SMALL = [
    *("model=enumerable", "model.letters=3", "model.length=3", "reward=letters"),
    *("evaluation.samples=64", "evaluation.prior_samples=64", "evaluation.ess_floor=2"),
    *("threads=1", "device=cpu"),
]
TRAIN = [
    *("train", *SMALL, "lora.r=4", "batch_size=32", "checkpoint.every=2", "evaluation.every=2"),
    *("objective=gdc", "proposal=buffer", "target=mean", "target.texts=texts.txt"),
    *("target.samples=2000", "reward=python"),
]
TEXTS = "a b\nb b\nc\n"
MEAN = 0.2  # their mean reward
REWARD = '''
import os, signal
from pathlib import Path

rollouts = 0

def score(texts):
    return [text.count("b") / 5 for text in texts]

def dies(texts):
    """Kill the process in the fourth rollout, the first time that it is run.

    Of all that is scored, TEXTS and what the buffer left to be drawn are fewer than a rollout.
    """
    global rollouts
    rollouts += len(texts) < 32
    marker = Path(__file__).with_name("died")
    if rollouts == 4 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return score(texts)
'''
# Several commands in one process: what is slow is to import torch.
DRIVER = """
import json, sys
from klvi.cli import main

for words in json.loads(sys.argv[1]):
    code = main(words)
    print(f"=== {code}", flush=True)
slow = {"torch", "transformers", "trl", "peft", "rich"} & set(sys.modules)
print(f"=== {sorted(slow)}", flush=True)
"""


@dataclass(frozen=True)
class Workplace:
    """A folder in which a user works, and where packages are that were installed for it."""

    folder: Path
    packages: Path
    command: Path

    def klvi(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The installed command."""
        return self._run([str(self.command), *arguments], environment)

    def python(self, *commands: list[str]) -> tuple[list[str], str]:
        """What each of several commands printed, after the exit code of the one before.

        Last comes which of the slow libraries were imported; beside it stands what errors said.
        """
        process = [sys.executable, "-c", DRIVER, json.dumps(commands)]
        result = self._run(process, {})
        assert result.returncode == 0, result.stderr
        return result.stdout.split("=== "), result.stderr

    def _run(
        self, process: list[str], environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        surroundings = {"PYTHONPATH": str(self.packages), "COLUMNS": "160"}
        return subprocess.run(
            process,
            cwd=self.folder,
            env=os.environ | surroundings | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, installed_klvi: Path) -> Workplace:
    """The package built, and installed as a user's own would be."""
    folder = tmp_path_factory.mktemp("extension")
    source = shutil.copytree(SOURCE, folder / "source")  # which building writes to
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    target = f"--target={folder / 'packages'}"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", target, str(wheel)], check=True)
    work = folder / "work"
    work.mkdir()
    (work / "score.py").write_text(REWARD)
    (work / "texts.txt").write_text(TEXTS)
    return Workplace(work, folder / "packages", installed_klvi)


@dataclass(frozen=True)
class Done:
    """What one process did: a run, a sweep, and what was made of the run."""

    folder: Path
    printed: list[str]
    errors: str


@pytest.fixture(scope="module")
def done(workplace: Workplace) -> Done:
    """All that can be done with the package, once."""
    whole = [*TRAIN, "updates=4", "reward.function=score.py:score", "hydra.run.dir=whole"]
    sweep = ["train", "-m", *SMALL, "updates=1", "objective=gdc", "hydra.sweep.dir=sweep"]
    printed, errors = workplace.python(
        whole,
        [*sweep, "target=mean,posterior", "reward=contains", "reward.text=b"],
        ["eval", "run=whole", "seed=5"],
        [
            *("eval", *SMALL, "target=mean", "target.mean=0.2", "sampler=metropolis"),
            *("sampler.chain=128", "evaluation.samples=2048", "out=sampler.json"),
        ],
        ["sample", "run=whole", "sampler=metropolis", "n=16", "out=texts.jsonl"],
        ["env", "model=enumerable", "device=cpu"],
    )
    return Done(workplace.folder, printed, errors)


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_readme_shows_the_package_as_it_is() -> None:
    text = (SOURCE.parents[1] / "README.md").read_text(encoding="utf-8")
    shown = text.partition("in a package of yours**")[2]
    files = (SOURCE / "pyproject.toml", SOURCE / "klvi_example" / "schema.py")
    known = {line.strip() for file in files for line in file.read_text("utf-8").splitlines()}
    blocks = re.findall(r"```(?:toml|python)\n(.*?)```", shown, re.DOTALL)[:2]
    code = {line.split("  #")[0].strip() for block in blocks for line in block.splitlines()}
    assert "class MeanTarget(TargetSection):" in code
    assert code <= known


def test_all_commands_succeed_without_a_word(done: Done) -> None:
    assert [part.split("\n", 1)[0] for part in done.printed[1:-1]] == ["0"] * 6
    assert done.errors == ""


def test_the_runs_configuration_holds_every_field(done: Done) -> None:
    config = yaml.safe_load((done.folder / "whole" / "config.yaml").read_text())
    texts = str(done.folder / "texts.txt")
    assert config["target"] == {"name": "mean", "mean": 0.5, "texts": texts, "samples": 2000}
    assert config["proposal"] == {"name": "buffer", "share": 0.5, "size": 1024}


def test_what_was_fitted_is_measured_exactly(done: Done) -> None:
    """To within 5 standard deviations of a mean over 2000 samples, 0.2 each at most."""
    last = lines(done.folder / "whole" / "metrics.jsonl")[-1]
    assert last["exact/target/reward"] == pytest.approx(MEAN, abs=5 * 0.2 / 2000**0.5)
    assert lines(done.folder / "whole" / "metrics.jsonl")[3]["buffer/reused"] > 0
    assert set(read(done.folder / "whole" / "target.json")["state"]) == {"tilt"}


def test_the_metric_is_estimated_listed_and_shown(done: Done) -> None:
    summary = read(done.folder / "whole" / "summary.json")
    found, exact = summary["metrics"]["eval/stutter"], summary["exact"]["eval/stutter"]
    assert found["low"] < exact < found["high"]
    for printed in done.printed[:2]:  # the run's table, and the sweep's
        assert "stutter" in printed
    assert "tokens twice in a row" in done.printed[2]


def test_a_sweep_goes_over_it(done: Done) -> None:
    for job, name in enumerate(("mean", "posterior")):
        folder = done.folder / "sweep" / str(job)
        assert yaml.safe_load((folder / "config.yaml").read_text())["target"]["name"] == name
        assert read(folder / "summary.json")["status"] == "finished"


def test_eval_of_the_run_reads_what_was_fitted(done: Done) -> None:
    """With another seed it would have been fitted to other samples."""
    last = lines(done.folder / "whole" / "metrics.jsonl")[-1]
    exact = read(done.folder / "whole" / "eval.json")["exact"]
    assert exact["target/reward"] == last["exact/target/reward"]


def test_a_sampler_without_density_is_measured(done: Done) -> None:
    """The mean is the target's to within twice the interval of 95%; the prior's is not."""
    report = read(done.folder / "sampler.json")
    reward = report["metrics"]["eval/reward"]
    width = reward["high"] - reward["low"]
    assert reward["value"] == pytest.approx(report["exact"]["target/reward"], abs=width)
    assert reward["value"] - width > 0.1
    assert reward["n"] == 2048
    assert 0 < report["info"]["metropolis/acceptance"] < 1
    reason = report["metrics"]["eval/entropy"]["reason"]
    assert reason == "Metropolis has no log_density of its samples in closed form"
    assert report["config"]["sampler"] == {"name": "metropolis", "chain": 128}
    assert len(lines(done.folder / "texts.jsonl")) == 16


def test_its_version_is_recorded(done: Done) -> None:
    assert read(done.folder / "whole" / "manifest.json")["packages"] == {"klvi-example": "1.0"}
    for name in ("whole/summary.json", "whole/eval.json"):
        assert read(done.folder / name)["versions"]["klvi-example"] == "1.0"
    assert "klvi-example  1.0\n" in done.printed[5]


def test_a_killed_run_resumes_to_the_same_bits(done: Done, workplace: Workplace) -> None:
    words = [*TRAIN, "updates=4", "reward.function=score.py:dies", "hydra.run.dir=killed"]
    assert workplace.klvi(*words).returncode == -signal.SIGKILL
    whole, killed = done.folder / "whole", done.folder / "killed"
    assert [path.name for path in (killed / "checkpoints").iterdir()] == ["step-2"]
    resumed = workplace.klvi("resume", "run=killed")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    timed = ("time/", "seconds", "tokens_per_second")
    records = [
        [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines(file)]
        for file in (whole / "metrics.jsonl", killed / "metrics.jsonl")
    ]
    assert records[0] == records[1]
    for name in ("adapter/adapter_model.safetensors", "samples.jsonl", "target.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()


@pytest.fixture(scope="module")
def helped(workplace: Workplace) -> list[str]:
    """The help of two commands, what mistakes print, what was imported, and the errors."""
    printed, errors = workplace.python(
        ["train", "--help"],
        ["eval", "--help"],
        ["train", *SMALL, "target=mean", "target.maen=1", "target.samples=1"],
        ["train", *SMALL, "target=maen", "proposal=bufer"],
    )
    return [*printed, errors]


def test_help_names_it_without_torch(helped: list[str]) -> None:
    train, evaluate, *codes, imported, _ = helped
    assert f"  target                  {', '.join(TARGETS)}  [posterior]\n" in train
    assert "  proposal                adaptive, buffer, mixture, policy  [policy]\n" in train
    assert "  sampler                 ancestral, metropolis  [ancestral]\n" in evaluate
    assert codes == ["0\n", "2\n", "2\n"]
    assert imported == "[]\n"


def test_mistakes_in_it_are_told_like_any(helped: list[str]) -> None:
    assert helped[-1].splitlines() == [
        f"klvi: error: {line}"
        for line in (
            "target.maen: unknown key; did you mean target.mean?",
            "target.samples=1: must be a whole number, at least 2 and at most 1,000,000",
            f"target=maen: must be one of {', '.join(TARGETS)}; did you mean mean?",
            "proposal=bufer: must be one of adaptive, buffer, mixture, policy; did you mean "
            "buffer?",
        )
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("klvi train target=", [f"target={name}" for name in TARGETS]),
        ("klvi eval sampler=metropolis sampler.ch", ["sampler.chain="]),
    ],
)
def test_tabs_complete_it(line: str, expected: list[str], workplace: Workplace) -> None:
    result = workplace.klvi("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert (result.stdout.split(), result.stderr) == (expected, "")


def test_a_run_without_its_package_says_which(done: Done, workplace: Workplace) -> None:
    result = workplace.klvi("eval", "run=whole", PYTHONPATH="")
    assert result.returncode == 2
    assert result.stderr == (
        "klvi: error: run=whole: no installed package has target=mean and proposal=buffer; "
        "install klvi-example 1.0, with which the run was made\n"
    )


def test_files_that_it_names_are_asked_about(done: Done, workplace: Workplace) -> None:
    shutil.copytree(done.folder / "whole", done.folder / "theirs", dirs_exist_ok=True)
    config = (done.folder / "whole" / "config.yaml").read_text()
    (done.folder / "theirs" / "config.yaml").write_text(config.replace("seed: 0", "seed: 1"))
    texts = done.folder / "texts.txt"
    (function, named) = workplace.klvi("eval", "run=theirs").stderr.splitlines()
    assert "reward.function=" in function
    assert named == (
        f"klvi: error: run=theirs: target.texts={texts} is a file or folder that this run names, "
        "and you did not make it here, or not as its config.yaml is now; read it, then add "
        "trust=true"
    )


def test_files_and_versions_that_are_others_are_told(
    done: Done, workplace: Workplace, tmp_path: Path
) -> None:
    packages = Path(shutil.copytree(workplace.packages, tmp_path / "packages"))
    (info,) = packages.glob("*.dist-info")
    metadata = (info / "METADATA").read_text().replace("\nVersion: 1.0\n", "\nVersion: 1.1\n")
    (info / "METADATA").write_text(metadata)
    texts = done.folder / "texts.txt"
    texts.write_text("a\n")
    told = workplace.klvi("resume", "run=whole", "updates=6", PYTHONPATH=str(packages))
    texts.write_text(TEXTS)
    since = "since the run began; to go on with it all the same, add changed=true"
    assert (told.returncode, told.stderr.splitlines()) == (
        2,
        [
            f"klvi: error: run=whole: klvi-example was 1.0, and is 1.1 {since}",
            f"klvi: error: run=whole: target.texts={texts} is another {since}",
        ],
    )


@pytest.mark.parametrize(
    ("group", "entry", "code", "why"),
    [
        (
            *("klvi.targets", "mean = broken:Mean", "import gone\n"),
            "ModuleNotFoundError: No module named 'gone'",
        ),
        ("klvi.targets", "mean = broken:Mean", "Mean = dict\n", "it is no TargetSection"),
        (
            *("klvi.targets", "posterior = klvi.targets.schema:PosteriorTarget", ""),
            "klvi has a target of that name",
        ),
        ("klvi.conf", "mine = broken", "", "it is no package, whose folder could hold YAML files"),
    ],
)
def test_a_broken_package_is_left_out(
    group: str, entry: str, code: str, why: str, workplace: Workplace, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(code)
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
    result = workplace.klvi("train", "--dry-run", PYTHONPATH=str(tmp_path))
    warning = f"klvi: warning: {group}: {entry} is left out: {why}\n"
    assert (result.returncode, result.stderr) == (0, warning)
    assert result.stdout == "klvi train: no problem found; nothing was run\n"
