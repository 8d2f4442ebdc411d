"""What is at a path, asked without an exception for paths that the system refuses, and how a message shows a path."""

from pathlib import Path

from lab.base.errors import UserError

MOST_SHOWN = 260  # characters of a path in a message: a path from a file can be a whole picture in base64


def readable_folder(path: Path) -> bool:
    """Whether a folder is there. Raises UserError if the system does not let it be read."""
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
