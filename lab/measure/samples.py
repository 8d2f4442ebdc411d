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

from bbox import Localization, localize
from conf.schema import LogicConfig
from lab.base.console import progress
from lab.base.workers import in_workers
from lab.datasets import Sample, Truth, read_truth
from lab.datasets.sample import sample_size
from lab.heads.reading import ModelOfRecords, tell_unreadable
from lab.measure.coco import coco_annotation, coco_image, coco_prediction
from lab.measure.controls import AFTER_ALL, KNOWN, PerSample, Rows, Setting, chosen
from lab.measure.glance import Glance, glance
from lab.measure.intervals import columns
from lab.measure.metrics import MEASURES, Score, score
from lab.measure.overview import Overview
from lab.measure.predictions import middle, prediction, said
from lab.measure.sets import HeadSet, Sight
from lab.measure.spreadsheet import csv_line
from lab.records.files import load_or_why, load_record

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


@dataclass(frozen=True, eq=False)
class Measured:
    """What a run gives."""

    view: Overview
    chosen: list[Score]
    rows: dict[str, Float[np.ndarray, "4 samples"]]


def measure(
    samples: Sequence[Sample],
    files: Mapping[str, Path],
    controls: Sequence[str],
    on: Setting,
    rules: Rules,
    lines: Mapping[str, IO[bytes]],
    workers: int | None = None,
) -> Measured:
    """Every sample's score in every row, a sample without a record being a miss.

    `lines` are files, by LINES, that get a line for each sample: of the predictions and the table those of the chosen
    heads; a prediction that encloses no area has none.

    Raises UserError naming the files if records are of different models, and if none can be read.
    """
    rows = {name: KNOWN[name](on) for name in controls if name in KNOWN}
    later = [name for name in controls if name in AFTER_ALL]
    jobs = [Job(sample, files.get(sample.id), number) for number, sample in enumerate(samples, start=1)]
    first = _First(on, lines)
    early = chosen(on) | _joined(rows.values())
    read = in_workers(partial(see, rows=early, rules=rules), jobs, workers)
    for job, seen in progress(read, "evaluate 1/2" if later else "evaluate", total=len(jobs)):
        first.add(job, seen)
    tell_unreadable(first.view.unreadable, len(files))
    columns_of = dict(zip(early, _rows_of(first.columns), strict=True))
    if later:
        rows |= {name: AFTER_ALL[name](on, first.view) for name in later}
        late = _joined(rows[name] for name in later)
        again = in_workers(partial(see_again, rows=late, rules=rules), first.again, workers)
        found = [row for _, row in progress(again, "evaluate 2/2", total=len(jobs))]
        columns_of |= zip(late, _rows_of(found), strict=True)
    order = chosen(on) | _joined(rows[name] for name in controls)
    return Measured(first.view, first.chosen, {name: columns_of[name] for name in order})


class _First:
    """What the first reading leaves of the samples."""

    def __init__(self, on: Setting, lines: Mapping[str, IO[bytes]]) -> None:
        self.view, self.chosen = Overview.empty(on.shape), list[Score]()
        self.columns: list[Columns] = []
        self.again: list[Job] = []  # for a second reading
        self._model, self._logic, self._lines = ModelOfRecords(), on.logic, lines

    def add(self, job: Job, seen: Seen) -> None:
        self.columns.append(seen.columns)
        self.chosen.append(seen.chosen)
        for name, line in seen.lines.items():
            self._lines[name].write(line)
        if job.path is not None and seen.unreadable is not None:
            self.view.unreadable[job.path] = seen.unreadable
        if job.path is None or seen.glance is None:
            self.again.append(Job(job.sample, None))
            return
        self._model.compare(job.path, seen.glance.model, seen.glance.shape)
        self.view.add(seen.glance, self._logic.select.top_n)
        self.again.append(job)


def _joined(parts: Iterable[Rows]) -> Rows:
    return {name: heads for part in parts for name, heads in part.items()}


def _rows_of(found: Sequence[Columns]) -> Float[np.ndarray, "rows 4 samples"]:
    return np.stack(found, axis=-1).swapaxes(0, 1)


# one sample


def see(job: Job, rows: Rows, rules: Rules) -> Seen:
    """The first reading of one sample."""
    record = load_or_why(job.path, rules.logic) if job.path else None
    if job.path is None or record is None or isinstance(record, str):
        size = sample_size(job.sample)
        truth = read_truth(job.sample, size)
        missed, scored = _missed(truth, rows, rules), score(truth, None, inclusive=rules.inclusive)
        why = record if isinstance(record, str) else None
        return Seen(why, None, scored, _lines(job, truth, size, None, scored), missed)
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
    return Seen(None, seen, scored, lines, _scores(sight, truth, rows, ranked, rules))


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
