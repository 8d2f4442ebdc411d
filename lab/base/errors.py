"""The one exception that reaches the user as a single line and exit code 2."""


class UserError(Exception):
    """Wrong input. The message is one line: what is wrong, where, and what would be right."""


def reason(error: Exception) -> str:
    """An error in one line; of one that no user is meant to see, also its kind."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


class NotWritten(UserError):
    """A file cannot be written. Whoever goes on after other errors stops when this happens several times in a row."""


class DiskFull(NotWritten):
    """There is no space for a file.

    Whoever goes on after other errors stops here: every further file would fail too.
    """
