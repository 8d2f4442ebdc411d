"""Paths relative to the working directory, to the home folder or to the project, and what no system takes for a path.

find("examples/images/bird.png")    # of the project, unless the working directory has one too
refused("~nobody/x", "file")        # "there is no user nobody"
"""

import errno
import os
import stat
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
MOST_BYTES = 255  # of a name; a path is longer
CONTAINERS = (".safetensors", ".tar")  # files in which others lie, named as if it were a folder


def home(path: str) -> Path:
    """The path, with a `~` in front made the home folder; `~name` stays as it is where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for `~name` of nobody


def find(path: str) -> Path:
    """A path relative to the working directory or, for the files that ship, to the project. It need not exist."""
    here = home(path)
    if here.is_absolute() or exists(here) or not exists(PROJECT / path):
        return here
    return PROJECT / path


def exists(path: Path) -> bool:
    """Whether anything is there; nothing is where it cannot be reached, or where no path can be."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises for names that are too long


def is_file(path: Path) -> bool:
    """Whether it is a file; it is none if it cannot be reached, or be a path at all."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for names that are too long


def is_folder(path: str) -> bool:
    """Whether it is a folder; it is none if it cannot be reached, or be a path at all."""
    return os.path.isdir(home(path))  # noqa: PTH112 - Path.is_dir raises for names that are too long


def resolved(path: str) -> Path:
    """`find`, without links and `..`, to tell whether two names mean the same; as it is where that cannot be known."""
    try:
        return find(path).resolve()
    except (OSError, ValueError, RuntimeError):  # no such path can be, or its links go in circles
        return find(path)


def refused(path: str, kind: str) -> str | None:
    """Why nothing can be read or written there, or None: whether anything is there is for others to say.

    `kind` is what is expected, "file" or "folder".
    """
    here = home(path)
    try:
        mode = here.stat().st_mode
    except FileNotFoundError:
        if max(len(os.fsencode(part)) for part in here.parts) > MOST_BYTES:  # of which some lie in no folder
            return os.strerror(errno.ENAMETOOLONG).lower()
        user = here.parts[0]
        return f"there is no user {user[1:]}" if user.startswith("~") else None
    except NotADirectoryError:
        above = next(parent for parent in here.parents if exists(parent))
        if kind == "file" and above.suffix in CONTAINERS:
            return None
        return f"{above} is a file, not a folder"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except UnicodeEncodeError as error:
        return f"this system's names of files are {error.encoding}: set PYTHONUTF8=1"
    except ValueError:
        return "no path holds a NUL character"
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        return f"it is a pipe or a device, expected a {kind}"
    if stat.S_ISDIR(mode) != (kind == "folder"):
        return "it is a folder, expected a file" if stat.S_ISDIR(mode) else "it is a file, expected a folder"
    return None if os.access(here, os.R_OK) else "permission denied"
