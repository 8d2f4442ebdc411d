"""Which samples an earlier run has finished by the same rules, told without reading a record.

`finished.json`, beside the records, holds two things of each sample: a digest of its question and of all the rules that
its files were made by, and the size and the time of each file. While both are as they were, the sample is left alone.
Without the file, everything is read and ranked once more.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lab.base.errors import DiskFull, NotWritten, UserError, reason
from lab.base.files import read_json, write_atomic
from lab.base.shards import FINISHED, Shard, files_of_shards
from lab.batch.job import BatchJob
from lab.datasets import Sample
from lab.records.folder import find_record

RULES = 1  # one more if a later version makes other files by the same settings

Entry = dict[str, Any]  # {"by": digest, "files": {name: [bytes, nanoseconds]}}
Result = Entry | NotWritten | str  # of a sample: its files as they are now, or why they are not there


def read_finished(folder: Path) -> dict[str, Entry]:
    """What the folder's files tell, by sample, those of all shards; nothing of files that are damaged."""
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
    return {"by": _digest(job, sample), "files": {path.name: _stamp(path) for path in files}}


def is_finished(found: Entry | None, job: BatchJob, sample: Sample) -> bool:
    """Whether an entry is by today's rules, and every file is as it was then."""
    try:
        record = find_record(job.folder, sample.id)
        if not found or record is None or record.name not in found["files"] or found["by"] != _digest(job, sample):
            return False
        return all(_stamp(job.folder / name) == stamp for name, stamp in found["files"].items())
    except (UserError, OSError, LookupError, TypeError, AttributeError):  # a file is gone, or the entry is damaged
        return False


def attempt(write: Callable[[], Entry]) -> Result:
    """The entry of a sample that is written; otherwise what went wrong, as one sample must not end the others' run.

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
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _digest(job: BatchJob, sample: Sample) -> str:
    told = repr((RULES, job.rules, sample.query, str(sample.image_file), sample.image_size))
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
