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

from klvi.files import TEMPORARY, digest, disk_problem, open_regular, read_text
from klvi.runs.stored import CONFIG, LARGEST_CONFIG, MANIFEST, read_json
from klvi.terminal import tell

SECRET = "secret"
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
    """The code of a run of this user's that is another by now, by its path; None: not this user's.

    A folder that cannot be read is not.
    """
    try:
        config_text = read_text(folder / CONFIG, LARGEST_CONFIG)
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return None
    secret = _kept(_secret_file())
    code, given = manifest.get("code"), manifest.get("signature")
    if secret is None or not isinstance(given, str) or not _is_code(code):
        return None
    # Only what this user signed says which files are read.
    if not hmac.compare_digest(_signed(secret, config_text, code).encode(), _bytes(given)):
        return None
    return tuple(path for path, recorded in code.items() if not _unchanged(path, recorded))


def _is_code(code: object) -> TypeGuard[dict[str, str]]:
    return isinstance(code, dict) and all(isinstance(value, str) for value in code.values())


def _unchanged(path: str, recorded: str) -> bool:
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
    return platformdirs.user_state_path("klvi") / SECRET


def _secret() -> bytes | None:
    """This user's secret, made where there is none yet; None, with a warning, without a place."""
    file = _secret_file()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep_private(file.parent)
        if os.path.lexists(file) and _kept(file) is None:
            _warn(f"{file}: is not a file of {SECRET_BYTES} bytes of yours alone; klvi renews it")
            file.unlink()
        if not os.path.lexists(file):
            _make(file)
        secret = _kept(file)
    except OSError as error:
        _warn(f"runs are not signed, and ask for trust=true later: {disk_problem(error, file)}")
        return None
    if secret is None:
        _warn(f"runs are not signed, and ask for trust=true later: {file} is not yours alone")
    return secret


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


def _kept(file: Path) -> bytes | None:
    """The secret in a file of this user's alone; None for any other."""
    try:
        descriptor = open_regular(file)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as opened:
        state = os.fstat(opened.fileno())
        if state.st_uid != os.geteuid() or stat.S_IMODE(state.st_mode) & 0o077:
            return None
        secret = opened.read(SECRET_BYTES + 1)
    return secret if len(secret) == SECRET_BYTES else None


@functools.cache
def _warn(line: str) -> None:
    """Once per process."""
    tell(f"warning: {line}")
