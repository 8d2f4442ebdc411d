"""One part of the samples, k of n, that a job of its own does: its files, and which parts of a folder are missing.

    shard = Shard.read("2/8")
    shard.name("summary.json")      # summary-2of8.json
    missing_shards(folder)          # in a line, or None

Jobs of one folder need not know of each other: each writes files of its own, and who reads the folder takes them all.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.base.errors import UserError, shown
from lab.base.files import read_regular
from lab.base.numbers import many

MOST = 10_000  # shards of one data set
WRITTEN = re.compile(r"-([0-9]{1,5})of([0-9]{1,5})")  # in the name of a shard's file
SUMMARY, ERRORS, FINISHED = "summary.json", "errors.jsonl", "finished.json"
LOCK = ".running.lock"


@dataclass(frozen=True)
class Shard:
    """Part `number` of `of`, counted from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def read(cls, text: str | None) -> "Shard":
        """`k/n`; the whole without a text. Raises UserError if it is no part."""
        if text is None:
            return WHOLE
        if found := re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text):
            number, of = map(int, found.groups())
            if 1 <= number <= of <= MOST:
                return cls(number, of)
        raise UserError(f"data.shard={shown(text)}: expected k/n, such as 1/8, the first, to 8/8; n at most {MOST:,}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def name(self, name: str) -> str:
        """The name of this part's own file: that of the whole with the part behind it."""
        if self.of == 1:
            return name
        stem, dot, ending = name.rpartition(".")
        return f"{stem}-{self.number}of{self.of}{dot}{ending}"


WHOLE = Shard()


def files_of_shards(folder: Path, name: str) -> Iterator[tuple[Shard, Path]]:
    """The files of a name that the whole, or parts, have written into a folder, the oldest first."""
    stem, dot, ending = name.rpartition(".")
    found: list[tuple[int, Shard, Path]] = []
    for path in sorted(folder.glob(f"{stem}*{dot}{ending}")):
        told = WRITTEN.fullmatch(path.name.removesuffix(dot + ending).removeprefix(stem))
        if told or path.name == name:
            part = Shard(int(told[1]), int(told[2])) if told else WHOLE
            found.append((path.stat().st_mtime_ns, part, path))
    yield from ((part, path) for _, part, path in sorted(found, key=lambda one: (one[0], one[2])))


def remove_otherwise_divided(folder: Path, shard: Shard) -> None:
    """Removes what runs that divided the samples otherwise have told of them: it is not of this run."""
    for name in (SUMMARY, ERRORS):
        for part, path in files_of_shards(folder, name):
            if part.of != shard.of:
                path.unlink(missing_ok=True)


def missing_shards(folder: Path) -> str | None:
    """What is not there of a folder that jobs fill part by part, in a line: parts that are not finished, samples that
    failed. None if nothing is known to be missing.
    """
    there = [part for part, _ in files_of_shards(folder, SUMMARY)]
    begun = [part for part, _ in files_of_shards(folder, LOCK)]
    of = (there or begun or [WHOLE])[-1].of
    if of == 1:
        return None
    told = []
    if left := [str(Shard(number, of)) for number in range(1, of + 1) if Shard(number, of) not in there]:
        missing = f"{len(left)} of {of} parts {'is' if len(left) == 1 else 'are'} not finished"
        told.append(f"{missing}: run data.shard={','.join(left)}")
    names = [name for _, path in files_of_shards(folder, ERRORS) for name in _failed(path)]
    if names:
        told.append(f"{many(len(names), 'sample')} failed ({', '.join(names[:3])}{', ...' if names[3:] else ''})")
    return f"{folder}: {'; '.join(told)}" if told else None


def _failed(errors: Path) -> list[str]:
    """The samples that a file lists; none of a file that is damaged."""
    try:
        return [str(json.loads(line)["id"]) for line in read_regular(errors).splitlines()]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
