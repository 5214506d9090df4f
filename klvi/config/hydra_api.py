"""Hydra, 1.3.7 to 1.4: its calls that differ between the two, and klvi's source of YAML files.

A file of a config group, or of a command, is read with the defaults of its section in it, so that
the YAML states only what differs, and every key can be set on the command line.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

Fill = Callable[[str, dict[str, Any], bool], dict[str, Any]]

SCHEME = "klvi"
IS_13 = hydra.__version__.startswith("1.3.")
# 1.3 warns where it is not told whose behaviour to have, 1.4 where it is.
_VERSION: dict[str, Any] = {"version_base": "1.3"} if IS_13 else {}


def register_resolver(name: str, resolver: Callable[..., Any], *, use_cache: bool = False) -> None:
    """Give interpolations `${name:…}` a meaning; `_root_`, `_parent_` are the configuration's."""
    if IS_13:
        OmegaConf.register_new_resolver(name, resolver, replace=True, use_cache=use_cache)
    else:
        register: Callable[..., None] = getattr(OmegaConf, "register_resolver")  # noqa: B009
        register(name, resolver, replace=True, use_cache=use_cache, annotation_validation="off")


def store_config(name: str, node: dict[str, Any]) -> None:
    """Let Hydra find a primary config called `name`, instead of an earlier one of that name."""
    replace: dict[str, Any] = {} if IS_13 else {"replace": True}
    ConfigStore.instance().store(name=name, node=node, **replace)


# Groups without a folder of their own, with the group that they choose among.
ALIASES = {"gold": "reward"}


class FilledSource(ConfigSource):
    """A folder of YAML files, each with the defaults of its section in it."""

    fill: Fill

    @staticmethod
    def scheme() -> str:
        """As in `klvi:///folder`."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """The file, its section filled; raises ConfigLoadError where there is none."""
        file = self._file(config_path)
        if not file.is_file():
            raise ConfigLoadError(f"{file}: no such file")
        text = file.read_text(encoding="utf-8")
        header = self._get_header_dict(text)
        raw: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        if not isinstance(raw, dict):
            raise ConfigLoadError(f"{file}: not a mapping of keys to values")
        filled = type(self).fill(config_path, raw, header.get("package") == "_global_")
        return ConfigResult(
            config=OmegaConf.create(filled),
            path=self.full_path(),
            provider=self.provider,
            header=header,
        )

    def available(self) -> bool:
        """Whether the folder is there."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Whether there is a folder of that name."""
        return self._folder(config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        """Whether there is a file of that name."""
        return self._file(config_path).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The names of files, or folders, in a folder."""
        found: list[str] = []
        names = set(os.listdir(self._folder(config_path)))
        if not config_path:
            names |= {alias for alias, group in ALIASES.items() if group in names}
        for name in sorted(names):
            path = os.path.join(config_path, name)
            self._list_add_result(found, path, name, results_filter)
        return sorted(set(found))

    def _folder(self, config_path: str) -> Path:
        group, slash, rest = config_path.partition("/")
        return Path(self.path, f"{ALIASES.get(group, group)}{slash}{rest}")

    def _file(self, config_path: str) -> Path:
        return self._folder(str(self._normalize_file_name(config_path)))


class _Folders(SearchPathPlugin):
    """Puts klvi's folders of YAML files, those of packages, and the user's, on Hydra's path."""

    folders: tuple[str, ...] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Have the main folder read by `FilledSource`, and further ones after it."""
        for element in search_path.get_path():
            if element.provider == "main":
                element.path = f"{SCHEME}://{str(element.path).removeprefix('file://')}"
        for folder in self.folders:
            search_path.append("klvi", f"{SCHEME}://{folder}")


def read_with(fill: Fill) -> None:
    """Have all files that Hydra reads from now on filled by `fill(path, values, is_global)`."""
    FilledSource.fill = staticmethod(fill)
    if FilledSource not in Plugins.instance().discover(ConfigSource):
        Plugins.instance().register(FilledSource)
        Plugins.instance().register(_Folders)


def further_folders(*folders: str) -> None:
    """Where YAML files are found beside the main folder."""
    _Folders.folders = folders


@contextlib.contextmanager
def initialised(folder: Path) -> Iterator[Any]:
    """Within, a Hydra that composes from `folder`: with `compose_config` and `config_loader`."""
    with initialize_config_dir(str(folder), job_name="klvi", **_VERSION):
        yield GlobalHydra.instance().hydra


def application(task: Callable[[Any], Any], folder: Path, config_name: str) -> Callable[[], Any]:
    """Hydra's own command line, from `sys.argv`, around `task`."""
    main: Callable[[], Any] = hydra.main(
        config_path=str(folder), config_name=config_name, **_VERSION
    )(task)
    return main
