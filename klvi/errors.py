"""The one error that users meet: a line that names the culprit and the remedy."""


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
