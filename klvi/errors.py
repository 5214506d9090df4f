"""The one error that users meet: a line that names the culprit and the remedy."""

import re


class UserError(Exception):
    """Something the user can mend; the command line prints it without a traceback and exits with 2.

    `problems` holds one line each; several problems of one configuration are reported together.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems: tuple[str, ...] = problems

    @property
    def exit_code(self) -> int:
        """What the command returns to the shell."""
        return 2


class RunError(UserError):
    """What ended a run that was asked for correctly, such as memory that ran out: exit code 1."""

    @property
    def exit_code(self) -> int:
        """As of any failed run."""
        return 1


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, without colours; its kind where it says nothing."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = (line.strip() for line in plain.splitlines())
    return next((line for line in lines if line), type(error).__name__)


def described(error: BaseException) -> str:
    """The kind of an exception with the first line of what it says."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"
