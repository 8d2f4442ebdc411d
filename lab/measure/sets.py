"""What many sets of heads find in one record, beside the truth. What they share is computed once.

    sight = Sight(record)
    scores = sight.scores(sets, logic, truth)       # [4, sets], as lab.measure.intervals.columns has them

Each head is smoothed once; thresholds, regions and boxes of all sets are taken in one go; masks are compared with the
truth without being drawn (lab.records.pixels). The numbers are those of `localize` and `metrics.score`, set by set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from analyze import Head
from bbox import (
    absent,
    binarise_each,
    boxes_on_image,
    cut_cells,
    filled,
    head_maps,
    heat_box,
    heat_map,
    localize,
    presence,
    regions,
    sharpen,
    smooth,
)
from conf.schema import LogicConfig, Resolution
from lab.base.errors import UserError
from lab.datasets.sample import Truth
from lab.heads.weights import head_weights
from lab.measure.intervals import columns
from lab.measure.metrics import MEASURES, Prediction, box_iou, on_object, score
from lab.measure.predictions import highest_point, highest_points, metric_box, prediction
from lab.records.pixels import Pixels
from lab.records.record import Record

HeadSet = tuple[Head, ...]
AT_ONCE = 2**18  # cells of which regions are found together
Heats = Float32[np.ndarray, "sets rows cols"]


@dataclass(frozen=True)
class Asked:
    """Sets of heads, and the rules that make their boxes and, with `masks`, their masks."""

    sets: Sequence[HeadSet]
    logic: LogicConfig
    masks: bool = True


class Sight:
    """One record, and each head's smoothed map once it has been asked for."""

    def __init__(self, record: Record) -> None:
        """Raises UserError if the record does not know its image's size."""
        if record.image_size is None:
            raise UserError("a record does not know its image's size (meta has no image_size): collect it again")
        self.record, self.image_size = record, record.image_size
        self._smoothed: dict[str, dict[Head, Float32[np.ndarray, "rows cols"]]] = {}

    def scores(
        self, sets: Sequence[HeadSet], logic: LogicConfig, truth: Truth, *, masks: bool = True, inclusive: bool = False
    ) -> Float[np.ndarray, "4 sets"]:
        """IoU of the boxes, intersection and union of the masks, and whether the point is right; NaN: not measured.

        Without `masks`, only boxes and points are. `inclusive` as for `box_iou`.
        """
        return self.scores_of([Asked(sets, logic, masks)], truth, inclusive=inclusive)[0]

    def scores_of(
        self, asked: Sequence[Asked], truth: Truth, *, inclusive: bool = False
    ) -> list[Float[np.ndarray, "4 sets"]]:
        """The same for sets by several rules, whose masks are compared all together."""
        scores, drawn = [], dict[int, list[tuple[int, Bool[np.ndarray, "sets rows cols"]]]]()
        for place, one in enumerate(asked):
            distinct = {heads: i for i, heads in enumerate(dict.fromkeys(one.sets))}
            again = np.array([distinct[heads] for heads in one.sets], int)
            if one.logic.mask.resolution == Resolution.image:
                scores.append(self._one_by_one(list(distinct), one, truth, inclusive)[:, again])
                continue
            found, cells = self._together(list(distinct), one.logic, truth, inclusive)
            scores.append(found[:, again])
            if one.masks and truth.mask is not None:
                masks = filled(cells, one.logic.box)[again]
                drawn.setdefault(one.logic.mask.cuts, []).append((place, masks))
        for cuts, parts in drawn.items():
            overlaps = self._overlaps(np.concatenate([masks for _, masks in parts]), cuts, truth)
            for place, masks in parts:
                scores[place][1:3], overlaps = overlaps[:, : len(masks)], overlaps[:, len(masks) :]
        return scores

    def _overlaps(
        self, masks: Bool[np.ndarray, "masks rows cols"], cuts: int, truth: Truth
    ) -> Int[np.ndarray, "2 masks"]:
        """Pixels in the intersection with the true mask, which there is, and in the union."""
        pixels = Pixels.of(self.record.grid.cut(cuts), self.image_size)
        return np.stack(pixels.overlaps(masks, truth.mask, truth.ignore))  # type: ignore[arg-type]

    def _together(
        self, sets: Sequence[HeadSet], logic: LogicConfig, truth: Truth, inclusive: bool
    ) -> tuple[Float[np.ndarray, "4 sets"], Bool[np.ndarray, "sets rows cols"]]:
        """Boxes and points measured, and the cells of each set's region."""
        heats = self._heats(sets, logic)
        cells = self._regions(heats, logic)
        cells[[absent(presence(self.record, heads, logic), logic) for heads in sets]] = False
        scores = np.full((4, len(sets)), np.nan)
        scores[0] = self._box_ious(cells, truth.box_xyxy, logic.mask.cuts, inclusive)
        scores[3] = on_object(highest_points(heats, self.record.grid), truth) & np.array([bool(s) for s in sets], bool)
        return scores, cells

    def head_ious(self, true_xyxy: Sequence[float], logic: LogicConfig) -> Float[np.ndarray, "layers heads"]:
        """IoU of the true box (edges exclusive) with the box that each head gives by itself, cut on the grid."""
        shape = self.record.num_layers, self.record.num_heads
        heats = self._heats([(head,) for head in np.ndindex(shape)], logic)
        return self._box_ious(self._regions(heats, logic), true_xyxy, logic.mask.cuts).reshape(shape)

    @staticmethod
    def _regions(heats: Heats, logic: LogicConfig) -> Bool[np.ndarray, "sets rows*cuts cols*cuts"]:
        """A few sets at a time: what they need then fits into the processor's cache."""
        cuts = logic.mask.cuts
        found = np.empty((len(heats), heats.shape[1] * cuts, heats.shape[2] * cuts), bool)
        for piece in np.array_split(np.arange(len(heats)), 1 + found.size // AT_ONCE):
            fine = sharpen(cut_cells(heats[piece], cuts), logic.mask)
            found[piece] = regions(binarise_each(fine, logic.mask), logic.box, fine)
        return found

    def _heats(self, sets: Sequence[HeadSet], logic: LogicConfig) -> Heats:
        """The weighted sums of the smoothed maps of each set, in the order of its heads: float32 sums depend on it."""
        known = self._smoothed.setdefault(repr((logic.contrast, logic.smoothing)), {})
        if lacking := [head for head in dict.fromkeys(head for heads in sets for head in heads) if head not in known]:
            maps = head_maps(self.record, lacking, logic.contrast)
            known.update(zip(lacking, smooth(maps, logic.smoothing), strict=True))
        heats = np.zeros((len(sets), self.record.grid.rows, self.record.grid.cols), np.float32)
        for number, same in groupby(sorted(range(len(sets)), key=lambda i: len(sets[i])), lambda i: len(sets[i])):
            members = list(same)
            if number:
                maps = np.stack([known[head] for i in members for head in sets[i]])
                maps = maps.reshape(len(members), number, *maps.shape[1:])
                weights = head_weights(maps, [sets[i] for i in members], logic)
                heats[members] = (maps if weights is None else maps * weights[..., None, None]).sum(1)
        return heats

    def _box_ious(
        self, cells: Bool[np.ndarray, "sets rows cols"], true_xyxy: Sequence[float], cuts: int, inclusive: bool = False
    ) -> Float[np.ndarray, " sets"]:
        boxes, found = boxes_on_image(cells, self.record.grid.cut(cuts), self.image_size)
        edges = boxes + np.array([0.0, 0.0, not inclusive, not inclusive])
        edges[~found] = np.nan
        return box_iou(edges, np.array(true_xyxy), inclusive=inclusive)

    def _one_by_one(
        self, sets: Sequence[HeadSet], asked: Asked, truth: Truth, inclusive: bool
    ) -> Float[np.ndarray, "4 sets"]:
        """Where the threshold is taken on the image."""
        record, logic, found = self.record, asked.logic, []
        measures = MEASURES if asked.masks else ("box", "point")
        for heads in sets:
            if asked.masks:
                one = prediction(truth.id, localize(record, heads, logic), record.grid, inclusive=inclusive)
            else:
                heat = heat_map(head_maps(record, heads, logic.contrast), heads, logic)
                gone = absent(presence(record, heads, logic), logic)
                found_box = None if gone else heat_box(heat, record.grid, self.image_size, logic)
                box = metric_box(found_box, inclusive=inclusive)
                one = Prediction(truth.id, box, None, highest_point(heat, record.grid) if heads else None)
            found.append(score(truth, one, measures=measures, inclusive=inclusive))
        return columns(found)
