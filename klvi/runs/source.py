"""Which klvi runs: the commit of its checkout, where it is one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import klvi

TIMEOUT = 10.0


def checkout() -> dict[str, Any] | None:
    """The commit, and whether tracked files differ from it.

    None where klvi is an installed package, and where git is missing or refuses to tell.
    """
    root = Path(klvi.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(root: Path, *arguments: str) -> str:
    """What git says of klvi's own checkout, whatever repository the user is in."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    found = subprocess.run(
        ["git", "-C", str(root), "--no-optional-locks", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    return found.stdout.decode().strip()
