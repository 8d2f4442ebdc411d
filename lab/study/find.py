"""The first reading of the records: which heads are selected, by which criterion, and how good each head's own box is.

No label is read for the selection. Labels are read for `iou` alone, which serves the oracle rows and the rank
correlation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from analyze import Head, most_selected
from conf.schema import LogicConfig, ThresholdOver
from lab.base.console import progress
from lab.base.errors import UserError
from lab.base.paths import find
from lab.base.workers import in_workers
from lab.datasets import Sample, read_truth
from lab.heads.reading import ModelOfRecords, passes_on_average, tell_unreadable
from lab.measure.criteria import ALONE, NEEDS
from lab.measure.glance import CRITERIA, PUBLISHED, Glance, allowed, glance, heads_of
from lab.measure.intervals import numbered
from lab.measure.overview import record_files, tell_asked_otherwise
from lab.records.files import load_or_why, load_record
from lab.records.folder import list_samples
from lab.study.beside import BesidePaths, beside_of
from lab.study.settings import Settings


@dataclass(frozen=True)
class Split:
    """Whose heads are counted and who is scored. The same samples may be both: counting reads no label."""

    scored: tuple[Sample, ...]
    files: dict[str, Path]  # records of the scored samples, by id; a sample without one is a miss
    finding: tuple[Path, ...]  # records over which the heads are counted
    note: str
    unreadable: Mapping[Path, str] = field(default_factory=dict)  # records that were left out, and why

    beside: Mapping[Path, BesidePaths] = field(default_factory=dict)  # other records of the same things

    @property
    def paths(self) -> list[Path]:
        """Every record that is read, once, in a fixed order."""
        return list(dict.fromkeys([*self.files.values(), *self.finding]))


@dataclass(frozen=True)
class Job:
    """A record to read; the boxes of all its heads are measured if `sample` tells the truth about it."""

    path: Path
    sample: Sample | None
    beside: BesidePaths


@dataclass(eq=False)
class Found:
    """What the first reading gives; a row of its arrays is a record, in the order of Split.paths."""

    shape: tuple[int, int]
    model: str | None
    row_of: dict[Path, int]
    picks: dict[str, Int[np.ndarray, "records top_n 2"]]
    finding: Int[np.ndarray, " found"]  # rows of the records over which the heads are counted
    sums: Float[np.ndarray, "records layers heads"]  # attention sums
    tied: Bool[np.ndarray, " records"]  # whether entropy does not decide which heads are the best `top_k`
    iou: Float[np.ndarray, "records layers heads"]  # IoU of each head's own box; NaN if it was not measured
    picture_of: Int[np.ndarray, " records"]  # a number for the picture, the same for records that share one
    scored_picture_of: Int[np.ndarray, " samples"]  # the same for the scored samples, also those without a record
    generic: bool = True  # whether every record holds the generic prompt's attention
    told: dict[str, int] = field(default_factory=dict)  # in so many records there was what a criterion needs

    def criteria(self, logic: LogicConfig) -> list[str]:
        """Those that pick enough heads, the paper's first."""
        return [name for name in self.picks if name in CRITERIA or self._picked(name, logic) >= logic.top_k]

    def by_all(self, criterion: str) -> bool:
        """Whether every record has what a criterion needs, so that it can pick anew for each."""
        return self.told.get(criterion) == len(self.row_of)

    def _picked(self, criterion: str, logic: LogicConfig) -> int:
        return int(np.count_nonzero(self.counts(criterion, logic)))

    @classmethod
    def empty(cls, parts: Split, first: Glance) -> "Found":
        """Before any record is counted."""
        row_of = {path: row for row, path in enumerate(parts.paths)}
        number = len(row_of)
        shape = next(iter(first.best.values())).shape
        picks = {name: np.full((number, *shape), -1, np.int16) for name in (*CRITERIA, PUBLISHED, *ALONE, *NEEDS)}
        finding = np.array([row_of[path] for path in parts.finding])
        sums, iou = np.zeros((number, *first.shape)), np.full((number, *first.shape), np.nan, np.float32)
        return cls(
            first.shape,
            None,
            row_of,
            picks,
            finding,
            sums,
            np.zeros(number, bool),
            iou,
            np.zeros(number, np.intp),
            np.zeros(0, np.intp),
            told=dict.fromkeys(picks, 0),
        )

    @property
    def measured(self) -> Int[np.ndarray, " measured"]:
        """Rows of the records on which every head's own box was measured."""
        return np.flatnonzero(~np.isnan(self.iou[:, 0, 0]))

    @property
    def mean_iou(self) -> Float[np.ndarray, "layers heads"]:
        """Of each head's own boxes; 0 where none was measured."""
        return self.iou[self.measured].sum(0) / max(1, len(self.measured))

    def greedy(self, path: Path, k: int) -> dict[str, tuple[Head, ...]]:
        """The `k` best heads of one record by each criterion."""
        return {criterion: heads_of(picks[self.row_of[path], :k]) for criterion, picks in self.picks.items()}

    def votes(self, criterion: str, logic: LogicConfig) -> Float[np.ndarray, "records layers heads"]:
        """What each record gives to each head: its attention sum, or 1 to the best `top_n` by the criterion."""
        if criterion == "sum only":
            return np.stack([allowed(sums, logic) for sums in self.sums])
        votes = np.zeros(self.sums.shape)
        picks = self.picks[criterion][:, : logic.select.top_n]
        row, place = np.nonzero(picks[..., 0] >= 0)
        layer, head = picks[row, place].T
        votes[row, layer, head] = 1
        return votes

    def counts(self, criterion: str, logic: LogicConfig) -> Float[np.ndarray, "layers heads"]:
        """The votes of the records that find, added up."""
        return self.votes(criterion, logic)[self.finding].sum(0)

    def frequencies(self, criterion: str, logic: LogicConfig) -> dict[Head, float]:
        """In what share of the records that find each head is among the best, but for heads that never are."""
        shares = self.counts(criterion, logic) / len(self.finding)
        return {(layer, head): float(shares[layer, head]) for layer, head in np.argwhere(shares > 0).tolist()}

    def fixed(self, criterion: str, k: int, logic: LogicConfig) -> tuple[Head, ...]:
        """The `k` localization heads by a criterion. Raises UserError if fewer were ever selected."""
        return tuple(most_selected(self.counts(criterion, logic), k))

    def oracle(self, k: int) -> tuple[Head, ...]:
        """The `k` heads whose own boxes are best, by the labels."""
        order = np.argsort(-self.mean_iou, axis=None, kind="stable")[:k].tolist()
        return tuple(divmod(index, self.shape[1]) for index in order)


def split(samples: Sequence[Sample], folder: Path, settings: Settings, absent: Sequence[Sample] = ()) -> Split:
    """As `study.find` says, without the records that cannot be read. Raises UserError if a side would be empty.

    `absent`: samples of things that are not there, which the study leaves out with their records.
    """
    files, where = record_files(folder, samples, absent), settings.study.find
    broken, asked = _checked(list(files.values()), settings)
    files = {name: path for name, path in files.items() if path not in broken}
    tell_asked_otherwise([(sample, asked[files[sample.id]]) for sample in samples if sample.id in files])
    beside = beside_of(samples, files, settings.study.mirrored)
    if where == "all":
        note = f"Heads are counted over the {len(files)} scored samples themselves: counting reads no label."
        return Split(tuple(samples), files, tuple(files.values()), note, broken, beside)
    if where == "half":
        if len(files) < 2:
            raise UserError(
                f"study.find=half needs two records or more, but {folder} holds {len(files)} of these samples"
            )
        finders = _half(samples, files, settings.seed)
        note = f"Heads are counted over {len(finders)} samples, drawn at random, and scored on other pictures."
        scored = tuple(sample for sample in samples if sample.id not in finders)
        found = tuple(files[name] for name in sorted(finders))
        return Split(scored, _without(files, finders), found, note, broken, beside)
    other = find(where)
    if not other.is_dir():
        raise UserError(f"study.find={where}: no such folder; expected all, half or a folder of records")
    others = list(list_samples(other)["records"].values())
    if not others:
        raise UserError(f"study.find={where}: no records there; expected all, half or a folder of records")
    broken_others, _ = _checked(others, settings)
    finding = tuple(path for path in others if path not in broken_others)
    note = f"Heads are counted over {len(finding)} other records, of another folder."
    return Split(tuple(samples), files, finding, note, broken | broken_others, beside)


def _checked(paths: Sequence[Path], settings: Settings) -> tuple[dict[Path, str], dict[Path, Any]]:
    """The records that cannot be read, and why, which is told: the readings to come need to know how many there are;
    the expressions of the others.
    """
    broken, asked = dict[Path, str](), dict[Path, Any]()
    read = progress(in_workers(_looked_at, paths, settings.workers), "study, check", total=len(paths))
    for path, (why, expression) in read:
        if why is None:
            asked[path] = expression
        else:
            broken[path] = why
    tell_unreadable(broken, len(paths))
    return broken, asked


def _looked_at(path: Path) -> tuple[str | None, Any]:
    """Why a record cannot be read, and its expression."""
    record = load_or_why(path)
    return (record, None) if isinstance(record, str) else (None, record.meta.get("query"))


def _half(samples: Sequence[Sample], files: dict[str, Path], seed: int) -> set[str]:
    """The ids of half of the samples or, where some share a picture, of about so many: no picture is on both sides.

    Raises UserError if there is but one picture.
    """
    by_picture: dict[str, list[str]] = {}
    for sample in samples:
        if sample.id in files:
            by_picture.setdefault(str(sample.image_file), []).append(sample.id)
    if len(by_picture) < 2:
        raise UserError("study.find=half needs two pictures or more: all these samples share one")
    finders: set[str] = set()
    for picture in np.random.default_rng((seed, 1)).permutation(sorted(by_picture)).tolist()[:-1]:
        if len(finders) >= len(files) // 2:
            break
        finders.update(by_picture[picture])
    return finders


def _without(files: dict[str, Path], names: set[str]) -> dict[str, Path]:
    return {name: path for name, path in files.items() if name not in names}


def find_heads(parts: Split, settings: Settings) -> Found:
    """Reads every record once in worker processes, and those that find once more if they share one threshold.

    Raises UserError naming the files if records are of different models or lack what the configuration needs.
    """
    logic, common = settings.logic, None
    if logic.select.threshold == ThresholdOver.dataset:
        common = passes_on_average(parts.finding, logic, settings.workers)
    read = partial(look, logic=logic, common=common)
    model, pictures = ModelOfRecords(), []
    found: Found | None = None
    jobs = _jobs(parts, settings)
    for row, (job, seen) in enumerate(progress(in_workers(read, jobs, settings.workers), "study 1/2", total=len(jobs))):
        model.compare(job.path, seen.model, seen.shape)
        found = found or Found.empty(parts, seen)
        for criterion, best in seen.best.items():
            found.picks[criterion][row] = best
            found.told[criterion] += 1
        found.sums[row], found.tied[row] = seen.sums, seen.tied
        if seen.iou is not None:
            found.iou[row] = seen.iou
        found.generic &= seen.generic
        pictures.append(seen.picture or str(job.path))
    assert found is not None  # record_files found at least one
    found.model = model.name
    scored = [str(sample.image_file) for sample in parts.scored]
    of_sample = {parts.files[sample.id]: str(sample.image_file) for sample in parts.scored if sample.id in parts.files}
    named = [of_sample.get(path, picture) for path, picture in zip(parts.paths, pictures, strict=True)]
    found.picture_of, found.scored_picture_of = np.split(numbered([*named, *scored]), [len(named)])
    return found


def _jobs(parts: Split, settings: Settings) -> list[Job]:
    """Every record; of `study.head_samples` at most, drawn at random, every head's own box is measured."""
    seen = [sample for sample in parts.scored if sample.id in parts.files]
    order = np.random.default_rng((settings.seed, 3)).permutation(len(seen))[: settings.study.head_samples]
    measured = {parts.files[seen[i].id]: seen[i] for i in order}
    return [Job(path, measured.get(path), parts.beside.get(path, BesidePaths())) for path in parts.paths]


def look(job: Job, logic: LogicConfig, common: Bool[np.ndarray, "layers heads"] | None) -> Glance:
    """Reads one record. `common` says which heads look at the image enough, if that is the same for all records."""
    record = load_record(job.path, logic)
    true_xyxy = None if job.sample is None else read_truth(job.sample, record.image_size).box_xyxy
    return glance(record, job.path, logic, true_xyxy, common=common, more=True, beside=job.beside.read(record, logic))


def first_heads(counts: Int[np.ndarray, "layers heads"], k: int) -> list[Head]:
    """The `k` heads counted most often, ties in (layer, head) order; fewer if fewer were ever counted."""
    order = np.argsort(-counts, axis=None, kind="stable")[: min(k, np.count_nonzero(counts))].tolist()
    return [divmod(index, counts.shape[1]) for index in order]
