"""What a run's folder holds, read as data: whoever made the folder, nothing in it is acted upon."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from klvi.files import CONFIG, MANIFEST, kind_of, names_in, read_text, write_whole

MAX_CONFIG_BYTES = 1 << 20  # bytes
DEEPEST = 50
END = "\n..."  # YAML's end of a document: what lacks it was cut short
YAML_TAG = "tag:yaml.org,2002:"
PLAIN = {YAML_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null")}
# YAML 1.1 takes 1e-4 as a text; people, and OmegaConf, as a number.
FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9_]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)


class _Dumper(yaml.SafeDumper):
    """Writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Plain(yaml.composer.Composer):
    """Reads texts, numbers, truth values and null in mappings and lists, and nothing else."""

    peek_event: Any
    construct_object: Any

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.MarkedYAMLError(problem="has an anchor", problem_mark=event.start_mark)
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in PLAIN:
            raise yaml.MarkedYAMLError(problem=f"has the tag {tag}", problem_mark=event.start_mark)
        if self.depth == DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """With every key as the text that it is, once."""
        mapping: dict[Any, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in mapping:
                problem = "has a key twice, or one that is no text"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            mapping[key.value] = self.construct_object(value, deep=True)
        return mapping


class _Loader(_Plain, yaml.SafeLoader):
    """In Python throughout."""


_loaders: list[Any] = [_Loader]
if yaml.__with_libyaml__:

    class _Fast(_Plain, yaml.CSafeLoader):
        """With libyaml's parser: six times as fast, and without halves of surrogate pairs."""

        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            yaml.composer.Composer.__init__(self)

    _loaders.insert(0, _Fast)

for _class in _loaders:
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in PLAIN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
for _class in (*_loaders, _Dumper):
    _class.add_implicit_resolver(YAML_TAG + "float", FLOAT, list("-+.0123456789"))


def write_config(values: Mapping[str, Any], directory: Path) -> str:
    """Write a run's `config.yaml`: enough to run it again; returns its text.

    Raises RunError where the disk refuses it.
    """
    text: str = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, explicit_end=True)
    write_whole(directory / CONFIG, text)
    return text


def read_config(folder: Path) -> dict[str, Any]:
    """What a run's `config.yaml` says, word for word: nothing is interpolated or constructed.

    Raises OSError where it cannot be read, and ValueError where it is not a whole one.
    """
    text = read_text(folder / CONFIG, MAX_CONFIG_BYTES)
    # Earlier versions wrote neither manifests nor the end.
    if not text.rstrip().endswith(END) and kind_of(folder / MANIFEST) is not None:
        raise ValueError("it is cut short: its last line, ..., is missing")
    try:
        values = _values(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except LookupError as error:  # of PyYAML's own, as for !!bool maybe
        raise ValueError(f"a value is not of the kind that its tag says ({error})") from error
    if not isinstance(values, dict):
        raise ValueError("not a mapping of keys to values")
    return values


def _values(text: str) -> Any:
    """What the one document of a YAML text says; what the fast loader refuses is tried again."""
    for loader in _loaders[:-1]:
        with contextlib.suppress(yaml.YAMLError, LookupError):
            return loader(text).get_single_data()
    last = _loaders[-1](text)
    last.name = CONFIG
    return last.get_single_data()


def updates_saved(folder: Path) -> int:
    """The updates of a run's newest checkpoint; 0 without one, and where there are links.

    Raises OSError where that cannot be told.
    """
    checkpoints = folder / "checkpoints"
    if kind_of(checkpoints) == "a link":
        return 0
    steps = [name for name in names_in(checkpoints) if re.fullmatch(r"step-[1-9][0-9]*", name)]
    steps = [name for name in steps if kind_of(checkpoints / name) == "a folder"]
    saved = [name for name in steps if names_in(checkpoints / name)]  # an empty one is none
    return max((int(name.removeprefix("step-")) for name in saved), default=0)


def escaped(value: Any) -> Any:
    """A stored value so that OmegaConf, which resolves it, gives back what it was."""
    if isinstance(value, Mapping):
        return {key: escaped(below) for key, below in value.items()}
    if isinstance(value, list):
        return [escaped(below) for below in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    return value
