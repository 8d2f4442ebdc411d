"""Where the records of a folder are, and under which name a record is written."""

import logging
import re
from pathlib import Path

from conf.schema import RecordFormat
from lab.base.errors import UserError
from lab.base.shards import missing_shards
from lab.records.files import save_record
from lab.records.record import Record

log = logging.getLogger(__name__)

REFINED = "_refined.png"  # of the sharp mask's file beside a record
ENDINGS = tuple(f".{format}" for format in RecordFormat)
# The name, and whether it is a ranking.
SAMPLE_FILE = re.compile(rf"([^.].*?)(_analysis)?(?:{'|'.join(map(re.escape, ENDINGS))})")


def find_record(folder: Path, name: str) -> Path | None:
    """The record of a sample in a folder, whichever ending it has.

    Raises UserError if it is there with several.
    """
    found = [path for ending in ENDINGS if (path := folder / f"{name}{ending}").exists()]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1].name} are the same sample: delete one")
    return found[0] if found else None


def list_samples(folder: Path) -> dict[str, dict[str, Path]]:
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
    return {kind: dict(sorted(files.items())) for kind, files in listed.items()}


def write_record(folder: Path, name: str, record: Record, format: RecordFormat) -> Path:
    """Saves a record under the ending of its format, in place of an older one with another ending."""
    path = folder / f"{name}.{format}"
    save_record(path, record)
    for ending in ENDINGS:
        if (other := folder / f"{name}{ending}") != path:
            other.unlink(missing_ok=True)
    return path


def sibling(path: Path, suffix: str) -> Path:
    """A file of the same sample beside its record: `X.pkl`, `X.pkl.gz` or `X.safetensors` -> `X<suffix>`."""
    return path.with_name(name_of(path) + suffix)


def name_of(path: Path) -> str:
    """A record's file without its ending."""
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), path.name)
