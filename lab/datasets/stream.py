"""Data files read as a stream: lines of JSON, Parquet or tar files, each sample read when it is asked for.

    samples = open_samples(Path("train.jsonl"))     # every line was read and checked once, and forgotten
    samples[5], len(samples), samples[100:200]      # of a million samples, 60 MB are kept
    samples.glance.letters                          # what planning needs of all of them, as arrays
    read_jsonl(Path("val.jsonl"))                   # a list of them all

A path may be a pattern, `train-*.tar`. What is not lines of JSON in UTF-8 becomes so in a temporary file.
"""

import hashlib
import json
import os
import tempfile
import weakref
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from jaxtyping import Int, UInt64

from lab.base.errors import UserError, reason
from lab.base.files import MOST_OF_DATA, POINTER, is_pointer, open_regular, read_regular
from lab.base.places import named
from lab.datasets.jsonl import read_line
from lab.datasets.sample import Sample
from lab.datasets.sources import EACH, EXPECTED, ROWS_OF
from lab.datasets.texts import decode, refuse_packed

MOST_LINE = 2**26  # bytes of a line
UTF8 = ("utf-8", "utf-8-sig")
PATTERN = "*"
CONVERT = "python -m lab.datasets convert makes such a file of a published data set"
# Endings of what is often taken for a data file, and what makes one of it.
NO_LINES = {
    **dict.fromkeys((".csv", ".tsv", ".xlsx"), "write each row as an object of JSON"),
    **dict.fromkeys((".p", ".pkl", ".json"), CONVERT),
}
KINDS = "a JSONL, Parquet or tar file"


@dataclass(frozen=True, eq=False)
class Glance:
    """What planning needs to know of samples: which share a picture, and what they will cost."""

    pictures: UInt64[np.ndarray, "samples 2"]  # a digest of the picture's name
    letters: Int[np.ndarray, " samples"]  # of the expression
    pixels: Int[np.ndarray, " samples"]  # of the picture; 0 where the data file does not tell

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Glance":
        found = _Columns()
        for sample in samples:
            found.add(sample)
        return found.glance

    def __getitem__(self, numbers: Any) -> "Glance":
        return Glance(self.pictures[numbers], self.letters[numbers], self.pixels[numbers])


class _Columns:
    """The same as it grows, and the digests of the ids."""

    def __init__(self) -> None:
        self.pictures, self.ids = array("Q"), array("Q")
        self.letters, self.pixels, self.starts, self.numbers = array("q"), array("q"), array("q"), array("q")

    def add(self, sample: Sample) -> None:
        width, height = sample.image_size or (0, 0)
        self.pictures.frombytes(_digest(str(sample.image_file), 16))
        self.ids.frombytes(_digest(sample.id, 8))
        self.letters.append(len(sample.query))
        self.pixels.append(width * height)

    @property
    def glance(self) -> Glance:
        pictures = np.frombuffer(self.pictures, np.uint64).reshape(-1, 2)
        return Glance(pictures, *(np.frombuffer(column, np.int64) for column in (self.letters, self.pixels)))


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


@dataclass(frozen=True, eq=False)
class SampleFile(Sequence[Sample]):
    """The samples of a data file, by where their lines begin. It can be sent to worker processes."""

    lines: Path  # of JSON, in UTF-8: the data file, or a temporary one
    source: "Source"
    starts: Int[np.ndarray, " samples"]
    numbers: Int[np.ndarray, " samples"]  # of their lines, from 1
    glance: Glance
    final_period: bool = False
    temporary: object = field(default=None, repr=False)  # removes the file of lines when it goes

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, number: int) -> Sample: ...

    @overload
    def __getitem__(self, number: Any) -> "SampleFile": ...

    def __getitem__(self, number: Any) -> "Sample | SampleFile":
        """One sample or, of a slice or an array of numbers, these."""
        if isinstance(number, slice | np.ndarray):
            parts = self.starts[number], self.numbers[number], self.glance[number]
            return SampleFile(self.lines, self.source, *parts, self.final_period, self.temporary)
        with open_regular(self.lines, MOST_OF_DATA) as stream:
            return self._read(stream, number)

    def __iter__(self) -> Iterator[Sample]:
        if len(self):
            with open_regular(self.lines, MOST_OF_DATA) as stream:
                yield from (self._read(stream, number) for number in range(len(self)))

    def _read(self, stream: BinaryIO, number: int) -> Sample:
        stream.seek(int(self.starts[number]))
        return self.source.sample(stream.readline(MOST_LINE + 1), int(self.numbers[number]), self.final_period)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "temporary": None}


@dataclass(frozen=True)
class Source:
    """A data file, or those of a pattern, by the names that messages give them."""

    path: Path
    each: str = "line"
    files: tuple[tuple[int, Path], ...] = ()  # those that a pattern names, and how many lines stand before each

    def place(self, number: int) -> tuple[Path, int]:
        """The file that a line stands in, and its number there, from 1."""
        before, path = 0, self.path
        if self.files:
            before, path = self.files[bisect_left(self.files, number, key=itemgetter(0)) - 1]
        return path, number - before

    def where(self, number: int) -> str:
        path, own = self.place(number)
        return f"{named(path)} {self.each} {own}"

    def sample(self, line: bytes, number: int, final_period: bool) -> Sample:
        """The sample in a line. Raises UserError, which names the place."""
        try:
            if len(line) > MOST_LINE:
                raise UserError(f"is longer than {MOST_LINE:,} bytes; expected one JSON object")
            return read_line(line.decode("utf-8-sig" if number == 1 else "utf-8"), self.path, number, final_period)
        except UserError as error:
            raise UserError(f"{self.where(number)}: {error}{self._remedy(number)}") from None

    def _remedy(self, number: int) -> str:
        """What else to do where the first line of a file already is wrong, by the file's ending."""
        path, own = self.place(number)
        remedy = NO_LINES.get(path.suffix.lower())
        return f"; {remedy}" if own == 1 and remedy else ""


# Reading


def open_samples(path: Path, *, final_period: bool = False) -> SampleFile:
    """The samples of a data file; with `final_period` every expression ends in a full stop. No image or mask is opened.

    A path that the system refuses is kept: it is wrong for its own sample only.

    Raises UserError with the line number for a line that is not JSON, lacks a key, repeats an id, has an id that cannot
    name a file, or has an impossible box or mask.
    """
    lines, source, temporary = _as_lines(path)
    found = _Columns()
    for start, number, sample in _samples(lines, source, final_period):
        found.starts.append(start)
        found.numbers.append(number)
        found.add(sample)
    starts, numbers = (np.frombuffer(column, np.int64) for column in (found.starts, found.numbers))
    samples = SampleFile(lines, source, starts, numbers, found.glance, final_period, temporary)
    _check_ids(np.frombuffer(found.ids, np.uint64), samples)
    return samples


def _check_ids(digests: UInt64[np.ndarray, " samples"], samples: SampleFile) -> None:
    """Raises UserError naming both lines if two samples have one id."""
    order = np.argsort(digests, kind="stable")
    same = np.flatnonzero(digests[order][1:] == digests[order][:-1])
    for second, first in sorted(zip(order[same + 1].tolist(), order[same].tolist(), strict=True)):
        if samples[second].id == samples[first].id:
            raise _used_twice(samples.source, samples[first], samples[second])


def _used_twice(source: Source, first: Sample, second: Sample) -> UserError:
    where, before = source.where(second.line or 0), source.where(first.line or 0)
    if not source.files:
        before = before.removeprefix(f"{named(source.path)} ")
    return UserError(f"{where}: id {first.id!r} was used in {before}; ids must be unique")


def read_jsonl(path: Path, *, final_period: bool = False) -> list[Sample]:
    """All samples of a data file at once, as `open_samples` reads them."""
    lines, source, _temporary = _as_lines(path)
    samples: dict[str, Sample] = {}
    for _, _, sample in _samples(lines, source, final_period):
        if sample.id in samples:
            raise _used_twice(source, samples[sample.id], sample)
        samples[sample.id] = sample
    return list(samples.values())


def read_samples(path: Path, *, final_period: bool = False) -> SampleFile:
    """`open_samples` of the file that `data.data_file` names. Raises UserError naming that key if it is not there."""
    try:
        if PATTERN not in path.name:
            path.stat()
    except FileNotFoundError:
        raise UserError(f"no data file {named(path)}: set data.data_file to {KINDS}") from None
    except (OSError, ValueError):
        pass  # reading it says what is wrong
    return open_samples(path, final_period=final_period)


def _samples(lines: Path, source: Source, final_period: bool) -> Iterator[tuple[int, int, Sample]]:
    """Where each line begins, its number, and the sample in it. Raises UserError if there is none."""
    start, number, some = 0, 0, False
    with open_regular(lines, MOST_OF_DATA) as stream:
        while line := stream.readline(MOST_LINE + 1):
            number += 1
            if _says_something(line, number, start, source):
                some = True
                yield start, number, source.sample(line, number, final_period)
            start += len(line)
    if not some:
        raise UserError(f"{source.path} holds no samples: {EXPECTED[source.each]}")


def _says_something(line: bytes, number: int, start: int, source: Source) -> bool:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        found = f"byte {start + error.start} (0x{line[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        raise UserError(f"{source.where(number)}: {found}") from None
    if number == 1 and text.startswith("["):
        raise UserError(
            f"{source.where(1)}: a JSON object is expected on each line, not one list of all; "
            f"jq -c '.[]' {source.path.name} > lines.jsonl makes lines of it"
        )
    return bool(text)


# What is no lines of JSON in UTF-8


def _as_lines(path: Path) -> tuple[Path, Source, object]:
    """A file of lines, the source that they tell of, and what removes it once it is a temporary one."""
    paths = sorted(path.parent.glob(path.name)) if PATTERN in path.name else [path]
    if not paths:
        raise UserError(f"no data file {named(path)}: nothing has such a name")
    kind = paths[0].suffix.lower()
    try:
        if PATTERN in path.name or kind in ROWS_OF:
            return _spooled(path, EACH.get(kind, "line"), paths, partial(_rows, kind=kind))
        with open_regular(path, MOST_OF_DATA) as stream:
            head = stream.read(64)
        if is_pointer(head):
            raise UserError(f"{named(path)} is {POINTER}")
        if kind in (".p", ".pkl", ".xlsx"):
            raise UserError(f"{named(path)}: {KINDS} is expected; {NO_LINES[kind]}")
        refuse_packed(head, path.name)
        if json.detect_encoding(head[:4]) in UTF8:
            return path, Source(path), None
        return _spooled(path, "line", [path], _decoded)
    except FileNotFoundError:
        raise UserError(f"no data file {named(path)}: {KINDS} is expected") from None
    except UserError as error:
        raise (
            error
            if str(error).startswith(tuple(named(one)[:20] for one in paths))
            else UserError(f"{named(path)} {error}")
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {named(path)} ({why}); expected {KINDS}") from None


def _rows(path: Path, kind: str) -> Iterator[bytes]:
    """The lines of JSON that a file of a kind is or becomes. Raises UserError if it is of another kind."""
    if path.suffix.lower() != kind:
        raise UserError(f"{named(path)}: expected files of one kind, {kind or 'JSONL'}, as the first of the pattern")
    return _dumped(ROWS_OF[kind](path), path) if kind in ROWS_OF else _decoded(path)


def _decoded(path: Path) -> Iterator[bytes]:
    """The lines of a file of text in UTF-8, whatever encoding it is in."""
    data = read_regular(path, MOST_OF_DATA)
    if is_pointer(data):
        raise UserError(f"{named(path)} is {POINTER}")
    try:
        refuse_packed(data, path.name)
        text = decode(data)
    except UserError as error:
        raise UserError(f"{named(path)} {error}") from None
    return (line.encode() for line in text.removesuffix("\n").split("\n"))


def _dumped(rows: Iterable[dict[str, Any]], path: Path) -> Iterator[bytes]:
    for row in rows:
        try:
            yield json.dumps(row).encode()
        except (TypeError, ValueError) as error:
            raise UserError(f"{named(path)}: a row holds what JSON does not ({reason(error)})") from None


def _spooled(
    path: Path, each: str, paths: Sequence[Path], rows: Callable[[Path], Iterable[bytes]]
) -> tuple[Path, Source, object]:
    """A temporary file of the lines of several, one after the other."""
    handle, name = tempfile.mkstemp(".jsonl", "samples-")
    guard, number, files = _Temporary(Path(name)), 0, []
    with os.fdopen(handle, "wb") as stream:
        for one in paths:
            files.append((number, one))
            for line in rows(one):
                stream.write(line + b"\n")
                number += 1
    return guard.path, Source(path, each, tuple(files) if PATTERN in path.name else ()), guard


class _Temporary:
    """A file that goes when nobody holds this any more, or when the process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        weakref.finalize(self, path.unlink, missing_ok=True)
