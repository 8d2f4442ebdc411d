"""The records of a run: which sample has one, and what all of them tell together."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import spearmanr

from lab.base.errors import UserError
from lab.datasets import Sample
from lab.heads.choice import HeadChoice, check_owner
from lab.heads.reading import tell_unreadable
from lab.measure.glance import Glance, heads_of
from lab.records.files import load_or_why
from lab.records.folder import list_samples

log = logging.getLogger(__name__)


def record_files(folder: Path, samples: Sequence[Sample], beside: Iterable[Sample] = ()) -> dict[str, Path]:
    """The record of each sample that has one. Raises UserError if none has; says how many do not match, both ways.

    `beside`: samples of the same data file whose records are not wanted.
    """
    found = list_samples(folder)["records"]
    files = {sample.id: found[sample.id] for sample in samples if sample.id in found}
    other = len(found) - len(files) - sum(sample.id in found for sample in beside)
    if not files:
        there = f"no sample of {len(samples)} has a record in {folder} ({other} others are there)"
        own = "set data.data_file to the file that those were collected from, or " if other else ""
        raise UserError(f"{there}: {own}collect the samples with data.process_all=true")
    if other or len(files) < len(samples):
        without = len(samples) - len(files)
        log.warning("%d of %d samples have no record; %d records belong to no sample", without, len(samples), other)
    return files


def tell_asked_otherwise(records: Sequence[tuple[Sample, Any]]) -> None:
    """Warns in one line of records about other expressions than their samples: another data file may have the same ids.

    A sample, and the expression of its record; what is no text tells none.
    """
    others = [
        (sample, asked)
        for sample, asked in records
        if isinstance(asked, str) and asked.rstrip(" .") != sample.query.rstrip(" .")  # data.final_period
    ]
    if others:
        sample, asked = others[0]
        log.warning(
            "%d of %d records are about other expressions than the samples of their ids, such as %s, about %r, not %r: "
            "collect them again with stage=batch, or set data.data_file to the file that they were collected from",
            *(len(others), len(records), sample.id, asked, sample.query),
        )


def shape_of(files: Iterable[Path], choice: HeadChoice) -> tuple[int, int]:
    """(layers, heads) of the first record that can be read.

    Raises UserError if none can be, if its model does not have the heads, or if they are of another (`check_owner`).
    """
    unreadable: dict[Path, str] = {}
    if (shape := shape_if_any(files, choice, unreadable)) is None:
        tell_unreadable(unreadable, len(unreadable))
        raise UserError("no record; expected one or more")
    return shape


def shape_if_any(
    files: Iterable[Path], choice: HeadChoice, unreadable: dict[Path, str] | None = None
) -> tuple[int, int] | None:
    """The same, but None if no record can be read; `unreadable` gets what is wrong with those before the first."""
    for path in files:
        record = load_or_why(path)
        if not isinstance(record, str):
            shape = record.num_layers, record.num_heads
            check_owner(choice, record.made_by, shape)
            return shape
        if unreadable is not None:
            unreadable[path] = record
    return None


@dataclass(eq=False)
class Overview:
    """What one reading of all records gives: everything that a control fixes over the samples."""

    shape: tuple[int, int]
    sums: Float[np.ndarray, "layers heads"]  # attention sums, added up
    selected: Int[np.ndarray, "layers heads"]  # how often each head is among the top_n by both criteria
    by_entropy: Int[np.ndarray, "layers heads"]  # the same by entropy alone
    tied: int  # samples in which entropy does not decide which heads are the best `top_k`
    # IoU of each head's own box, added up; NaN if records keep some heads' maps only.
    head_iou: Float[np.ndarray, "layers heads"]
    samples: int = 0
    unreadable: dict[Path, str] = field(default_factory=dict)  # records that were left out, and why

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> "Overview":
        return cls(shape, np.zeros(shape), np.zeros(shape, int), np.zeros(shape, int), 0, np.zeros(shape))

    def add(self, seen: Glance, top_n: int) -> None:
        """Counts one record."""
        self.sums += seen.sums
        for counts, criterion in ((self.selected, "both"), (self.by_entropy, "entropy only")):
            for head in heads_of(seen.best[criterion][:top_n]):
                counts[head] += 1
        self.tied += seen.tied
        self.head_iou += np.nan if seen.iou is None else seen.iou
        self.samples += 1


def rank_correlation(view: Overview) -> tuple[float | None, int]:
    """Spearman's rho between how often a head is selected and how good its own box is, over so many heads.

    They are the heads ever selected. None with fewer than three of them, if all are alike in one of the two, or if the
    boxes of all heads are not known.
    """
    seen = view.selected > 0
    alike = any(np.ptp(values[seen], axis=None) == 0 for values in (view.selected, view.head_iou) if seen.any())
    if seen.sum() < 3 or np.isnan(view.head_iou).any() or alike:
        return None, int(seen.sum())
    return float(spearmanr(view.selected[seen], view.head_iou[seen]).statistic), int(seen.sum())
