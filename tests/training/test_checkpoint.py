"""Damaged checkpoints and adapters are named, and the next older one is taken instead."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import assembled, records, train_config

from klvi.commands.context import Context
from klvi.config.stored_run import run_config
from klvi.errors import UserError
from klvi.files.checksums import FILE, damage, write_checksums
from klvi.job import mark_failed
from klvi.policy.policy import Policy
from klvi.runs.assembly import assemble_evaluator, assemble_run
from klvi.runs.load import find_adapter
from klvi.runs.stored import updates_saved
from klvi.training.checkpoint import Checkpoints
from klvi.training.loop import DivergenceError

UPDATES = 3
CONFIG = train_config(
    objective={"name": "gdc"},
    proposal={"name": "adaptive"},
    updates=UPDATES,
    batch_size=16,
    evaluation={"samples": 16, "prior_samples": 16, "every": 9, "ess_floor": 2},
    checkpoint={"every": 1, "keep": UPDATES},
)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip_bit(file: Path, place: int | None = None, bit: int = 4) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3 if place is None else place] ^= 1 << bit
    file.write_bytes(content)


def swap_for_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def swap_for_link(file: Path) -> None:
    copy = file.with_name("copy")
    file.rename(copy)
    file.symlink_to(copy)


DAMAGE: list[Callable[[Path], object]] = [
    *(truncate, empty, Path.unlink, flip_bit, swap_for_fifo, swap_for_link),
]
# Such a file names another, whose checksum it has wrong.
FLIPPED = FILE, flip_bit


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assemble_run(CONFIG, folder).train()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(trained, tmp_path / "run")


def checkpoints(run: Path) -> Checkpoints:
    return Checkpoints(run / "checkpoints")


@pytest.mark.parametrize("spoil", DAMAGE)
def test_whatever_is_damaged_the_next_older_is_taken(
    spoil: Callable[[Path], object], trained: Path, tmp_path: Path, capsys: Any
) -> None:
    names = sorted(path.name for path in (trained / "checkpoints" / "step-3").iterdir())
    assert len(names) > 4
    for name in names:
        run = shutil.copytree(trained, tmp_path / name)
        spoil(run / "checkpoints" / "step-3" / name)
        assert checkpoints(run).newest_whole() == run / "checkpoints" / "step-2"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"klvi: warning: {run}/checkpoints/step-3/")
        assert name in line.removeprefix(f"klvi: warning: {run}") or (name, spoil) == FLIPPED
        assert line.endswith(": step-2 is taken instead")


@pytest.mark.parametrize("spoil", DAMAGE)
def test_whatever_of_an_adapter_is_damaged_the_newest_checkpoint_is_taken(
    spoil: Callable[[Path], object], trained: Path, tmp_path: Path, capsys: Any
) -> None:
    for name in sorted(path.name for path in (trained / "adapter").iterdir()):
        run = shutil.copytree(trained, tmp_path / name)
        spoil(run / "adapter" / name)
        assert find_adapter(run) == run / "checkpoints" / "step-3"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"klvi: warning: {run}/adapter/")
        assert name in line.removeprefix(f"klvi: warning: {run}") or (name, spoil) == FLIPPED
        assert line.endswith(": step-3 is taken instead")


def test_no_flipped_bit_of_the_checksums_themselves_is_overlooked(run: Path) -> None:
    folder = run / "adapter"
    whole = (folder / FILE).read_bytes()
    for place in range(len(whole)):
        flip_bit(folder / FILE, place, place % 8)
        assert damage(folder, required=True) is not None
        (folder / FILE).write_bytes(whole)
    assert damage(folder, required=True) is None


@pytest.mark.parametrize("name", ["state.pt", "adapter_model.safetensors"])
def test_a_run_goes_on_from_the_older_one_as_if_nothing_was(
    name: str, run: Path, trained: Path
) -> None:
    shutil.rmtree(run / "adapter")
    flip_bit(run / "checkpoints" / "step-3" / name)
    truncate(run / "checkpoints" / "step-2" / name)
    (run / "checkpoints" / "step-2" / "notes.txt").touch()
    assemble_run(CONFIG, run).train()
    assert list(records(run)) == list(records(trained))
    assert checkpoints(run).steps() == [1, 2, 3]
    for folder in ("adapter", "checkpoints/step-2", "checkpoints/step-3"):
        assert damage(run / folder, required=True) is None
        theirs = load_file(trained / folder / "adapter_model.safetensors")
        for key, weight in load_file(run / folder / "adapter_model.safetensors").items():
            assert torch.equal(weight, theirs[key])


def test_where_all_are_damaged_each_has_a_line_and_nothing_is_lost(run: Path) -> None:
    for step in (1, 2, 3):
        empty(run / "checkpoints" / f"step-{step}" / "state.pt")
    shutil.rmtree(run / "adapter")
    before = {path: path.is_dir() or path.read_bytes() for path in run.rglob("*")}
    with pytest.raises(UserError) as raised:
        assemble_run(CONFIG, run).train()
    assert len(raised.value.problems) == UPDATES
    assert all("no older checkpoint is whole" in line for line in raised.value.problems)
    assert {path: path.is_dir() or path.read_bytes() for path in run.rglob("*")} == before


def test_what_else_lies_beside_checkpoints_is_none(run: Path) -> None:
    folder = run / "checkpoints"
    for name in ("step-9x", "step-007", "step-٤", "step--5", ".klvi-1.tmp"):
        (folder / name).mkdir()
    (folder / "step-3" / "notes.txt").touch()
    assert checkpoints(run).steps() == [1, 2, 3]
    assert checkpoints(run).newest_whole() == folder / "step-3"


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("step-3"), os.mkfifo])
def test_links_and_fifos_among_checkpoints_are_refused(
    make: Callable[[Path], object], run: Path
) -> None:
    make(run / "checkpoints" / "step-4")
    with pytest.raises(UserError, match=r"checkpoints/step-4 is a (link|FIFO), which klvi neither"):
        run_config(run)


def test_a_damaged_newer_one_is_neither_kept_for_a_whole_one_nor_told_to_be_intact(
    run: Path,
) -> None:
    (run / "checkpoints" / "step-3").rename(run / "checkpoints" / "step-9")
    truncate(run / "checkpoints" / "step-9" / "state.pt")
    loop = assembled(CONFIG)
    kept = Checkpoints(run / "checkpoints", keep=1)
    assert kept.restore_latest(loop) == 2
    loop.step()
    assert kept.save(loop) == kept.newest_whole() == run / "checkpoints" / "step-3"
    assert kept.steps() == [3, 9]
    resumed = assemble_run(CONFIG, run)
    resumed.loop, resumed.checkpoints = loop, kept
    assert str(resumed._diverged(DivergenceError("x"))).endswith("step-3 is intact")


@pytest.mark.parametrize("content", [b"[]", b"{}x", b"\xff", b"[" * 99_999, b'{"vocabulary": 3}'])
def test_an_adapters_own_account_of_its_prior_is_read_as_data(
    content: bytes, trained: Path, tmp_path: Path, policy: Policy
) -> None:
    folder = shutil.copytree(trained / "adapter", tmp_path / "adapter")
    (folder / "prior.json").write_bytes(content)
    with pytest.raises(UserError, match=r"prior\.json|another prior"):
        policy.load_adapter(folder)


def test_checkpoints_that_cannot_be_read_are_not_taken_for_none(tmp_path: Path) -> None:
    """A resume would begin anew, and drop the records; a job that failed would be cleared away."""
    folder = tmp_path / "checkpoints"
    assert Checkpoints(folder).steps() == []
    assert updates_saved(tmp_path) == 0
    folder.touch()
    with pytest.raises(OSError, match="checkpoints"):
        Checkpoints(folder).newest_whole()
    with pytest.raises(OSError, match="checkpoints"):
        updates_saved(tmp_path)
    mark_failed(Context(tmp_path, None, None, ()), "the reason", refused=True)
    assert os.listdir(tmp_path) == ["checkpoints"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("update", "x"), ("update", -5), ("update", 10**9), ("seconds", "x"), ("record", "x")],
)
def test_a_state_of_another_kind_is_one_line(
    name: str, value: object, trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    newest = folder / "checkpoints" / f"step-{UPDATES}"
    state = torch.load(newest / "state.pt", weights_only=True)
    torch.save(state | {name: value}, newest / "state.pt")
    write_checksums(newest)
    loop = assembled(CONFIG)
    with pytest.raises(UserError, match=r"state\.pt: does not fit this version"):
        Checkpoints(folder / "checkpoints").restore_latest(loop)


def test_an_empty_checkpoint_is_none(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    (folder / "checkpoints" / "step-99").mkdir()
    assert updates_saved(folder) == UPDATES


def test_a_pickle_is_not_run_and_nobody_is_told_to(
    trained: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    newest = folder / "checkpoints" / f"step-{UPDATES}"
    (newest / "state.pt").write_bytes(pickle.dumps({"update": Path("x")}, protocol=4))
    write_checksums(newest)
    loop = assembled(CONFIG)
    with pytest.raises(UserError, match=r"state\.pt: holds what klvi does not write there"):
        Checkpoints(folder / "checkpoints").restore_latest(loop)
    assert list(recwarn) == []


def test_an_adapter_of_whole_numbers_is_refused(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained / "adapter", tmp_path / "adapter"))
    file = folder / "adapter_model.safetensors"
    save_file({k: v.view(torch.int32) for k, v in load_file(file).items()}, file)
    policy = assemble_evaluator(CONFIG, adapted=True).policy
    with pytest.raises(UserError, match="whole numbers"):
        policy.load_adapter(folder)


class Forgetful:
    """What a stranger's proposal may keep."""


@pytest.mark.parametrize("kept", [len, Forgetful(), Path("x")])
def test_a_state_that_cannot_be_read_again_is_not_written(
    kept: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = assembled(CONFIG)
    checkpoints = Checkpoints(tmp_path)
    loop.step()
    before = checkpoints.save(loop)
    monkeypatch.setattr(loop.proposal, "state_dict", lambda: {"a": [1.0, {"b": kept}]})
    loop.step()
    kind = type(kept).__name__
    with pytest.raises(UserError, match=rf"^Adaptive: its state\['a'\]\['b'\] holds a {kind}, "):
        checkpoints.save(loop)
    assert os.listdir(tmp_path) == [before.name]
