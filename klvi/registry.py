"""The members of config groups: klvi's own, and those of installed packages.

A package adds a member to a group by an entry point that names the member's section, and the
folder of its YAML files by one in the group `klvi.conf`:

    [project.entry-points."klvi.targets"]
    mine = "mine.schema:MineTarget"

    [project.entry-points."klvi.conf"]
    mine = "mine.conf"

Nothing here imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any, TypeVar, cast, get_args

from klvi.errors import UserError
from klvi.spelling import suggestion
from klvi.terminal import tell

# The common section of a group, which is a `klvi.schema.Choice`.
C = TypeVar("C", bound=Hashable)

CONF = "klvi.conf"


@cache
def members(base: type[Any]) -> list[type[Any]]:
    """The sections of a group, klvi's own first; `base` is the group's common section."""
    importlib.import_module(base.__module__)
    own = [section for section in _below(base) if section.__module__ == base.__module__]
    taken = {name_of(section) for section in own}
    for point, section in plugins(f"klvi.{base.group_name.rstrip('s')}s"):
        if not (isinstance(section, type) and issubclass(section, base)):
            _warn(point, f"it is no {base.__name__}")
        elif not _names_itself(section):
            _warn(point, 'it has no name: Literal["…"], by which it is chosen')
        elif not hasattr(section, "builds"):
            _warn(point, "it does not say what it builds, as module:name")
        elif name_of(section) in taken:
            _warn(point, f"klvi has a {base.group_name} of that name")
        else:
            own.append(section)
            taken.add(name_of(section))
    return own


def plugins(group: str) -> Iterator[tuple[EntryPoint, Any]]:
    """What installed packages provide under `group`; what cannot be imported is warned of."""
    for point in entry_points(group=group):
        try:
            yield point, point.load()
        except Exception as error:  # of somebody else's package, which klvi can do without
            _warn(point, f"{type(error).__name__}: {error}")


@cache
def conf_folders() -> tuple[str, ...]:
    """The folders of YAML files that installed packages provide."""
    folders: list[str] = []
    for point, package in plugins(CONF):
        # Of a namespace package, as a folder without __init__.py is, there may be several.
        places = getattr(package, "__path__", None)
        if places is None:
            _warn(point, "it is no package, whose folder could hold YAML files")
        else:
            folders += map(str, places)
    return tuple(folders)


@cache
def packages() -> Mapping[str, str]:
    """The installed packages that add anything to klvi, with their versions."""
    found: dict[str, str] = {}
    for package in distributions():
        if any(point.group.startswith("klvi.") for point in package.entry_points):
            found.setdefault(package.name, package.version)
    return found


def has_no_file(group: str, name: str) -> str | None:
    """What a package with a member of that name lacks, where there is no YAML file of it."""
    points = entry_points(group=f"klvi.{group.rstrip('s')}s", name=name)
    return next(
        (f"{p.value} has no {group}/{name}.yaml in a folder of {CONF}" for p in points), None
    )


def _names_itself(section: type[Any]) -> bool:
    return bool(get_args(section.model_fields["name"].annotation))


def name_of(section: type[Any]) -> str:
    """The `name` by which a member is chosen."""
    return str(get_args(section.model_fields["name"].annotation)[0])


def member_for(base: type[C], thing: object) -> type[C] | None:
    """The section of a group that describes `thing`, by its class; None where none does."""
    sections = {_class_place(s): s for s in members(base) if hasattr(s, "builds")}
    places = (f"{kind.__module__}:{kind.__name__}" for kind in type(thing).__mro__)
    found = (sections[place] for place in places if place in sections)
    return cast("type[C] | None", next(found, None))


def described(package: str, name: str) -> Any:
    """The class of a room that one of its sections describes, imported when it is asked for.

    Raises AttributeError where none does.
    """
    if name == "__all__":
        return names_described(package)
    found = _described_in(package) if name[:1].isupper() else {}
    if name not in found:
        near = suggestion(name, found)
        raise AttributeError(f"module {package!r} has no attribute {name!r}{near}")
    return getattr(importlib.import_module(found[name]), name)


def names_described(package: str) -> list[str]:
    """The names that a room gives a notebook: the classes that its sections describe."""
    return sorted(_described_in(package))


def _described_in(package: str) -> dict[str, str]:
    """The classes that the sections of a room's schema describe, with their modules."""
    schema = importlib.import_module(f"{package}.schema")
    kinds = [kind for kind in vars(schema).values() if isinstance(kind, type)]
    groups = [kind for kind in kinds if "group_name" in vars(kind)]
    sections = [section for group in groups for section in members(group)]
    places = [_class_place(s).partition(":") for s in sections if hasattr(s, "builds")]
    return {name: module for module, _, name in places}


def _class_place(section: type[Any]) -> str:
    """Module and class of what a section builds, which may be a method of the class."""
    module, _, path = section.builds.partition(":")
    return f"{module}:{path.partition('.')[0]}"


def build(section: Any, **given: Any) -> Any:
    """The object that a section describes.

    What it `builds` is called with the section's fields, nested sections built first, and with
    those of `given` that its signature takes; a nested section's own fields stand before these.
    """
    return _build(section, given)


def _build(section: Any, given: Mapping[str, Any], *, nested: bool = False) -> Any:
    import inspect

    found = _found(section)
    signature = inspect.signature(found)
    settings = {key: _built(value, given) for key, value in section.settings().items()}
    taken = signature.parameters.keys() - (settings.keys() if nested else ())
    passed = {key: value for key, value in given.items() if key in taken}
    try:
        signature.bind(**settings, **passed)
    except TypeError as error:
        raise UserError(
            f"{_place(section)}: {section.builds} does not take the fields of its section "
            f"({', '.join(settings) or 'none'}) and what klvi gives ({', '.join(passed) or 'none'}"
            f"): {error}"
        ) from error
    return found(**settings, **passed)


def _found(section: Any) -> Any:
    """What a section `builds`; raises UserError where there is no such thing."""
    module, _, path = section.builds.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{_place(section)}: its section builds {section.builds}, which cannot be had: {error}"
        ) from error
    return found


def _place(section: Any) -> str:
    group = getattr(type(section), "group_name", None)
    return f"{group}={section.name}" if group else type(section).__name__


def _built(value: Any, given: Mapping[str, Any]) -> Any:
    if hasattr(value, "builds"):
        return _build(value, given, nested=True)
    if isinstance(value, dict):
        return {key: _built(below, given) for key, below in value.items()}
    return value


def _below(base: type[Any]) -> Iterator[type[Any]]:
    for section in base.__subclasses__():
        if "name" in section.model_fields and get_args(section.model_fields["name"].annotation):
            yield section
        yield from _below(section)


def _warn(point: EntryPoint, why: str) -> None:
    tell(f"warning: {point.group}: {point.name} = {point.value} is left out: {why}")
