"""What one record tells by itself: which heads each criterion picks, and how good each head's own box is.

No label is read for the picks. Labels are read for `iou` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from analyze import Head, HeadScore, passes_threshold, rank_heads, rank_table, score_all, tied_at
from conf.schema import Contrast, LogicConfig
from lab.base.errors import UserError
from lab.measure.criteria import Beside, criteria_of
from lab.measure.sets import HeadSet, Sight
from lab.records.record import Record

CRITERIA = ("both", "sum only", "entropy only")
PUBLISHED = "selection_v1"  # the same two by the published code's rules, whatever those of the run are


@dataclass(frozen=True, eq=False)
class Glance:
    """What one record tells."""

    model: Any
    shape: tuple[int, int]
    sums: Float[np.ndarray, "layers heads"]
    best: dict[str, Int[np.ndarray, "top_n 2"]]  # by criterion: (layer, head), best first, -1 where there are fewer
    tied: bool  # whether entropy does not decide which heads are the best `top_k`
    iou: Float[np.ndarray, "layers heads"] | None  # of each head's own box
    generic: bool  # whether it holds the generic prompt's attention
    picture: str | None  # the image file

    def picked(self, criterion: str, k: int) -> HeadSet:
        """The `k` best heads by a criterion; fewer if there are no more."""
        return heads_of(self.best[criterion][:k])


def glance(
    record: Record,
    path: Path,
    logic: LogicConfig,
    true_xyxy: Sequence[float] | None = None,
    *,
    common: Bool[np.ndarray, "layers heads"] | None = None,
    sight: Sight | None = None,
    more: bool = False,
    beside: Beside | None = None,
) -> Glance:
    """Looks at one record; at every head's own box if the true one is given and all maps are kept.

    `common` says which heads look at the image enough, if that is the same for all records. `more`: the picks of
    the published code and of `lab.measure.criteria` too, as far as there is what they need `beside`. Raises UserError
    naming the file if the record lacks what a contrast needs.
    """
    check_contrast(record, logic.contrast, path)
    table = score_all(record, logic)
    passes = passes_threshold(table.attn_sum, logic.threshold) if common is None else common
    most = max(logic.select.top_n, logic.top_k + 1)
    both, by_entropy = (rank_table(table.only(some), logic, most) for some in (passes, np.ones_like(passes)))
    by_sum = _largest(allowed(table.attn_sum, logic), logic)
    best = {"both": _heads(both), "sum only": by_sum, "entropy only": _heads(by_entropy)}
    if more:
        best[PUBLISHED] = _heads(rank_heads(record, as_published(logic)))
        best |= {
            name: _largest(np.where(passes, allowed(values, logic, -np.inf), -np.inf), logic)
            for name, values in criteria_of(record, beside).items()
        }
    top_n = max(logic.select.top_n, logic.top_k)
    sight = sight or Sight(record)
    return Glance(
        record.made_by,
        table.passes.shape,
        table.attn_sum,
        {criterion: _filled(heads[:top_n], top_n) for criterion, heads in best.items()},
        tied_at(both, logic.top_k),
        None if true_xyxy is None else record.subset.of_every_head(lambda: sight.head_ious(true_xyxy, logic)),
        record.generic is not None,
        str(record.meta["image_file"]) if record.meta.get("image_file") else None,
    )


def as_published(logic: LogicConfig) -> LogicConfig:
    """The rules of conf/logic/selection_v1.yaml, the defaults, for the layers that may hold a selected head here."""
    rules = LogicConfig()
    return replace(rules, filter=replace(rules.filter, min_layer=logic.filter.first_layer))


def check_contrast(record: Record, contrast: Contrast, path: Path) -> None:
    """Raises UserError naming the file if a contrast needs the generic prompt's attention and the record lacks it."""
    if contrast != Contrast.none and record.generic is None:
        lacking = f"{path} lacks the generic prompt's attention, which logic.contrast={contrast} needs"
        raise UserError(f"{lacking}: collect with data.save_generic=true")


def heads_of(picks: Int[np.ndarray, "k 2"]) -> HeadSet:
    """The heads among picks, those that are filled up left out."""
    return tuple((layer, head) for layer, head in picks.tolist() if layer >= 0)


def allowed(
    values: Float[np.ndarray, "layers heads"], logic: LogicConfig, elsewhere: float = 0.0
) -> Float[np.ndarray, "layers heads"]:
    """The values of the layers that may hold a selected head."""
    return np.where(np.arange(len(values))[:, None] >= logic.filter.first_layer, values, elsewhere)


def _heads(ranking: Sequence[HeadScore]) -> list[Head]:
    return [(score.layer, score.head) for score in ranking]


def _largest(values: Float[np.ndarray, "layers heads"], logic: LogicConfig) -> list[Head]:
    """The heads with the largest values, without those of -inf."""
    order = np.argsort(-values, axis=None, kind="stable")[: max(logic.select.top_n, logic.top_k)]
    return [divmod(index, values.shape[1]) for index in order.tolist() if np.isfinite(values.flat[index])]


def _filled(heads: Sequence[Head], top_n: int) -> Int[np.ndarray, "top_n 2"]:
    filled = np.full((top_n, 2), -1, np.int16)
    filled[: len(heads)] = np.reshape(heads, (-1, 2))
    return filled
