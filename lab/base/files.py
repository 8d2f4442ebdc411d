"""Files that appear whole or not at all, and ids that can name them."""

import errno
import os
import stat
import unicodedata
import uuid
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any

from lab.base.errors import DiskFull, UserError, quoted

NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


MOST_BYTES = 2**30  # of a file that is read whole


MAX_ID_BYTES = 200  # leaves room for endings within the 255 bytes that file systems allow


def read_regular(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file. Raises OSError for pipes, devices and files of more than `most` bytes, unread."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, more than {most:,}")
        return stream.read(most)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Writes a file, and the folders above it, so that it appears whole or not at all.

    Raises UserError if it cannot be written, and DiskFull, one of them, if that is for want of space.
    """
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex}.part")  # in the same folder: a rename across file systems is not atomic
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(
                f"{path}: no space left on the disk for {len(data):,} bytes: free some, or choose another folder"
            ) from error
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose a writable folder with free space"
        ) from error
    finally:
        with suppress(OSError):  # after success it is gone
            part.unlink()


def check_id(sample_id: Any) -> str:
    """The id as text, if it can be part of a file name on any system. Raises UserError otherwise."""
    text = str(sample_id) if isinstance(sample_id, Integral | str) and not isinstance(sample_id, bool) else ""
    if not text.strip() or text != text.strip():
        raise UserError(f"id {quoted(sample_id)} is empty or has spaces around it; expected a short name or a number")
    if any(sign in text for sign in '/\\:*?"<>|') or ".." in text or text.startswith("."):
        raise UserError(
            f"id {quoted(sample_id)} cannot be a file name; "
            'expected no / \\ : * ? " < > | and no ".." and no dot in front'
        )
    if any(unicodedata.category(character).startswith("C") for character in text):
        raise UserError(f"id {quoted(sample_id)} holds control characters; expected printable ones")
    if len(text.encode()) > MAX_ID_BYTES:
        raise UserError(f"id {text[:40]!r}... is {len(text.encode())} bytes long; expected at most {MAX_ID_BYTES}")
    return text
