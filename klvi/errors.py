"""The one error that users meet: a line that names the culprit and the remedy."""


class UserError(Exception):
    """Something the user can mend; the command line prints it without a traceback and exits with 2.

    `problems` holds one line each; several problems of one configuration are reported together.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems: tuple[str, ...] = problems


class RunError(UserError):
    """What ended a run though nothing was wrong with what it was told to do: exit code 1."""
