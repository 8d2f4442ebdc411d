"""Where the records of a folder are, and under which name a record is written.

A record is a file of its own, or lies in a shard with others (`lab/records/shards.py`), of which it is named as a path
in a folder. Where a sample has both, its own file counts: it was written later, as shards take the place of files.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from conf.schema import SHARDS, RecordFormat
from lab.base.errors import UserError
from lab.base.shards import missing_shards
from lab.records.files import record_bytes, save_record
from lab.records.record import Record
from lab.records.shards import ENDING, FOLDER, ShardFiles, in_shard, remove_superseded, shard_files, write_shard

log = logging.getLogger(__name__)

REFINED = "_refined.png"  # of the sharp mask's file beside a record
ENDINGS = tuple(f".{format}" for format in RecordFormat if format != SHARDS)
# The name, and whether it is a ranking.
SAMPLE_FILE = re.compile(rf"([^.].*?)(_analysis)?(?:{'|'.join(map(re.escape, ENDINGS))})")


def find_record(folder: Path, name: str) -> Path | None:
    """The record of a sample in a folder, whichever ending it has, or in one of its shards.

    Raises UserError if it is there with several endings.
    """
    found = [path for ending in ENDINGS if (path := folder / f"{name}{ending}").exists()]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1].name} are the same sample: delete one")
    return found[0] if found else packed_records(folder).get(name)


def packed_records(folder: Path) -> ShardFiles:
    """The records of a folder that lie in shards; read anew where one was added."""
    try:
        changed = (folder / FOLDER).stat().st_mtime_ns
    except OSError:
        changed = 0
    return _packed_records(folder, changed)


@lru_cache(maxsize=2)
def _packed_records(folder: Path, changed: int) -> ShardFiles:
    return shard_files(folder) if changed else ShardFiles((), ())


def list_samples(folder: Path) -> dict[str, Mapping[str, Path]]:
    """The samples of a folder, {"records": {name: file}, "analyses": {name: file}}, in order of their names.

    Says in a line what is missing, if jobs fill the folder part by part.
    """
    listed: dict[str, dict[str, Path]] = {"records": {}, "analyses": {}}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(
            f"cannot read the folder {folder}: {error.strerror or error}; set data.attention_dir, or run stage=batch"
        ) from None
    if told := missing_shards(folder):
        log.warning("%s", told)
    for path in paths:
        if match := SAMPLE_FILE.fullmatch(path.name):
            kind = listed["analyses" if match[2] else "records"]
            if match[1] in kind:
                raise UserError(f"{kind[match[1]]} and {path.name} are the same sample: delete one")
            kind[match[1]] = path
    records, packed = listed["records"], packed_records(folder)
    both = {**packed, **records} if records else packed
    return {
        "records": dict(sorted(both.items())) if records else packed,
        "analyses": dict(sorted(listed["analyses"].items())),
    }


def write_record(folder: Path, name: str, record: Record, format: RecordFormat) -> Path:
    """Saves a record under the ending of its format, in place of an older one with another ending.

    As a shard, it is one of a single record.
    """
    if format == SHARDS:
        generation = packed_records(folder).generation + 1
        shard = write_records(folder, {name: pack_record(record, name)}, [""], generation)
        remove_superseded(folder)
        return shard / (name + ENDING)
    path = folder / f"{name}.{format}"
    save_record(path, record)
    _remove_others(folder, name, path)
    return path


def pack_record(record: Record, name: str) -> bytes:
    """What a shard holds of a record. Raises UserError if it cannot be written."""
    return record_bytes(record, name + ENDING)


def write_records(folder: Path, records: Mapping[str, bytes], by: Sequence[str], generation: int) -> Path:
    """Writes records of `pack_record` as a shard, in place of the files of the same samples. Raises NotWritten."""
    path = write_shard(folder, records, by, generation)
    for name in records:
        _remove_others(folder, name, path)
    return path


def _remove_others(folder: Path, name: str, path: Path) -> None:
    for ending in ENDINGS:
        if (other := folder / f"{name}{ending}") != path:
            other.unlink(missing_ok=True)


def home_of(path: Path) -> Path:
    """The folder of a record, beside whose records its results go."""
    return path.parents[2] if in_shard(path) else path.parent


def sibling(path: Path, suffix: str) -> Path:
    """A file of the same sample in the folder of its record: `X.pkl`, `X.pkl.gz` or `X.safetensors` -> `X<suffix>`."""
    return home_of(path) / (name_of(path) + suffix)


def name_of(path: Path) -> str:
    """A record's file without its ending."""
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), path.name)


def status(path: Path) -> os.stat_result:
    """Size and time of a record's file, or of the shard that it lies in."""
    return (path.parent if in_shard(path) else path).stat()
