"""Whether this user made a run here: what the run's folder names is used without asking only then.

A run is signed as it begins, with a secret of this user's. The signature protects `config.yaml` and
the code that the run used: nobody without the secret can make a folder of which klvi takes reward
code, files or a tracking entity unasked, nor change them in one of the user's own. It does not
protect weights, checkpoints, metrics, or the prompts and models that the configuration names:
those are data. Nor does it hold against who can read this user's files or run code as this user.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import platformdirs
from filelock import FileLock

from klvi.files import (
    CONFIG,
    MANIFEST,
    TEMPORARY,
    digest,
    disk_problem,
    open_regular,
    read_json,
    read_text,
)
from klvi.rewards.code import code_files
from klvi.runs.schema import TrainConfig
from klvi.runs.stored import MAX_CONFIG_BYTES, read_config
from klvi.terminal import tell

SECRET, LOCK = "secret", "secret.lock"
PATIENCE = 10.0  # seconds
SECRET_BYTES = 32


def signature(config_text: str, code: Mapping[str, str]) -> str | None:
    """What proves that this user made a run with this `config.yaml` and this code.

    `code` maps absolute paths to their `files.digest`. None, with a warning, where this user's
    secret cannot be kept.
    """
    secret = _secret()
    return None if secret is None else _signed(secret, config_text, code)


def made_here(folder: Path) -> bool:
    """Whether this user made the run in `folder`, and its code is still what it was."""
    return changed_code(folder) == ()


def changed_code(folder: Path) -> tuple[str, ...] | None:
    """The code of a run of this user's that is another by now, or new; None: not this user's.

    A folder that cannot be read is not.
    """
    try:
        config_text = read_text(folder / CONFIG, MAX_CONFIG_BYTES)
        values = read_config(folder)
        manifest = read_json(folder / MANIFEST)
        secret = _kept(_secret_file())
    except (OSError, ValueError):
        return None
    code, given = manifest.get("code"), manifest.get("signature")
    if not isinstance(given, str) or not _is_code(code):
        return None
    # Only what this user signed says which files are read.
    if not hmac.compare_digest(_signed(secret, config_text, code).encode(), _bytes(given)):
        return None
    paths = dict.fromkeys([*code, *map(str, code_files(TrainConfig, values))])
    return tuple(path for path in paths if not _unchanged(path, code.get(path)))


def _is_code(code: object) -> TypeGuard[dict[str, str]]:
    return isinstance(code, dict) and all(isinstance(value, str) for value in code.values())


def _unchanged(path: str, recorded: str | None) -> bool:
    if recorded is None or not os.path.isfile(path):  # a FIFO would be waited for
        return False
    try:
        return hmac.compare_digest(digest(Path(path)).encode(), _bytes(recorded))
    except (OSError, ValueError):
        return False


def _signed(secret: bytes, config_text: str, code: Mapping[str, str]) -> str:
    message = json.dumps([config_text, sorted(code.items())])
    return hmac.new(secret, message.encode(), hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _secret_file() -> Path:
    """Raises OSError without a home: in the folder where klvi happens to run anybody may write."""
    try:
        place = platformdirs.user_state_path("klvi")
    except RuntimeError as error:
        raise OSError(str(error)) from error
    if not place.is_absolute():  # earlier platformdirs
        raise OSError(f"{place} is no absolute path; set HOME or XDG_STATE_HOME")
    return place / SECRET


def _secret() -> bytes | None:
    """This user's secret, made where there is none yet; None, with a warning, without a place."""
    file = None
    try:
        file = _secret_file()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep_private(file.parent)
        if _is_spoilt(file):
            _renew(file)
        elif not os.path.lexists(file):
            _make(file)
        return _kept(file)
    except OSError as error:
        _warn(f"runs are not signed, and ask for trust=true later: {disk_problem(error, file)}")
        return None


def _renew(file: Path) -> None:
    """Make another secret, once for all processes that find this one spoilt."""
    with FileLock(file.with_name(LOCK), timeout=PATIENCE):
        if _is_spoilt(file):
            _warn(f"{file}: is not a file of {SECRET_BYTES} bytes of yours alone; klvi renews it")
            file.unlink()
            _make(file)


def _is_spoilt(file: Path) -> bool:
    """Whether what is there is no secret; one that only cannot be read now is."""
    try:
        state = os.lstat(file)
    except FileNotFoundError:
        return False
    whole = stat.S_ISREG(state.st_mode) and state.st_size == SECRET_BYTES
    return not (whole and _is_private(state))


def _is_private(state: os.stat_result) -> bool:
    return state.st_uid == os.geteuid() and not stat.S_IMODE(state.st_mode) & 0o077


def _keep_private(folder: Path) -> None:
    """Raises OSError for a folder of another user's."""
    state = folder.stat()
    if state.st_uid != os.geteuid():
        raise PermissionError(None, "belongs to another user", str(folder))
    if state.st_mode & 0o077:
        folder.chmod(0o700)


def _make(file: Path) -> None:
    """Make a secret; of two processes that do so at once both find the same afterwards."""
    temporary = file.with_name(TEMPORARY.format(secrets.token_hex(6)))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as new:
            os.fchmod(new.fileno(), 0o600)
            new.write(secrets.token_bytes(SECRET_BYTES))
            new.flush()
            os.fsync(new.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _kept(file: Path) -> bytes:
    """The secret in a file of this user's alone; raises OSError for any other."""
    with os.fdopen(open_regular(file), "rb") as opened:
        secret = opened.read(SECRET_BYTES + 1)
        if _is_private(os.fstat(opened.fileno())) and len(secret) == SECRET_BYTES:
            return secret
    raise OSError(None, f"is not a file of {SECRET_BYTES} bytes of yours alone", str(file))


@functools.cache
def _warn(line: str) -> None:
    """Once per process."""
    tell(f"warning: {line}")
