"""Which records stand beside a sample's own: the same thing in other words, and in the mirrored picture.

No label is read: the data file names the thing, or does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.schema import LogicConfig
from lab.base.errors import UserError
from lab.base.paths import find
from lab.datasets import Sample
from lab.datasets.mirror import swapped
from lab.measure.criteria import Beside
from lab.records.files import load_record
from lab.records.folder import list_samples
from lab.records.record import Record

MOST = 3  # other wordings that are read for each sample: a thing with twenty would take twenty times as long
KEY = "study.mirrored"


@dataclass(frozen=True)
class BesidePaths:
    """Where the records are."""

    wordings: tuple[Path, ...] = ()
    mirrored: Path | None = None

    def read(self, record: Record, logic: LogicConfig) -> Beside:
        """The records. Raises UserError naming one that is not of the mirrored picture."""
        words = [load_record(path, logic) for path in self.wordings]
        return Beside(words, None if self.mirrored is None else _turned(self.mirrored, record, logic))


def _turned(path: Path, record: Record, logic: LogicConfig) -> Record:
    found, said = load_record(path, logic), str(record.meta.get("query"))
    if found.meta.get("image_file") == record.meta.get("image_file") or found.meta.get("query") != swapped(said):
        raise UserError(f'{path} is not of the mirrored picture and "{swapped(said)}": {KEY} names another folder')
    return found


def beside_of(samples: Sequence[Sample], files: Mapping[str, Path], folder: str | None) -> dict[Path, BesidePaths]:
    """What stands beside each record of `files`, by sample. `folder` is that of the mirrored pictures' records.

    Raises UserError if it holds none of these samples.
    """
    things: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        if sample.id in files and sample.thing is not None:
            things.setdefault(sample.thing, []).append(sample)
    turned = _mirrored_records(folder, files)
    found = {}
    for sample in samples:
        if sample.id in files:
            same = things.get(sample.thing, []) if sample.thing is not None else []
            others = [files[one.id] for one in same if one.query != sample.query][:MOST]
            found[files[sample.id]] = BesidePaths(tuple(others), turned.get(sample.id))
    return found


def _mirrored_records(folder: str | None, files: Mapping[str, Path]) -> dict[str, Path]:
    if folder is None:
        return {}
    path = find(folder)
    if not path.is_dir():
        raise UserError(f"{KEY}={folder}: no such folder; expected one of records of the mirrored pictures")
    there = list_samples(path)["records"]
    found = {name: there[name] for name in files if name in there}
    if not found:
        raise UserError(f"{KEY}={folder}: holds no record of these samples; expected the ids of the data file")
    return found
