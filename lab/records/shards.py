"""Records of a few hundred samples in one file, so that a folder of a million records has a few thousand files.

    shards/3f0c….safetensors        # in the folder of the records: tensors of bytes, each the file of one record
    shards/3f0c….safetensors/bird.safetensors       # how one of them is named: a path like any other
    files = shard_files(folder)     # {"bird": that path, ...} of all shards, in arrays: a million names take 60 MB

A file of safetensors whose tensors are bytes: the header is the index, and each tensor is what `bird.safetensors` would
hold. The header's metadata tells by which rules each record was made, and the generation: where two shards hold the
same sample, the later generation counts. Nothing of a file is believed before it is compared with its size.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lab.base.errors import NotWritten, UserError, in_words, reason
from lab.base.files import MOST_BYTES, check_id, open_regular, write_parts
from lab.records.exchange import strict_json

log = logging.getLogger(__name__)

FOLDER = "shards"  # in the folder of the records
ENDING = ".safetensors"
RECORDS, BYTES = 256, 2**27  # of a shard, at most: what a run that is killed may lose, and holds in memory
MOST_HEADER = 2**24  # bytes; that of 256 records has 40,000
MOST_RULES = 64  # letters of what tells by which rules a record was made
ALIGNED = 8  # bytes, as the library wants it
TOLD = "told"  # the one text of the header's metadata
AGAIN = "delete it, and run stage=batch again"


def in_shard(path: Path) -> bool:
    """Whether a path names a record in a shard."""
    return path.parent.suffix == ENDING and path.parent.parent.name == FOLDER


@dataclass(frozen=True, eq=False)
class Header:
    """What a shard tells of its records, and where they lie in it."""

    names: np.ndarray  # bytes of fixed width: the ids in UTF-8
    ends: Int[np.ndarray, " records"]  # where each ends, in bytes from the beginning of the file
    begin: int  # where the first begins
    by: np.ndarray  # bytes of fixed width: the rules that each was made by
    generation: int

    def place(self, name: str) -> tuple[int, int]:
        """Where the record of an id lies. Raises LookupError if there is none."""
        found = np.flatnonzero(self.names == name.encode())
        number = int(found[0])
        return int(self.ends[number - 1]) if number else self.begin, int(self.ends[number])


# Reading


def read_member(path: Path) -> bytes:
    """The bytes of one record in a shard. Raises UserError if there is none of the name, or the shard is damaged."""
    shard = path.parent
    try:
        with open_regular(shard, MOST_BYTES) as stream:
            status = os.fstat(stream.fileno())
            header = _header(shard, status.st_size, status.st_mtime_ns)
            begin, end = header.place(path.name.removesuffix(ENDING))
            stream.seek(begin)
            return stream.read(end - begin)
    except LookupError:
        raise UserError(f"{shard} holds no record {path.name}") from None
    except OSError as error:
        raise UserError(f"{shard}: cannot be read ({error.strerror or error}); expected a file of records") from error


@lru_cache(maxsize=8192)
def _header(path: Path, size: int, _written: int) -> Header:
    """The header of a shard as it is now. Raises UserError unless it is one that fits the file's size."""
    try:
        with open_regular(path, MOST_BYTES) as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(MOST_HEADER, size - 8):
                raise ValueError(f"a header of {length:,} bytes")
            header = strict_json(stream.read(length).decode())
        return _checked(header, 8 + length, size)
    except OSError:
        raise
    except Exception as error:  # a hostile or damaged file can fail in any way
        why = in_words(error)
        raise UserError(f"{path}: truncated or not a file of records ({why}); {AGAIN}") from error


def _checked(header: Any, begin: int, size: int) -> Header:
    told = strict_json(header.pop("__metadata__")[TOLD])
    names: list[bytes] = []
    ends: list[int] = []
    for name, tensor in header.items():
        first, last = tensor["data_offsets"]
        whole = type(last) is int and tensor["dtype"] == "U8" and tensor["shape"] == [last - first]
        if not (whole and first == (ends[-1] if ends else 0) < last <= size and name.endswith(ENDING)):
            raise ValueError(f"a tensor {name[:40]!r} that is no record")
        names.append(check_id(name.removesuffix(ENDING)).encode())
        ends.append(last)
    if not names or begin + ends[-1] != size:
        raise ValueError(f"{size:,} bytes, which its header does not expect")
    by = [text.encode("ascii") for text in told["by"]]
    if len(by) != len(names) or max(map(len, by)) > MOST_RULES or type(told["generation"]) is not int:
        raise ValueError("rules that are not those of its records")
    return Header(np.array(names), np.array(ends, np.int64) + begin, begin, np.array(by), told["generation"])


class ShardFiles(Mapping[str, Path]):
    """The record of each sample that the shards of a folder hold, in order of the names; in arrays, not in objects."""

    def __init__(self, paths: Sequence[Path], headers: Sequence[Header]) -> None:
        self.paths = paths
        counts = [len(header.names) for header in headers]
        names = np.concatenate([header.names for header in headers]) if headers else np.empty(0, "S1")
        by = np.concatenate([header.by for header in headers]) if headers else np.empty(0, "S1")
        shard = np.repeat(np.arange(len(headers), dtype=np.int32), counts)
        age = np.repeat(np.array([header.generation for header in headers], np.int64), counts)
        order = np.lexsort((shard, age, names))  # the last of equal names is of the latest generation
        last = np.append(names[order][1:] != names[order][:-1], True)[: len(order)]
        self._names, self._by, self._shard = (column[order[last]] for column in (names, by, shard))
        self.generation = int(age.max(initial=0))

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return (name.decode() for name in self._names)

    def __getitem__(self, name: str) -> Path:
        return self.paths[self._shard[self._place(name)]] / f"{name}{ENDING}"

    def __contains__(self, name: object) -> bool:
        try:
            return self._place(name) >= 0
        except KeyError:
            return False

    def by(self, name: str) -> str | None:
        """The rules that the record of a sample was made by; None if there is none."""
        try:
            return self._by[self._place(name)].decode()
        except KeyError:
            return None

    def superseded(self) -> list[Path]:
        """The shards of which no record counts any more."""
        used = set(np.unique(self._shard).tolist())
        return [path for number, path in enumerate(self.paths) if number not in used]

    def _place(self, name: object) -> int:
        """Raises KeyError."""
        wanted = name.encode() if isinstance(name, str) else b""
        if len(wanted) <= self._names.itemsize:
            place = int(np.searchsorted(self._names, np.array(wanted, self._names.dtype)))
            if place < len(self._names) and self._names[place] == wanted:
                return place
        raise KeyError(name)


def shard_files(folder: Path) -> ShardFiles:
    """The records of a folder that lie in shards. A shard that cannot be read is left out, which is told in a line."""
    paths, headers = [], []
    for path in sorted((folder / FOLDER).glob(f"[!.]*{ENDING}")):
        try:
            status = path.stat()
            headers.append(_header(path, status.st_size, status.st_mtime_ns))
            paths.append(path)
        except (UserError, OSError) as error:
            log.warning("%s", reason(error))
    return ShardFiles(paths, headers)


# Writing


def write_shard(folder: Path, records: Mapping[str, bytes], by: Sequence[str], generation: int) -> Path:
    """Writes the records of some samples, each as the bytes of its own file, as one more shard of a folder.

    `by` tells the rules that each was made by. The name follows from the header. Raises NotWritten.
    """
    header: dict[str, Any] = {"__metadata__": {TOLD: json.dumps({"generation": generation, "by": list(by)})}}
    end = 0
    for name, data in records.items():
        begin, end = end, end + len(data)
        header[f"{check_id(name)}{ENDING}"] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNED)
    path = folder / FOLDER / f"{hashlib.blake2b(text, digest_size=8).hexdigest()}{ENDING}"
    write_parts(path, (len(text).to_bytes(8, "little"), text, *records.values()))
    return path


def remove_superseded(folder: Path) -> None:
    """Removes the shards all of whose samples later ones hold. Raises NotWritten if one cannot be removed."""
    for path in shard_files(folder).superseded():
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise NotWritten(f"{path}: cannot be removed ({error.strerror or error}); remove it by hand") from None
