"""What a run was made of: `manifest.json` in its folder, with the digest by which it is known."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from klvi.files import digest, naming, write_whole
from klvi.runs.stored import MANIFEST
from klvi.runs.trust import signature


def write_manifest(
    values: Mapping[str, Any], text: str, folder: Path, versions: Mapping[str, str]
) -> None:
    """Write the manifest of a run of the configuration `values`, whose `config.yaml` is `text`.

    Raises RunError where code that the configuration names cannot be read, or the disk refuses it.
    """
    code = {}
    for path in code_files(values):
        with naming(path):
            code[str(path)] = digest(path)
    manifest = {
        "versions": dict(versions),
        "command": sys.argv,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "config": hashlib.sha256(text.encode()).hexdigest(),
        "code": code,
        "signature": signature(text, code),
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def code_files(values: Any) -> Iterator[Path]:
    """The user's Python files that a configuration names as rewards, at any depth."""
    if not isinstance(values, Mapping):
        return
    function = values.get("function")
    if values.get("name") == "python" and isinstance(function, str):
        yield Path(function.rpartition(":")[0]).absolute()
    for below in values.values():
        yield from code_files(below)
