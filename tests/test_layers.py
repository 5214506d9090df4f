"""Dependencies point one way, and TRL has one door."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import klvi

ROOT = Path(klvi.__file__).parent
# A room imports from itself, from those in earlier rows, and every room's schema, without torch.
LAYERS = [
    {"errors", "contexts", "conf", "spelling", "bounds"},
    {"files", "terminal", "interruption"},
    {"registry"},
    {"schema"},
    {"console", "quoting"},
    {"samples", "timing", "randomness", "processes"},
    {"metrics"},
    {"engine"},
    {"policy"},
    {"prompts", "rewards"},
    {"targets"},
    {"samplers"},
    {"objectives"},
    {"evaluation"},
    {"training"},
    {"tracking"},
    {"runs"},
    {"pretraining"},
    {"reports"},
    {"verification"},
    {"config"},
    {"notebook"},
    {"commands"},
    {"job"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def modules() -> Iterator[tuple[str, Path]]:
    for file in sorted(ROOT.rglob("*.py")):
        part = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if part != "__init__":
            yield part, file


def test_every_package_has_a_layer() -> None:
    assert {part for part, _ in modules()} <= set(RANK)


def test_dependencies_point_one_way() -> None:
    wrong = []
    for part, file in modules():
        for name in imports(file):
            if not name.startswith("klvi."):
                continue
            imported = name.split(".")[1]
            if name.count(".") == 2 and name.endswith(".schema"):
                continue
            if imported != part and RANK[imported] >= RANK[part]:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_a_room_opens_its_own_doors_alone() -> None:
    for file in ROOT.glob("*/**/__init__.py"):
        own = ".".join(("klvi", *file.parent.relative_to(ROOT).parts))
        others = [name for name in imports(file) if name.startswith("klvi.")]
        assert all(name == "klvi.registry" or name.startswith(f"{own}.") for name in others), file


def test_metrics_know_tensors_alone() -> None:
    own = {"klvi.metrics", "klvi.samples", "klvi.errors", "klvi.terminal"}
    known = own | {"torch", "numpy", "scipy"}
    standard = sys.stdlib_module_names
    for file in (ROOT / "metrics").glob("*.py"):
        for name in imports(file):
            head = name.split(".")[0]
            assert head in standard | known or any(name.startswith(k) for k in known), (file, name)


def test_trl_has_one_door() -> None:
    importers = {
        str(file.relative_to(ROOT))
        for _, file in modules()
        for name in imports(file)
        if name.split(".")[0] == "trl"
    }
    assert importers == {"training/trl/ppo.py", "training/trl/reward.py"}


def test_commands_and_configuration_import_no_torch() -> None:
    for part in ("config", "commands"):
        for file in (ROOT / part).glob("*.py"):
            top = ast.parse(file.read_text(encoding="utf-8")).body
            names = [
                name
                for node in top
                if isinstance(node, ast.Import | ast.ImportFrom)
                for name in ([a.name for a in node.names] + [getattr(node, "module", None) or ""])
            ]
            heavy = ("torch", "transformers", "peft", "klvi.policy", "klvi.engine", "klvi.training")
            heavy_names = [n for n in names if n.startswith(heavy) and not n.endswith(".schema")]
            assert not heavy_names, file
