"""Tab completion, as bash would ask for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import Klvi


def completions(klvi: Klvi, line: str) -> list[str]:
    result = klvi("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "klvi ",
            [
                *("train", "eval", "sample", "preferences", "reward", "runs", "resume", "export"),
                *("pretrain", "verify", "env"),
            ],
        ),
        ("klvi re", ["reward", "resume"]),
        ("klvi reward d", ["data=", "device="]),
        ("klvi train objective=", ["objective=gdc", "objective=kl", "objective=rl"]),
        ("klvi train objective=gdc objective.base", ["objective.baseline="]),
        ("klvi train -m upd", ["updates="]),
        ("klvi export o", ["out="]),
        ("klvi eval objective", []),
        ("klvi runs sta", ["status="]),
        ("klvi runs status=f", ["status=finished", "status=failed"]),
        ("klvi runs beta=0.1 target=po", ["target=posterior", "target=power"]),
    ],
)
def test_completion(line: str, expected: list[str], klvi: Klvi) -> None:
    assert completions(klvi, line) == expected


def test_bash_completes(installed_klvi: Path, tmp_path: Path) -> None:
    script = (
        'eval "$(klvi -sc install=bash)"; COMP_LINE="klvi train target=po"; COMP_CWORD=2; '
        'COMP_POINT=20; hydra_bash_completion; echo "${COMPREPLY[@]}"'
    )
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={"PATH": f"{installed_klvi.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert result.stdout == "target=posterior target=power\n", result.stderr
