"""What a run was made of: `manifest.json` in its folder, with the digest by which it is known."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from klvi.errors import described
from klvi.files import CONFIG, MANIFEST, digest, kind_of, naming, read_json, read_text, write_whole
from klvi.registry import packages
from klvi.rewards.code import code_files
from klvi.runs.schema import TrainConfig
from klvi.runs.source import checkout
from klvi.runs.trust import signature
from klvi.schema import named_in

PACKAGES = ("klvi", "torch", "transformers", "trl", "peft", "accelerate", "hydra-core")
END = 1 << 16  # bytes at either end of a file in a folder that are looked at


@dataclass(frozen=True)
class Resumed:
    """How a run went on: from which update, and what had changed since it began."""

    update: int
    accepted: Sequence[str]


def write_manifest(
    values: Mapping[str, Any],
    text: str,
    folder: Path,
    facts: Mapping[str, Any],
    resumed: Resumed | None = None,
) -> None:
    """Write the manifest of a run of the configuration `values`, whose `config.yaml` is `text`.

    `facts` are what only the run knows, such as versions and the device. A run that goes on keeps
    when it began, and adds to the list of how it went on.

    Raises RunError where code that the configuration names cannot be read, or the disk refuses it.
    """
    code = {}
    for path in dict.fromkeys(code_files(TrainConfig, values)):
        with naming(path):
            code[str(path)] = digest(path)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    started, history = _history(folder)
    if resumed is not None:
        accepted = list(resumed.accepted)
        again = {"at": now, "update": resumed.update, "changed": accepted, "command": sys.argv}
        history = [*history, again | {"versions": facts.get("versions")}]
    manifest = {
        **facts,
        "packages": packages(),
        "klvi": checkout(),
        "command": sys.argv,
        "started": now if resumed is None else started or now,
        "resumed": [] if resumed is None else history,
        "config": hashlib.sha256(text.encode()).hexdigest(),
        "code": code,
        "files": {key: identity(path) for key, path in named_files(values)},
        "signature": signature(text, code),
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Python and the packages on which the numbers depend, those that add to klvi included."""
    known = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {**known, **packages()}


def _history(folder: Path) -> tuple[str | None, list[Any]]:
    """When the run in a folder began, and how it went on so far, as far as its manifest says."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return None, []
    started, history = manifest.get("started"), manifest.get("resumed")
    return (
        started if isinstance(started, str) else None,
        history if isinstance(history, list) else [],
    )


def changes(folder: Path, values: Mapping[str, Any], now: str) -> list[str]:
    """What is no more as it was when the run in `folder` began, a line each.

    A run of an earlier version, without a manifest, tells of nothing.
    """
    if kind_of(folder / MANIFEST) is None:
        return []
    try:
        manifest = read_json(folder / MANIFEST)
        text = read_text(folder / CONFIG)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or described(error)
        return [f"{MANIFEST} cannot be read ({reason}): it may be another"]
    lines = []
    before = _mapping(manifest, "versions").get("klvi")
    if not isinstance(before, str):
        lines.append(f"klvi's version, which {MANIFEST} does not tell, may be another")
    elif before != now:
        lines.append(f"klvi was {before}, and is {now}")
    for name, recorded in other_packages(manifest).items():
        found = packages().get(name)
        lines.append(f"{name} was {recorded}, and is {found or 'not installed'}")
    if hashlib.sha256(text.encode()).hexdigest() != manifest.get("config"):
        lines.append("its config.yaml is another")
    code = _mapping(manifest, "code")
    for path in dict.fromkeys([*code, *map(str, code_files(TrainConfig, values))]):
        lines += _change(f"code {path}", identity(Path(path)), code.get(path))
    known_files = _mapping(manifest, "files")
    for key, file in named_files(values):
        lines += _change(f"{key}={file}", identity(file), known_files.get(key))
    return lines


def other_packages(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The packages that added to klvi when a run was made, and are not here in that version."""
    recorded = _mapping(manifest, "packages")
    return {name: str(was) for name, was in recorded.items() if was != packages().get(name)}


def _mapping(manifest: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = manifest.get(key)
    return value if isinstance(value, Mapping) else {}


def _change(what: str, now: str | None, before: object) -> list[str]:
    if now == before:
        return []
    if now is None:
        return [f"{what} is gone"]
    return [f"{what} is new" if before is None else f"{what} is another"]


def identity(path: Path) -> str | None:
    """What tells a file or a folder from what it was; None where there is none that can be read.

    Of large files in a folder, such as weights, size and both ends are looked at.
    """
    try:
        if path.is_file():
            return digest(path)
        if not path.is_dir():
            return None
        sha = hashlib.sha256()
        for below in sorted(path.rglob("*")):
            if below.is_file():
                sha.update(f"{below.relative_to(path)}\0{below.stat().st_size}\0".encode())
                with below.open("rb") as file:
                    sha.update(file.read(END))
                    file.seek(max(below.stat().st_size - END, 0))
                    sha.update(file.read(END))
        return sha.hexdigest()
    except OSError:
        return None


def named_files(values: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The files and folders on this machine that a configuration names as data, with their keys."""
    for named in named_in(TrainConfig, values):
        if named.names.kind == "data" and os.path.isabs(str(named.value)):
            yield ".".join(named.keys), Path(named.value)
