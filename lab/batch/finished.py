"""Which samples an earlier run has finished by the same rules, told without reading a record.

`finished.json`, beside the records, holds two things of each sample: a digest of its question and of all the rules that
its files were made by, and the size and the time of each file. While both are as they were, the sample is left alone.
Without the file, everything is read and ranked once more. Shards of records tell the digests themselves.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lab.base.errors import DiskFull, NotWritten, UserError, reason
from lab.base.files import read_json, write_atomic
from lab.base.shards import FINISHED, Shard, files_of_shards
from lab.batch.job import BatchJob
from lab.datasets import Sample
from lab.records.folder import find_record, status

RULES = 1  # one more if a later version makes other files by the same settings

Entry = dict[str, Any]  # {"by": digest, "files": {name: [bytes, nanoseconds]}}
Result = Entry | NotWritten | str  # of a sample: its files as they are now, or why they are not there
IN_SHARD: Entry = {}  # of a sample whose shard tells all that is to be told
T = TypeVar("T")


def read_finished(folder: Path) -> dict[str, Entry]:
    """What the folder's files tell, by sample, those of all parts; nothing of files that are damaged."""
    found: dict[str, Entry] = {}
    for _, path in files_of_shards(folder, FINISHED):
        found |= _read(path)
    return found


def _read(path: Path) -> dict[str, Entry]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_finished(folder: Path, new: Mapping[str, Entry], shard: Shard) -> None:
    """Adds the samples that a run has finished, or found finished, to its own file. Raises NotWritten."""
    path = folder / shard.name(FINISHED)
    known = _read(path)
    if (both := {**known, **new}) != known:
        write_atomic(path, json.dumps(both))


def entry(job: BatchJob, sample: Sample, files: Iterable[Path]) -> Entry:
    """What is told of a sample whose files are these."""
    if job.in_shards:
        return IN_SHARD
    return {
        "by": digest(job, sample),
        "files": {path.relative_to(job.folder).as_posix(): _stamp(path) for path in files},
    }


def is_finished(found: Entry | None, job: BatchJob, sample: Sample) -> bool:
    """Whether an entry is by today's rules, and every file is as it was then."""
    try:
        if not found or found["by"] != digest(job, sample):
            return False
        if (record := find_record(job.folder, sample.id)) is None:
            return False
        if record.relative_to(job.folder).as_posix() not in found["files"]:
            return False
        return all(_stamp(job.folder / name) == stamp for name, stamp in found["files"].items())
    except (UserError, OSError, LookupError, TypeError, AttributeError):  # a file is gone, or the entry is damaged
        return False


def attempt(write: Callable[[], T]) -> T | NotWritten | str:
    """What is made of a sample as it is written; otherwise what went wrong, as one sample must not end the others' run.

    Raises DiskFull.
    """
    try:
        return write()
    except DiskFull:
        raise
    except NotWritten as error:
        return error
    except Exception as error:
        return reason(error)


def _stamp(path: Path) -> list[int]:
    found = status(path)
    return [found.st_size, found.st_mtime_ns]


def digest(job: BatchJob, sample: Sample) -> str:
    """The question of a sample and all the rules that its files are made by, in 32 letters."""
    told = repr((RULES, job.rules, sample.query, str(sample.image_file), sample.image_size))
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
