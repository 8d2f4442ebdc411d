"""The one exception that reaches the user as a single line and exit code 2."""


class UserError(Exception):
    """Wrong input. The message is one line: what is wrong, where, and what would be right."""


def reason(error: Exception) -> str:
    """An error in one line; of one that no user is meant to see, also its kind."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def in_words(error: Exception) -> str:
    """What is wrong with what a file holds, in words, of the error that its reading ended with."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyError) and error.args:
        return f"it lacks {shown(repr(error.args[0]))}"
    if isinstance(error, LookupError | EOFError):
        return "it ends too soon"
    if isinstance(error, TypeError | AttributeError):
        return "a part of it is of another type"
    return shown(" ".join(str(error).split()), 200) or "it is damaged"


def shown(text: object, most: int = 80) -> str:
    """The first characters of what was found, in one line, for a message: it may be a picture in base64."""
    line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(text))
    return line if len(line) <= most else f"{line[:most]}..."


class NotWritten(UserError):
    """A file cannot be written. Whoever goes on after other errors stops when this happens several times in a row."""


class DiskFull(NotWritten):
    """There is no space for a file.

    Whoever goes on after other errors stops here: every further file would fail too.
    """


def quoted(value: object, most: int = 60) -> str:
    """A value for a message: its repr, in one line, cut after `most` characters."""
    return shown(" ".join(repr(value).split("\n")), most)


class InARow:
    """Counts the files in a row that could not be written."""

    MOST = 5  # the next ones will not fare better

    def __init__(self) -> None:
        self.number = 0

    def count(self, outcome: object) -> None:
        """Takes what became of the next file. Raises NotWritten if too many of them could not be written."""
        self.number = self.number + 1 if isinstance(outcome, NotWritten) else 0
        if self.number == self.MOST:
            raise NotWritten(f"{outcome}; so it was with {self.number} samples in a row")
