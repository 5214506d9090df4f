"""The lock on a folder while klvi writes in it: held by a live process, also seen over NFS."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil
from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from klvi.errors import RunError, UserError
from klvi.files import kind_of, naming, read_text, write_whole

LOCK, OWNER = ".klvi.lock", ".klvi.owner"
# The holder touches the lock three times as often; one that has not for so long is dead.
LEASE = 60.0
PATIENCE = 2 * LEASE
POLL = 0.5
# Where a scheduler tells a job's number, that of an array's task first.
JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")


class LostLockError(RunError):
    """The folder is another process's now: whatever is in it must be left alone."""


@dataclass(frozen=True)
class Owner:
    """Who writes in a folder: a process of a host, as a job of a scheduler or by hand."""

    host: str
    process: int
    job: str | None
    since: str

    @staticmethod
    def here() -> Owner:
        """The present process."""
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return Owner(socket.gethostname(), os.getpid(), present_job(), since)

    @property
    def runs_here(self) -> bool:
        """Whether it is seen to run on this host; one that is dying does not."""
        if self.host != socket.gethostname():
            return False
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(self.process).status() != psutil.STATUS_ZOMBIE)
        return False

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.process} on {self.host}{job}, since {self.since}"


def present_job() -> str | None:
    """The number of the scheduler's job in which this process runs; None outside of one."""
    return next((os.environ[name] for name in JOBS if os.environ.get(name)), None)


class FolderLock:
    """A folder's lock, which this process holds until `release`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # One object for all threads, and none that another lock of this process shares.
        self._lease = SoftFileLease(
            folder / LOCK, lease_duration=LEASE, thread_local=False, is_singleton=False
        )

    def acquire(self, tell: Callable[[str], None]) -> None:
        """Take the lock, at once where its owner is dead; `tell` hears why it takes longer.

        The owner on another host is watched: one that gives no sign of life for a minute is dead.
        A job that was requeued waits for what is left of itself.

        Raises UserError where a live process holds it, and RunError where the disk refuses it.
        """
        with naming(self._folder):
            if self._try():
                return
            owner, sign = read_owner(self._folder), self._sign_of_life()
            own_job = owner is not None and owner.job is not None and owner.job == present_job()
            if owner is not None and owner.runs_here and not own_job:
                raise self._refusal(owner)
            tell(f"{self._folder}: waiting whether {owner or 'another klvi'} is still at it")
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                time.sleep(POLL)
                if self._try():
                    return
                now = self._sign_of_life()
                if now is not None and now != sign and not own_job:
                    break
                sign = now
        raise self._refusal(owner)

    def check(self) -> None:
        """Raises LostLockError where another took it, as of a process that slept for minutes.

        Also where the folder was removed or renamed: it must not come to be again.
        """
        lost = self._lease.compromise
        if lost is not None and lost.reason != "marker-missing":
            owner = read_owner(self._folder)
            raise LostLockError(
                f"{self._folder}: this process was still for so long that {owner or 'another'} "
                "took the folder over; nothing more is written"
            )
        if lost is not None or not os.path.lexists(self._folder / LOCK):
            raise LostLockError(
                f"{self._folder}: was moved or removed, or the lock in it, while this process "
                "wrote there; nothing more is written"
            )

    def release(self) -> None:
        """Give the lock back."""
        with contextlib.suppress(OSError):
            if self._lease.compromise is None:
                (self._folder / OWNER).unlink(missing_ok=True)
            self._lease.release()

    def _try(self) -> bool:
        if kind_of(self._folder / LOCK) not in {None, "a file"}:
            raise UserError(f"{self._folder / LOCK}: is no file; choose another folder")
        try:
            self._lease.acquire(timeout=0)
        except (Timeout, LeaseSettingsMismatch):
            return False
        owner = json.dumps(asdict(Owner.here()))
        write_whole(self._folder / OWNER, f"{owner}\n")
        return True

    def _sign_of_life(self) -> int | None:
        with contextlib.suppress(OSError):
            return os.stat(self._folder / LOCK).st_mtime_ns
        return None

    def _refusal(self, owner: Owner | None) -> UserError:
        who = owner or "another klvi"
        return UserError(f"{self._folder}: {who} writes in it; wait for its end, or stop it")


def read_owner(folder: Path) -> Owner | None:
    """Who holds a folder's lock, as far as it is told."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        return Owner(**json.loads(read_text(folder / OWNER, largest=1 << 12)))
    return None


def is_held(folder: Path) -> bool:
    """Whether somebody seems to write in a folder, as far as can be told without taking part."""
    try:
        touched = os.lstat(folder / LOCK).st_mtime
    except OSError:
        return False
    owner = read_owner(folder)
    if owner is not None and owner.host == socket.gethostname():
        return owner.runs_here
    return time.time() - touched < PATIENCE


@contextlib.contextmanager
def locked(folder: Path, tell: Callable[[str], None]) -> Iterator[FolderLock]:
    """Within, this process alone writes in `folder`; see `FolderLock.acquire`."""
    lock = FolderLock(folder)
    lock.acquire(tell)
    try:
        yield lock
    finally:
        lock.release()
