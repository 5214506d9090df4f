"""Import this before torch and rich: the surroundings of all tests are then the same."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

UNWANTED = ("COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "LANG", "LANGUAGE")
UNWANTED_KINDS = (
    "PYTHONUTF8",
    "PYTHONIOENCODING",
    "LC_",
    "WANDB_",
    "HF_",
    "KLVI",
    "XDG_",
    "HYDRA_",
)


def leave_the_surroundings() -> None:
    """Give tests, and the commands that they run, the same environment everywhere."""
    for name in list(os.environ):
        if name in UNWANTED or name.startswith(UNWANTED_KINDS):
            del os.environ[name]
    state = tempfile.mkdtemp(prefix="klvi-tests-")
    atexit.register(shutil.rmtree, state, ignore_errors=True)
    # Torch's threads wait by spinning, which slows two processes on two cores many times over.
    os.environ.update(LANG="C.UTF-8", XDG_STATE_HOME=state, OMP_NUM_THREADS="1")
    os.umask(0o022)
    # A command inherits that a signal is ignored, as under nohup, but not a handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


leave_the_surroundings()
