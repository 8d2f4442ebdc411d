"""stage=evaluate: how good the boxes and masks are, and whether it is these heads that make them good.

Beside the chosen heads, the same samples are measured with controls, each blind to the truth but for the oracle:

    random      other heads of the same layers, drawn `evaluate.draws` times
    all         all heads of the model together
    sum_only    the heads with the largest attention sums on average: the first criterion alone
    entropy_only  the heads selected most often by low entropy, whatever they look at: the second criterion alone
    greedy      picked anew for each sample by both criteria
    oracle      the head, and the `top_k` heads, whose own boxes are best by the truth
    centre      no heads: a box in the middle, half as wide and as high as the image

Records are read one at a time, twice: once for what is fixed over all samples, once to measure.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from analyze import (
    Head,
    HeadScore,
    chosen_heads,
    fixed_heads,
    most_selected,
    rank_heads,
    rank_table,
    score_all,
    selection_frequency,
)
from bbox import Localization, binarise, box_on_image, head_maps, localize, region, smooth
from conf.schema import Config, LogicConfig
from lab.base.console import progress
from lab.base.errors import UserError
from lab.datasets import Sample, read_truth
from lab.heads.reading import ModelOfRecords
from lab.measure.intervals import Estimate
from lab.measure.metrics import Prediction, Score, box_iou, exclusive, score
from lab.records.files import load_record
from lab.records.folder import list_samples
from lab.records.record import Record
from llava.grid import Grid

log = logging.getLogger(__name__)


CONTROLS = ("random", "all", "sum_only", "entropy_only", "greedy", "oracle", "centre")


COLUMNS = ("Acc@0.25", "Acc@0.5", "Acc@0.75", "box IoU", "cIoU", "mIoU", "pointing")


Ranking = Sequence[HeadScore]


Picker = Callable[[Record, Ranking], Sequence[Head]]


@dataclass(eq=False)
class Overview:
    """What one reading of all records gives: everything that a control fixes over the samples."""

    shape: tuple[int, int]
    sums: Float[np.ndarray, "layers heads"]  # attention sums, added up
    selected: Int[np.ndarray, "layers heads"]  # how often each head is among the top_n by both criteria
    by_entropy: Int[np.ndarray, "layers heads"]  # the same by entropy alone
    head_iou: Float[
        np.ndarray, "layers heads"
    ]  # IoU of each head's own box, added up; NaN if records keep some heads' maps only
    samples: int = 0

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> "Overview":
        return cls(shape, np.zeros(shape), np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape))


def record_files(folder: Path, samples: Sequence[Sample]) -> dict[str, Path]:
    """The record of each sample that has one. Raises UserError if none has; says how many do not match, both ways."""
    found = list_samples(folder)["records"]
    files = {sample.id: found[sample.id] for sample in samples if sample.id in found}
    other = len(found) - len(files)
    if not files:
        raise UserError(
            f"no sample of {len(samples)} has a record in {folder} ({other} others are there): collect them with data.process_all=true"
        )
    if other or len(files) < len(samples):
        log.warning(
            "%d of %d samples have no record; %d records belong to no sample",
            len(samples) - len(files),
            len(samples),
            other,
        )
    return files


def overview(samples: Sequence[Sample], files: dict[str, Path], cfg: Config) -> Overview:
    """Reads every record once. Raises UserError naming the files if records are of different models."""
    view: Overview | None = None
    model = ModelOfRecords()
    for sample in progress([s for s in samples if s.id in files], "evaluate 1/2"):
        record = load_record(files[sample.id])
        shape = (record.num_layers, record.num_heads)
        model.compare(files[sample.id], record.meta.get("model_name"), shape)
        check_contrast(record, cfg.logic.contrast, files[sample.id])
        view = view or Overview.empty(shape)
        every = score_all(record, cfg.logic)
        top_n = cfg.logic.select.top_n
        view.sums += every.attn_sum
        view.selected += selection_frequency([rank_table(every.only(every.passes), cfg.logic)], top_n, shape)
        view.by_entropy += selection_frequency([rank_table(every.only(np.ones(shape, bool)), cfg.logic)], top_n, shape)
        if record.subset.holds_all or "oracle" in cfg.evaluate.controls:
            view.head_iou += head_ious(record, read_truth(sample, record.image_size).box_xyxy, cfg.logic)
        else:
            view.head_iou[:] = np.nan
        view.samples += 1
    assert view is not None  # record_files found at least one
    return view


def check_contrast(record: Record, contrast: str, path: Path) -> None:
    """Raises UserError naming the file if a contrast is asked for and the record lacks the generic prompt's attention."""
    if contrast != "none" and record.generic is None:
        raise UserError(
            f"{path} lacks the generic prompt's attention, which logic.contrast={contrast} needs: collect with data.save_generic=true"
        )


def head_ious(record: Record, true_xyxy: tuple[float, ...], logic: LogicConfig) -> Float[np.ndarray, "layers heads"]:
    """IoU of the true box (edges exclusive) with the box that each head gives by itself."""
    if record.image_size is None:
        raise UserError("a record does not know its image's size (meta has no image_size): collect it again")
    maps = head_maps(record, list(np.ndindex(record.maps.shape[:2])), logic.contrast)
    masks = (region(binarise(heat, logic.mask), logic.box) for heat in smooth(maps, logic.smoothing))
    boxes = [box_on_image(mask, record.grid, record.image_size) for mask in masks]
    found = np.array([(0.0, 0.0, 0.0, 0.0) if box is None else exclusive(box) for box in boxes])
    return box_iou(found, np.array(true_xyxy)).reshape(record.num_layers, record.num_heads)


# the heads of each row


def make_pickers(view: Overview, cfg: Config) -> dict[str, Picker | None]:
    """Name of each row of the table and how it picks its heads; None: no heads, the box in the middle."""
    known, k = cfg.model.localization_heads, cfg.logic.top_k
    fixed = fixed_heads(view.shape, cfg.logic, known)
    rows: dict[str, Picker | None] = {"chosen": lambda record, ranking: chosen_heads(record, ranking, cfg.logic, known)}
    every = [divmod(i, view.shape[1]) for i in range(view.shape[0] * view.shape[1])]
    best = [every[i] for i in np.argsort(-view.head_iou, axis=None, kind="stable")[:k]]
    constant: dict[str, dict[str, list[Head]]] = {
        "all": {"all heads": every},
        "sum_only": {"attention sum only": most_selected(allowed(view.sums, cfg.logic), k)},
        "entropy_only": {"entropy only": most_selected(view.by_entropy, k)},
        "oracle": {"oracle, best head": best[:1], f"oracle, best {k} heads": best},
    }
    if "random" in cfg.evaluate.controls and fixed is None:
        log.warning("no random control: logic.heads fixes no heads whose layers they could share")
    elif "random" in cfg.evaluate.controls:
        rng = np.random.default_rng(cfg.seed)
        constant["random"] = {
            f"random {i}": same_layers(fixed or [], view.shape[1], rng) for i in range(cfg.evaluate.draws)
        }
    for control in cfg.evaluate.controls:
        if control == "greedy":
            rows["picked per sample"] = lambda record, ranking: [(s.layer, s.head) for s in ranking[:k]]
        elif control == "centre":
            rows["centre box"] = None
        rows |= {name: _always(heads) for name, heads in constant.get(control, {}).items()}
    return rows


def allowed(values: Float[np.ndarray, "layers heads"], logic: LogicConfig) -> Float[np.ndarray, "layers heads"]:
    """The values of the layers that may hold a selected head, 0 elsewhere."""
    return np.where(np.arange(len(values))[:, None] >= logic.filter.min_layer, values, 0.0)


def _always(heads: Sequence[Head]) -> Picker:
    return lambda record, ranking: heads


def same_layers(heads: Sequence[Head], num_heads: int, rng: np.random.Generator) -> list[Head]:
    """As many heads of the same layers, none of them among `heads` unless a layer has no other left."""
    drawn: list[Head] = []
    for layer in (head[0] for head in heads):
        free = [(layer, h) for h in range(num_heads) if (layer, h) not in drawn]
        others = [head for head in free if head not in heads] or free
        drawn.append(others[rng.integers(len(others))])
    return drawn


# measuring


def measure(
    samples: Sequence[Sample], files: dict[str, Path], pickers: dict[str, Picker | None], cfg: Config
) -> tuple[dict[str, list[Score]], list[Prediction]]:
    """Every sample's score in every row, a sample without a record being a miss, and the chosen heads' predictions."""
    scores: dict[str, list[Score]] = {name: [] for name in pickers}
    kept = []
    for sample in progress(samples, "evaluate 2/2"):
        record = load_record(files[sample.id]) if sample.id in files else None
        truth = read_truth(sample, record.image_size if record else None)
        ranking = rank_heads(record, cfg.logic) if record else []
        for name, pick in pickers.items():
            found = (
                None
                if record is None
                else _centre(sample.id, record)
                if pick is None
                else _predict(sample.id, record, pick(record, ranking), cfg)
            )
            measures = ("box",) if pick is None else ("box", "mask", "point")
            scores[name].append(score(truth, found, measures=measures, inclusive=cfg.metrics.box == "inclusive"))
            if name == "chosen" and found is not None:
                kept.append(found)
    return scores, kept


def _predict(sample_id: str, record: Record, heads: Sequence[Head], cfg: Config) -> Prediction:
    return prediction(
        sample_id, localize(record, heads, cfg.logic), record.grid, inclusive=cfg.metrics.box == "inclusive"
    )


def prediction(sample_id: str, found: Localization, grid: Grid, *, inclusive: bool = False) -> Prediction:
    """What was found, as the metrics want it: its box with exclusive edges unless `inclusive`, its point the centre of
    the highest cell.
    """
    point = highest_point(found.heat, grid) if found.heads else None
    return Prediction(sample_id, metric_box(found.box_xyxy, inclusive=inclusive), found.mask, point)


def metric_box(
    box_xyxy: tuple[int, int, int, int] | None, *, inclusive: bool
) -> tuple[float, float, float, float] | None:
    """A box of pixels, both edges inclusive, in the convention of `metrics.box`."""
    if box_xyxy is None or not inclusive:
        return None if box_xyxy is None else exclusive(box_xyxy)
    x0, y0, x1, y1 = map(float, box_xyxy)
    return x0, y0, x1, y1


def highest_point(heat: Float[np.ndarray, "rows cols"], grid: Grid) -> tuple[float, float]:
    """The centre of the heat map's highest cell, (x, y) in pixels of the image."""
    row, col = np.unravel_index(heat.argmax(), heat.shape)
    x0, y0, x1, y1 = grid.extent_xyxy
    return float(x0 + (col + 0.5) * (x1 - x0) / grid.cols), float(y0 + (row + 0.5) * (y1 - y0) / grid.rows)


def _centre(sample_id: str, record: Record) -> Prediction:
    width, height = record.image_size or (1, 1)
    return Prediction(sample_id, (width / 4, height / 4, 3 * width / 4, 3 * height / 4))


def merge_draws(rows: dict[str, list[Estimate]]) -> dict[str, list[Estimate]]:
    """Puts the mean of the random draws, with the range that holds 95 % of them, in the place of the draws."""
    draws = [estimates for name, estimates in rows.items() if name.startswith("random ")]
    merged: dict[str, list[Estimate]] = {}
    for name, estimates in rows.items():
        if not name.startswith("random "):
            merged[name] = estimates
        elif "random, same layers" not in merged:
            merged["random, same layers"] = [_mean_of(same) for same in zip(*draws, strict=True)]
    return merged


def _mean_of(draws: Iterable[Estimate]) -> Estimate:
    found = list(draws)
    values = [one.value for one in found]
    low, high = np.quantile(values, [0.025, 0.975])
    return replace(found[0], value=float(np.mean(values)), low=float(low), high=float(high))
