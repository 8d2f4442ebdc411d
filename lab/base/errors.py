"""The one exception that reaches the user as a single line and exit code 2."""


class UserError(Exception):
    """Wrong input. The message is one line: what is wrong, where, and what would be right."""


def reason(error: Exception) -> str:
    """An error in one line; of one that no user is meant to see, also its kind."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def shown(text: object, most: int = 80) -> str:
    """The first characters of what was found, in one line, for a message: it may be a picture in base64."""
    line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(text))
    return line if len(line) <= most else f"{line[:most]}..."


class DiskFull(UserError):
    """There is no space for a file.

    Whoever goes on after other errors stops here: every further file would fail too.
    """
