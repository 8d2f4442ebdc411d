"""Every sample of a run measured in every row of stage=evaluate, in worker processes.

Of a sample only numbers stay, and what the files of results tell of it, as lines of text in files that nobody sees. A
record is read once; once more if a control waits for what all records tell.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from analyze import rank_heads
from bbox import Localization, localize
from conf.schema import LogicConfig
from lab.base.console import progress
from lab.base.workers import in_workers
from lab.datasets import Sample, Truth, read_truth
from lab.datasets.sample import sample_size
from lab.heads.reading import ModelOfRecords, tell_unreadable
from lab.measure.absent import Told
from lab.measure.coco import coco_annotation, coco_image, coco_prediction
from lab.measure.controls import AFTER_ALL, KNOWN, PerSample, Rows, Setting, chosen
from lab.measure.glance import Glance, glance
from lab.measure.intervals import columns
from lab.measure.metrics import MEASURES, Score, score
from lab.measure.overview import Overview, tell_asked_otherwise
from lab.measure.predictions import middle, prediction, said
from lab.measure.sets import HeadSet, Sight
from lab.measure.spreadsheet import csv_line
from lab.records.files import load_or_why, load_record
from lab.records.record import Record

Columns = Float[np.ndarray, "4 rows"]  # see lab.measure.intervals.columns
BOX_ALONE = (PerSample.MIDDLE, PerSample.SAID)  # rows that make no mask
LINES = ("predictions", "images", "annotations", "table")  # what is told of a sample, a line each


@dataclass(frozen=True)
class Rules:
    """How a sample is measured. It can be sent to worker processes."""

    logic: LogicConfig
    inclusive: bool  # the older convention of boxes
    oracle: bool = False  # the box of every single head must be known


@dataclass(frozen=True)
class Job:
    """A sample, and its record if it has one."""

    sample: Sample
    path: Path | None
    number: int = 0  # among all, from 1 on


@dataclass(frozen=True, eq=False)
class Seen:
    """One sample after the first reading."""

    unreadable: str | None  # why its record cannot be read
    glance: Glance | None
    chosen: Score
    lines: Mapping[str, bytes]  # of LINES, those that there are
    columns: Columns
    told: Told
    asked: Any = None  # the expression of the record, if it tells one


@dataclass(frozen=True, eq=False)
class Measured:
    """What a run gives."""

    view: Overview
    chosen: list[Score]
    rows: dict[str, Float[np.ndarray, "4 samples"]]
    told: list[Told]  # of the chosen heads, samples without target behind the others


def measure(
    samples: Sequence[Sample],
    files: Mapping[str, Path],
    controls: Sequence[str],
    on: Setting,
    rules: Rules,
    lines: Mapping[str, IO[bytes]],
    workers: int | None = None,
) -> Measured:
    """Every sample's score in every row, a sample without a record being a miss; those without target are told only.

    `lines` are files, by LINES, that get a line for each sample: of the predictions and the table those of the chosen
    heads; a prediction that encloses no area has none.

    Raises UserError naming the files if records are of different models, and if none can be read.
    """
    rows = {name: KNOWN[name](on) for name in controls if name in KNOWN}
    later = [name for name in controls if name in AFTER_ALL]
    there, gone = ([sample for sample in samples if sample.present == side] for side in (True, False))
    jobs = [Job(sample, files.get(sample.id), number) for number, sample in enumerate(there, start=1)]
    first = _First(on, lines)
    early = chosen(on) | _joined(rows.values())
    scores = np.empty((len(early), 4, len(jobs)))
    read = in_workers(partial(see, rows=early, rules=rules), jobs, workers)
    for i, (job, seen) in enumerate(progress(read, "evaluate 1/2" if later else "evaluate", total=len(jobs))):
        scores[:, :, i] = seen.columns.T
        first.add(job, seen)
    without = [Job(sample, files.get(sample.id)) for sample in gone]
    looked = in_workers(partial(see_absent, heads=early["chosen"], rules=rules), without, workers)
    for job, absent in progress(looked, "evaluate, no target", total=len(without)) if without else ():
        first.add_absent(job, absent)
    tell_unreadable(first.view.unreadable, len(files))
    tell_asked_otherwise(first.asked)
    columns_of = dict(zip(early, scores, strict=True))
    if later:
        rows |= {name: AFTER_ALL[name](on, first.view) for name in later}
        late = _joined(rows[name] for name in later)
        scores = np.empty((len(late), 4, len(jobs)))
        again = in_workers(partial(see_again, rows=late, rules=rules), first.again, workers)
        for i, (_, row) in enumerate(progress(again, "evaluate 2/2", total=len(jobs))):
            scores[:, :, i] = row.T
        columns_of |= zip(late, scores, strict=True)
    order = chosen(on) | _joined(rows[name] for name in controls)
    return Measured(first.view, first.chosen, {name: columns_of[name] for name in order}, first.told)


class _First:
    """What the first reading leaves of the samples."""

    def __init__(self, on: Setting, lines: Mapping[str, IO[bytes]]) -> None:
        self.view, self.chosen = Overview.empty(on.shape), list[Score]()
        self.told: list[Told] = []
        self.again: list[Job] = []  # for a second reading
        self.asked: list[tuple[Sample, Any]] = []  # the samples with a record, and its expression
        self._model, self._logic, self._lines = ModelOfRecords(), on.logic, lines

    def add(self, job: Job, seen: Seen) -> None:
        self.chosen.append(seen.chosen)
        self._tell(seen.told, seen.lines)
        if job.path is not None and seen.unreadable is not None:
            self.view.unreadable[job.path] = seen.unreadable
        if job.path is None or seen.glance is None:
            self.again.append(Job(job.sample, None))
            return
        self._model.compare(job.path, seen.glance.model, seen.glance.shape)
        self.view.add(seen.glance, self._logic.select.top_n)
        self.asked.append((job.sample, seen.asked))
        self.again.append(job)

    def add_absent(self, job: Job, seen: "Absent") -> None:
        if job.path is not None and seen.unreadable is not None:
            self.view.unreadable[job.path] = seen.unreadable
        elif job.path is not None:
            self.asked.append((job.sample, seen.asked))
        self._tell(seen.told, seen.lines)

    def _tell(self, told: Told, lines: Mapping[str, bytes]) -> None:
        self.told.append(told)
        for name, line in lines.items():
            self._lines[name].write(line)


def _joined(parts: Iterable[Rows]) -> Rows:
    return {name: heads for part in parts for name, heads in part.items()}


# one sample


def see(job: Job, rows: Rows, rules: Rules) -> Seen:
    """The first reading of one sample."""
    record = load_or_why(job.path, rules.logic) if job.path else None
    if job.path is None or record is None or isinstance(record, str):
        size = sample_size(job.sample)
        truth = read_truth(job.sample, size)
        missed, scored = _missed(truth, rows, rules), score(truth, None, inclusive=rules.inclusive)
        why = record if isinstance(record, str) else None
        return Seen(why, None, scored, _lines(job, truth, size, None, scored), missed, _told(job, None, scored))
    size = record.image_size or sample_size(job.sample)
    sight, truth = Sight(record), read_truth(job.sample, size)
    if rules.oracle:
        record.subset.need_all()
    seen = glance(record, job.path, rules.logic, truth.box_xyxy, sight=sight)
    ranked = seen.picked("both", rules.logic.top_k)
    heads = rows["chosen"]
    located = localize(record, ranked if isinstance(heads, PerSample) else heads, rules.logic)
    found = prediction(truth.id, located, record.grid, inclusive=rules.inclusive)
    scored = score(truth, found, inclusive=rules.inclusive)
    lines = _lines(job, truth, size, located, scored)
    if (row := coco_prediction(prediction(truth.id, located, record.grid))) is not None:
        lines["predictions"] = _json_line(row)
    columns_of = _scores(sight, truth, rows, ranked, rules)
    return Seen(None, seen, scored, lines, columns_of, _told(job, located, scored), record.meta.get("query"))


def _told(job: Job, located: Localization | None, scored: Score) -> Told:
    boxed = located is not None and located.box_xyxy is not None
    return Told.of_score(job.sample, None if located is None else located.presence, boxed, scored)


@dataclass(frozen=True, eq=False)
class Absent:
    """One sample without target, read once."""

    unreadable: str | None
    told: Told
    lines: Mapping[str, bytes]
    asked: Any = None  # the expression of the record, if it tells one


def see_absent(job: Job, heads: HeadSet | PerSample, rules: Rules) -> Absent:
    """What the chosen heads tell of a sample without target; without a record, nothing is found."""
    record, located = load_or_why(job.path, rules.logic) if job.path else None, None
    why = record if isinstance(record, str) else None
    size = sample_size(job.sample) if record is None or isinstance(record, str) else record.image_size
    if record is not None and not isinstance(record, str):
        ranked = [(one.layer, one.head) for one in rank_heads(record, rules.logic)[: rules.logic.top_k]]
        located = localize(record, ranked if isinstance(heads, PerSample) else heads, rules.logic)
    boxed, area = (False, 0) if located is None else (located.box_xyxy is not None, int(located.mask.sum()))
    presence = None if located is None else located.presence
    told = Told.of_absent(job.sample, presence, boxed, area)
    nothing = Score(job.sample.id, job.sample.split, "")
    lines = {
        "images": _json_line(coco_image(job.sample, size or sample_size(job.sample))),
        "table": csv_line(job.sample, located, nothing),
    }
    if located is not None and isinstance(record, Record):
        row = coco_prediction(prediction(job.sample.id, located, record.grid))
        lines |= {} if row is None else {"predictions": _json_line(row)}
    return Absent(why, told, lines, record.meta.get("query") if isinstance(record, Record) else None)


def _lines(
    job: Job, truth: Truth, size: tuple[int, int], located: Localization | None, scored: Score
) -> dict[str, bytes]:
    """All but the prediction."""
    return {
        "images": _json_line(coco_image(job.sample, size)),
        "annotations": _json_line(coco_annotation(truth, job.number)),
        "table": csv_line(job.sample, located, scored),
    }


def _json_line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def see_again(job: Job, rows: Rows, rules: Rules) -> Columns:
    """The second reading, for rows whose heads are fixed."""
    if job.path is None:
        return _missed(read_truth(job.sample), rows, rules)
    record = load_record(job.path, rules.logic)
    return _scores(Sight(record), read_truth(job.sample, record.image_size), rows, (), rules)


def _scores(sight: Sight, truth: Truth, rows: Rows, ranked: HeadSet, rules: Rules) -> Columns:
    sets = [
        ranked if heads == PerSample.RANKED else () if isinstance(heads, PerSample) else heads
        for heads in rows.values()
    ]
    scores = sight.scores(sets, rules.logic, truth, inclusive=rules.inclusive)
    in_middle = [heads == PerSample.MIDDLE for heads in rows.values()]
    box = middle(truth.id, sight.image_size)
    scores[:, in_middle] = columns([score(truth, box, measures=("box",), inclusive=rules.inclusive)])
    if any(own := [heads == PerSample.SAID for heads in rows.values()]):
        written = said(truth.id, sight.record)
        scores[:, own] = columns([score(truth, written, measures=("box",), inclusive=rules.inclusive)])
    return scores


def _missed(truth: Truth, rows: Rows, rules: Rules) -> Columns:
    measures = [("box",) if heads in BOX_ALONE else MEASURES for heads in rows.values()]
    return columns([score(truth, None, measures=some, inclusive=rules.inclusive) for some in measures])
