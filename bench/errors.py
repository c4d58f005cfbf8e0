"""The one exception meant for a person: a sentence that says what is wrong and what to do."""

from __future__ import annotations


class UserError(Exception):
    """A problem the user can mend; the command line prints it as one message and exits with 2.

    Args:
        message: what is wrong, naming the offending value.
        hint: what to do next (optional).
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  -> {hint}" if hint else message)


class RunFailed(UserError):
    """A fit raised or did not finish; its record already holds the traceback."""
