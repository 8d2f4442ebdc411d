"""The rows of stage=evaluate.

The chosen heads, and controls that tell whether it is these heads that make the boxes good.

Each control is blind to the truth but for the oracle:

    random        other heads of the same layers: every set if there are few, else `evaluate.draws` of them
    all           all heads of the model together
    sum_only      the heads with the largest attention sums on average: the first criterion alone
    entropy_only  the heads selected most often by low entropy, whatever they look at: the second criterion alone
    greedy        picked anew for each sample by both criteria
    oracle        the head, and the `top_k` heads, whose own boxes are best by the truth
    centre        no heads: a box in the middle, half as wide and as high as the image
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, product
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import spearmanr

from analyze import Head, HeadScore, most_selected, rank_table, score_all, selection_frequency, tied_at
from bbox import binarise, box_on_image, head_maps, region, smooth
from conf.schema import Contrast, LogicConfig
from lab.base.console import progress
from lab.base.errors import UserError
from lab.datasets import Sample, read_truth
from lab.heads.choice import HeadChoice
from lab.heads.reading import ModelOfRecords, tell_unreadable
from lab.measure.metrics import box_iou, exclusive
from lab.records.files import load_or_why
from lab.records.folder import list_samples
from lab.records.record import Record

log = logging.getLogger(__name__)

MOST_SETS = 128  # of random heads, that are all measured instead of drawn

Ranking = Sequence[HeadScore]
Picker = Callable[[Record, Ranking], Sequence[Head]]
Rows = dict[str, Picker | None]  # name of a row, and how it picks its heads; None: no heads, the box in the middle


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


def record_files(folder: Path, samples: Sequence[Sample]) -> dict[str, Path]:
    """The record of each sample that has one. Raises UserError if none has; says how many do not match, both ways."""
    found = list_samples(folder)["records"]
    files = {sample.id: found[sample.id] for sample in samples if sample.id in found}
    other = len(found) - len(files)
    if not files:
        there = f"no sample of {len(samples)} has a record in {folder} ({other} others are there)"
        raise UserError(f"{there}: collect them with data.process_all=true")
    if other or len(files) < len(samples):
        without = len(samples) - len(files)
        log.warning("%d of %d samples have no record; %d records belong to no sample", without, len(samples), other)
    return files


def overview(samples: Sequence[Sample], files: dict[str, Path], logic: LogicConfig, *, oracle: bool) -> Overview:
    """Reads every record once; with `oracle`, the box of every single head must be known.

    Those that cannot be read are left out, which is told.
    Raises UserError naming the files if records are of different models, and if none can be read.
    """
    view: Overview | None = None
    model, unreadable = ModelOfRecords(), dict[Path, str]()
    for sample in progress([s for s in samples if s.id in files], "evaluate 1/2"):
        record = load_or_why(files[sample.id], logic.grids)
        if isinstance(record, str):
            unreadable[files[sample.id]] = record
            continue
        shape = (record.num_layers, record.num_heads)
        model.compare(files[sample.id], record.meta.get("model_name"), shape)
        check_contrast(record, logic.contrast, files[sample.id])
        view = view or Overview.empty(shape)
        every = score_all(record, logic)
        top_n = logic.select.top_n
        view.sums += every.attn_sum
        ranking = rank_table(every.only(every.passes), logic)
        view.selected += selection_frequency([ranking], top_n, shape)
        view.tied += tied_at(ranking, logic.top_k)
        view.by_entropy += selection_frequency([rank_table(every.only(np.ones(shape, bool)), logic)], top_n, shape)
        if record.subset.holds_all or oracle:
            view.head_iou += head_ious(record, read_truth(sample, record.image_size).box_xyxy, logic)
        else:
            view.head_iou[:] = np.nan
        view.samples += 1
    tell_unreadable(unreadable, len(files))
    assert view is not None  # record_files found at least one
    view.unreadable = unreadable
    return view


def check_contrast(record: Record, contrast: Contrast, path: Path) -> None:
    """Raises UserError naming the file if a contrast needs the generic prompt's attention and the record lacks it."""
    if contrast != Contrast.none and record.generic is None:
        lacking = f"{path} lacks the generic prompt's attention, which logic.contrast={contrast} needs"
        raise UserError(f"{lacking}: collect with data.save_generic=true")


def head_ious(record: Record, true_xyxy: tuple[float, ...], logic: LogicConfig) -> Float[np.ndarray, "layers heads"]:
    """IoU of the true box (edges exclusive) with the box that each head gives by itself."""
    if record.image_size is None:
        raise UserError("a record does not know its image's size (meta has no image_size): collect it again")
    maps = head_maps(record, list(np.ndindex(record.maps.shape[:2])), logic.contrast)
    masks = (region(binarise(heat, logic.mask), logic.box) for heat in smooth(maps, logic.smoothing))
    boxes = [box_on_image(mask, record.grid, record.image_size) for mask in masks]
    found = np.array([(0.0, 0.0, 0.0, 0.0) if box is None else exclusive(box) for box in boxes])
    return box_iou(found, np.array(true_xyxy)).reshape(record.num_layers, record.num_heads)


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


# the heads of each row


@dataclass(frozen=True)
class Setting:
    """What a control may know of the run."""

    view: Overview
    logic: LogicConfig
    fixed: list[Head] | None  # the chosen heads, if they are the same for all samples
    draws: int = 20  # of random heads
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


def _random(on: Setting) -> Rows:
    if on.fixed is None:
        log.warning("no random control: logic.heads fixes no heads whose layers they could share")
        return {}
    sets = sets_of_same_layers(on.fixed, on.view.shape[1], on.draws, on.rng).sets
    return {f"random {i}": _always(heads) for i, heads in enumerate(sets)}


def _all(on: Setting) -> Rows:
    return {"all heads": _always(list(np.ndindex(*on.view.shape)))}


def _sum_only(on: Setting) -> Rows:
    return {"attention sum only": _always(most_selected(allowed(on.view.sums, on.logic), on.logic.top_k))}


def _entropy_only(on: Setting) -> Rows:
    return {"entropy only": _always(most_selected(on.view.by_entropy, on.logic.top_k))}


def _greedy(on: Setting) -> Rows:
    return {"picked per sample": lambda record, ranking: [(s.layer, s.head) for s in ranking[: on.logic.top_k]]}


def _oracle(on: Setting) -> Rows:
    k = on.logic.top_k
    order = np.argsort(-on.view.head_iou, axis=None, kind="stable")[:k].tolist()
    best = [divmod(index, on.view.shape[1]) for index in order]
    return {"oracle, best head": _always(best[:1]), f"oracle, best {k} heads": _always(best)}


def _centre(on: Setting) -> Rows:
    return {"centre box": None}


CONTROLS: dict[str, Callable[[Setting], Rows]] = {
    "random": _random,
    "all": _all,
    "sum_only": _sum_only,
    "entropy_only": _entropy_only,
    "greedy": _greedy,
    "oracle": _oracle,
    "centre": _centre,
}


def check_controls(names: Sequence[str]) -> None:
    """Raises UserError naming those that do not exist."""
    unknown = [name for name in names if name not in CONTROLS]
    if unknown:
        raise UserError(f"evaluate.controls names {', '.join(unknown)}; choose from {', '.join(CONTROLS)}")


def make_pickers(names: Sequence[str], on: Setting, choice: HeadChoice) -> Rows:
    """The rows of the table: the chosen heads, then those of each control."""
    rows: Rows = {"chosen": lambda record, ranking: choice.of((record.num_layers, record.num_heads), ranking)}
    for name in names:
        rows |= CONTROLS[name](on)
    return rows


def allowed(values: Float[np.ndarray, "layers heads"], logic: LogicConfig) -> Float[np.ndarray, "layers heads"]:
    """The values of the layers that may hold a selected head, 0 elsewhere."""
    return np.where(np.arange(len(values))[:, None] >= logic.filter.first_layer, values, 0.0)


def _always(heads: Sequence[Head]) -> Picker:
    return lambda record, ranking: heads


@dataclass(frozen=True)
class RandomSets:
    """Sets of heads that share their layers with given heads, and none of the heads."""

    sets: tuple[tuple[Head, ...], ...]
    total: int  # there are so many in all

    @property
    def all(self) -> bool:
        """Whether these are all that there are."""
        return len(self.sets) == self.total

    @property
    def note(self) -> str:
        """What they are, in words."""
        if self.all:
            return f"all {self.total} sets of other heads of the same layers"
        return f"{len(self.sets)} of the {self.total:,} sets of other heads of the same layers, drawn at random"


def sets_of_same_layers(heads: Sequence[Head], num_heads: int, draws: int, rng: np.random.Generator) -> RandomSets:
    """Every set of as many other heads of the same layers if there are at most MOST_SETS, else `draws` of them.

    No head is among `heads` unless a layer has too few others; then all of that layer's heads may be.
    """
    wanted = {layer: sum(head[0] == layer for head in heads) for layer in dict.fromkeys(head[0] for head in heads)}
    free = {}
    for layer, number in wanted.items():
        others = [(layer, head) for head in range(num_heads) if (layer, head) not in heads]
        free[layer] = others if len(others) >= number else [(layer, head) for head in range(num_heads)]
    total = math.prod(math.comb(len(free[layer]), number) for layer, number in wanted.items())
    if total <= MOST_SETS:
        parts = product(*(combinations(free[layer], number) for layer, number in wanted.items()))
        return RandomSets(tuple(tuple(chain.from_iterable(part)) for part in parts), total)
    drawn: dict[tuple[Head, ...], None] = {}  # a set that is drawn twice counts once
    while len(drawn) < min(draws, total):
        picks = [sorted(rng.choice(len(free[layer]), number, replace=False)) for layer, number in wanted.items()]
        drawn[tuple(free[layer][i] for layer, pick in zip(wanted, picks, strict=True) for i in pick)] = None
    return RandomSets(tuple(drawn), total)
