"""The code that a configuration names, found without running any of it.

That is a reward's file, with what lies beside it and is imported, in a function too, by it or by
another of these; and, of a local folder with `trust_remote_code=true`, its Python files and the
configurations that say which code is loaded, those of an adapter's base model included.

Out of reach is what only running it would tell (computed module names, a changed `sys.path`,
`exec`, files read as data) and Python's caches of bytecode. A hub's code is pinned by `revision`,
and what is installed is not a run's own.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib.machinery import SOURCE_SUFFIXES, PathFinder
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from klvi.schema import Named, named_in

IMPORTERS = {"import_module", "__import__"}
LOADED = (".py", "config.json")  # ends of the names of files that say what is run of a model


def code_files(schema: type[BaseModel], values: Mapping[str, Any]) -> Iterator[Path]:
    """The files of all code that a configuration names, at any depth; some may come twice."""
    for named in named_in(schema, values):
        yield from code_of(named)


def code_of(named: Named) -> Iterator[Path]:
    """The files of the code that is named; none where it is no code."""
    if named.names.kind != "code":
        return
    path = named.section.get("path")
    if isinstance(named.value, str):
        file = _absolute(named.value.rpartition(":")[0])
        yield file
        yield from imported(file)
    elif named.value is True and isinstance(path, str):
        yield from _model_code(_absolute(path))


def _absolute(path: str) -> Path:
    return Path(os.path.expanduser(path)).absolute()


def imported(file: Path) -> Iterator[Path]:
    """What lies beside `file` and is imported by it, or by another of these."""
    if not file.is_file():
        return
    importlib.invalidate_caches()
    folder = file.resolve().parent
    found: set[Path] = set()
    left = [(file, "")]
    while left:
        for name in _imports(*left.pop()):
            for module, package in _located(name, folder):
                if module not in found:
                    found.add(module)
                    yield module
                    left.append((module, package))


def _imports(file: Path, package: str) -> Iterator[str]:
    """The absolute names that a module in `package` imports; `a.b` also for b of module a."""
    for name in _written_imports(file):
        try:
            yield importlib.util.resolve_name(name, package)
        except ImportError:  # relative to no package
            continue


def _written_imports(file: Path) -> Iterator[str]:
    if file.suffix not in SOURCE_SUFFIXES or not file.is_file():  # a FIFO would be waited for
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which importing it gives
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # it cannot run, either
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = "." * level + (f"{module}." if module else "")
                yield from (start + alias.name for alias in names)
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called),
                args=[ast.Constant(value=str(name)), *_],
            ) if called in IMPORTERS:
                yield name


def _located(name: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """The files below `folder` that an import of `name` runs, each with its package.

    Like a `UserFile`, it never takes a file for one of Python's own modules, nor for klvi.
    """
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names or parts[0] == "klvi":
        return
    places, package = [str(folder)], ""
    for part in parts:
        spec = PathFinder.find_spec(part, places)
        if spec is None:
            return
        here = f"{package}.{part}" if package else part
        folders = spec.submodule_search_locations
        if spec.loader is not None and spec.origin is not None:
            yield Path(spec.origin), package if folders is None else here
        if folders is None:
            return
        places, package = list(folders), here


def _model_code(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for file in sorted(folder.rglob("*")):
        if file.name.endswith(LOADED) and file.is_file():
            yield file
    base = _base_model(folder / "adapter_config.json")
    above = (*above, folder.resolve())
    if base is not None and base not in above:
        yield from _model_code(base, above)


def _base_model(file: Path) -> Path | None:
    """The folder that an adapter's configuration names; None where that is none."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        base = settings.get("base_model_name_or_path")
    except (OSError, ValueError, RecursionError, AttributeError):
        return None
    if isinstance(base, str) and base and Path(base).is_dir():
        return Path(base).resolve()
    return None
