"""Files that lie in a tar file, as WebDataset keeps its samples: named as if the tar were a folder, and read in place.

    Image.open(source(Path("train-000.tar/0001.jpg")))              # of any other path, the path itself
    for name, begin, size in members(Path("train-000.tar")): ...    # as they stand in it

Nothing is unpacked, and no list of members is kept but as arrays. A compressed tar cannot be read in place.
"""

import io
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from lab.base.errors import UserError
from lab.base.files import MOST_BYTES, MOST_OF_DATA, open_regular
from lab.base.paths import is_file
from lab.base.places import named

ENDING = ".tar"


def tar_of(path: Path) -> Path | None:
    """The tar file that a path leads into, if there is one."""
    return next((one for one in path.parents if one.suffix.lower() == ENDING and is_file(one)), None)


def source(path: Path) -> "Path | io.BytesIO":
    """What Pillow is to open: a path or, of a file in a tar, its bytes.

    Raises FileNotFoundError if it is not there, OSError if its tar cannot be read, UserError if that is damaged.
    """
    tar = tar_of(path)
    return path if tar is None else io.BytesIO(read_member(tar, path.relative_to(tar).as_posix()))


def there(path: Path) -> bool:
    """Whether a path that leads into a tar leads to something there; False for any other path."""
    tar = tar_of(path)
    if tar is None:
        return False
    try:
        _place(tar, path.relative_to(tar).as_posix())
    except (UserError, OSError):
        return False
    return True


def read_member(tar: Path, name: str) -> bytes:
    """The bytes of a file in a tar. Raises FileNotFoundError if it is not there, UserError if the tar is damaged."""
    begin, size = _place(tar, name)
    if size > MOST_BYTES:
        raise UserError(f"{named(tar / name)} has {size:,} bytes, more than {MOST_BYTES:,}")
    with open_regular(tar, MOST_OF_DATA) as stream:
        stream.seek(begin)
        return stream.read(size)


def members(tar: Path) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and size of every regular file in a tar, as they stand in it.

    Raises OSError if it cannot be read, and UserError if it is no tar, compressed, damaged, or names a file outside.
    """
    try:
        with open_regular(tar, MOST_OF_DATA) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            whole = stream.seek(0, io.SEEK_END)
            stream.seek(archive.offset)
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # which would hold them all
                if not member.isreg() or member.issparse():
                    continue
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise UserError(f"{named(tar)} names {member.name[:80]!r}, which lies outside; make it anew")
                if member.offset_data + member.size > whole:
                    raise tarfile.ReadError("unexpected end of data")
                yield name.as_posix(), member.offset_data, member.size
            if archive.offset + tarfile.BLOCKSIZE > whole:  # what ends a tar is not there
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, ValueError, EOFError) as error:
        why = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"{named(tar)} is no tar file, compressed, or damaged ({why}); expected a plain .tar") from None


def _place(tar: Path, name: str) -> tuple[int, int]:
    status = tar.stat()
    names, begins, sizes = _index(tar, status.st_size, status.st_mtime_ns)
    wanted = name.encode()
    place = int(np.searchsorted(names, np.array(wanted, names.dtype))) if len(wanted) <= names.itemsize else len(names)
    if place == len(names) or names[place] != wanted:
        raise FileNotFoundError(f"{tar} holds no {name}")
    return int(begins[place]), int(sizes[place])


@lru_cache(maxsize=1024)
def _index(tar: Path, _size: int, _written: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The names of the files, sorted, and where they lie: of equal names the last, as unpacking would leave it."""
    names, places = [], []
    for name, begin, size in members(tar):
        names.append(name.encode())
        places.append((begin, size))
    if not names:
        return np.empty(0, "S1"), np.empty(0, np.int64), np.empty(0, np.int64)
    sorted_names = np.array(names)
    order = np.argsort(sorted_names, kind="stable")
    last = np.append(sorted_names[order][1:] != sorted_names[order][:-1], True)
    begins, sizes = np.array(places, np.int64)[order[last]].T
    return sorted_names[order[last]], begins, sizes
