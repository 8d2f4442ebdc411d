"""Files that appear whole or not at all, and ids that can name them."""

import errno
import json
import os
import platform
import re
import stat
import time
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO

from lab.base.errors import DiskFull, NotWritten, UserError, quoted

NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


MOST_BYTES = 2**30  # of a file that is read whole
MOST_OF_DATA = 2**34  # of one that tells of a whole data set

POINTER = "a git-lfs pointer, not the file itself: run `git lfs pull` in its folder"
POINTER_BYTES = 32  # tell one

TRIAL = 2**16  # bytes that show that there is some space
PART = re.compile(r"\.(?P<node>.*)-(?P<pid>\d+)-[0-9a-f]{32}\.part")
DAY = 24 * 60 * 60  # seconds

RANKING = "_analysis"  # what the name of a ranking's file has behind the sample's id
MAX_ID_BYTES = 200  # leaves room for endings within the 255 bytes that file systems allow


def read_regular(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file. Raises OSError for pipes, devices and files of more than `most` bytes, unread."""
    with open_regular(path, most) as stream:
        return stream.read(os.fstat(stream.fileno()).st_size)


@contextmanager
def open_regular(path: str | Path, most: int = MOST_BYTES) -> Iterator[BinaryIO]:
    """A regular file to read. Raises OSError for pipes, devices and files of more than `most` bytes."""
    with open(path, "rb", opener=_without_waiting) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, more than {most:,}")
        yield stream


def read_json(path: str | Path, most: int = MOST_BYTES) -> Any:
    """What a JSON file holds, in UTF-8 with or without a byte order mark, or in UTF-16.

    Raises OSError as `read_regular`, and ValueError for what is no JSON, or nested beyond all measure.
    """
    try:
        return json.loads(read_regular(path, most))
    except RecursionError:
        raise ValueError("lists and objects in one another, too deep to be read") from None


def _without_waiting(name: str, flags: int) -> int:
    """For opening: a pipe that nobody writes to does not hold us up."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def is_pointer(head: bytes) -> bool:
    """Whether a file that begins like this only says where git-lfs keeps the true one."""
    return head.startswith(b"version https://git-lfs")


def check_pointer(path: Path) -> None:
    """Raises UserError if a file is only a git-lfs pointer. One that cannot be read is left to who will read it."""
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            head = stream.read(POINTER_BYTES)
    except (OSError, ValueError):
        return
    if is_pointer(head):
        raise UserError(f"{path} is {POINTER}")


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Writes a file, and the folders above it, so that it appears whole or not at all, even if the power fails.

    Raises NotWritten if it cannot be written, and DiskFull, one of them, if that is for want of space.
    """
    write_parts(path, [data.encode() if isinstance(data, str) else data])


def write_parts(path: str | Path, parts: Iterable[bytes]) -> None:
    """The same for content that is made part by part."""
    path, written = Path(path), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _part_of(path.parent) as part:  # in the same folder: a rename across file systems is not atomic
            with _written_through(part) as stream:
                for content in parts:
                    written += len(content)
                    stream.write(content)
            part.replace(path)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise _disk_full(path, written) from None
        where = f"{path}: cannot be written ({error.strerror or error})"
        raise NotWritten(f"{where}; choose a writable folder with free space") from None


def check_writable(folder: Path, *names: str) -> None:
    """Writes a file into a folder, or into the one that it will be made in, and removes it and what killed runs left.

    For the beginning of long work, whose results shall go there. Raises UserError if that fails, or if a file of one of
    the `names` could not be put there.
    """
    for path in (folder / name for name in names):
        if path.is_dir():
            raise UserError(f"{path} is a folder, where a file of that name would go: move it away")
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        with _part_of(there) as part, _written_through(part) as stream:
            stream.write(bytes(TRIAL))
        _remove_abandoned(folder)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise _disk_full(folder, TRIAL) from None
        wrong = f"cannot write into {folder} ({error.strerror or error})"
        raise UserError(f"{wrong}: make it writable, or set data.output_dir to another folder") from None


def _disk_full(path: Path, size: int) -> DiskFull:
    return DiskFull(f"{path}: no space left on the disk for {size:,} bytes: free some, or choose another folder")


@contextmanager
def _written_through(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, which is on the disk at the end: a rename may get there before what it renames."""
    with path.open("xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _part_of(folder: Path) -> Iterator[Path]:
    """A name in a folder that no other writer uses, and no file of that name at the end.

    It tells who writes, so that what a killed run has left can be told from what a living one is writing.
    """
    part = folder / f".{platform.node()}-{os.getpid()}-{uuid.uuid4().hex}.part"
    try:
        yield part
    finally:
        with suppress(OSError):  # after success it is gone
            part.unlink()


def _remove_abandoned(folder: Path) -> None:
    """Removes half-written files whose writer has ended. This process must not be writing there."""
    for part in folder.glob(".*.part"):
        with suppress(OSError):  # its writer may finish it meanwhile
            if not _is_being_written(part):
                part.unlink()


def _is_being_written(part: Path) -> bool:
    """Whether its writer may be alive: a process of this machine that is, or of another one within a day."""
    writer = PART.fullmatch(part.name)
    if writer is None or writer["node"] != platform.node():
        return time.time() - part.stat().st_mtime < DAY
    import psutil  # seldom needed

    pid = int(writer["pid"])
    return pid != os.getpid() and psutil.pid_exists(pid)


def safe_name(text: str, most: int = 100) -> str:
    """The text as a part of a file's name on any system, `most` bytes of it: what cannot be in one becomes _."""
    plain = re.sub(r"[^\w.-]+|\.{2,}", "_", text).strip("._")
    kept = plain.encode()[-most:].decode(errors="ignore").lstrip("._")
    return re.sub(rf"({RANKING}|[._])+$", "", kept) or "picture"


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
    if text.endswith(RANKING):
        taken = f"would be taken for the ranking of {quoted(text.removesuffix(RANKING))}"
        raise UserError(f"id {quoted(sample_id)} {taken}; expected one that does not end in {RANKING}")
    if any(unicodedata.category(character).startswith("C") for character in text):
        raise UserError(f"id {quoted(sample_id)} holds control characters; expected printable ones")
    if len(text.encode()) > MAX_ID_BYTES:
        raise UserError(f"id {text[:40]!r}... is {len(text.encode())} bytes long; expected at most {MAX_ID_BYTES}")
    return text
