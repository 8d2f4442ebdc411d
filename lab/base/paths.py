"""Paths relative to the working directory or to the project, and how a message shows one."""

from pathlib import Path

from lab.base.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
MOST_SHOWN = 260  # characters of a path in a message: a path from a file can be a whole picture in base64


def find(path: str) -> Path:
    """A path relative to the working directory or, for the files that ship, to the project.

    A path that the system refuses comes back as it is: who opens it says what is wrong with it.
    """
    try:
        here = Path(path).expanduser()
    except RuntimeError:  # ~name, and nobody has that name
        here = Path(path)
    return here if here.is_absolute() or exists(here) or not exists(PROJECT / path) else PROJECT / path


def exists(path: Path) -> bool:
    """Whether something is there. False also for a path that the system refuses, where Path.exists raises."""
    try:
        path.stat()
    except (OSError, ValueError):  # too long, no permission; a NUL byte
        return False
    return True


def is_folder(path: Path) -> bool:
    """Whether a folder is there. Raises UserError if it may not be read."""
    try:
        found = path.is_dir()
        if found:
            next(path.iterdir(), None)
    except (OSError, ValueError) as error:
        raise UserError(f"{named(path)} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return found


def named(path: str | Path) -> str:
    """The path for a message: printable, and without its middle if it is absurdly long."""
    text = str(path)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= MOST_SHOWN else f"{text[:60]}...{text[-60:]}"
