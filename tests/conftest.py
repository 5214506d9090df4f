"""Fixtures of all tests."""

from __future__ import annotations

import surroundings  # noqa: F401 (before torch and rich)

# isort: split
import gc
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import LENGTH, LETTERS, Enumeration, listed

from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.policy.schema import EnumerableModelConfig, LoraSection


def pytest_collection_finish() -> None:
    """What the libraries made stays, and Python need not look through it for garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture
def enumerable_config() -> EnumerableModelConfig:
    return EnumerableModelConfig(name="enumerable", letters=LETTERS, length=LENGTH)


@pytest.fixture
def policy(enumerable_config: EnumerableModelConfig) -> Policy:
    """A fresh policy on the enumerable prior: equal to it until it is trained."""
    return Policy(load_prior(enumerable_config, kernels="none"), LoraSection(r=8), seed=0)


@pytest.fixture
def enumeration() -> Enumeration:
    return listed()


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    """Thirty prompts: a prompt appears twice, which makes two contexts."""
    words = [f"{x} {y} {z}" for x in "abc" for y in "abcd" for z in "ab"]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([*words, *"abcda", "d d"]) + "\n")
    return file


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Signals as a terminal's command has them, whatever the tests' own parent ignores."""
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The secret by which a run is known is not the user's own, for commands neither."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def installed_klvi() -> Path:
    """The command as users have it."""
    return Path(sys.executable).parent / "klvi"
