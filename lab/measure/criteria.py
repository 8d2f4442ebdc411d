"""More criteria for the best heads of one record, beside the paper's two; each is a function over maps.

    criteria_of(record)["peak"]                                 # [layers, heads], the larger the better
    criteria_of(record, Beside(wordings=[other]))["wordings"]   # those that need other records of the same thing

No label is read. Among the heads that look at the image enough, the first by one of these are its picks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lab.base.errors import UserError
from lab.heads.weights import shannon_entropy
from lab.records.record import Record

Maps = Float[np.ndarray, "heads rows cols"]
Values = Float[np.ndarray, " heads"]


def peak(maps: Maps) -> Values:
    """The weight of the cell that is looked at most: the simplest there is, for comparison."""
    return maps.max((1, 2)).astype(float)


def focus(maps: Maps) -> Values:
    """Minus Shannon's entropy of the map, in nats (C. E. Shannon, 1948): 0 for one cell; unlike the paper's spatial
    entropy it has no threshold and takes no account of where cells lie.
    """
    return -shannon_entropy(maps)


def relative(maps: Maps, generic: Maps) -> Values:
    """The weight that the expression adds to what a generic prompt looks at (after arXiv 2502.17422)."""
    return np.maximum(maps - generic, 0).sum((1, 2), dtype=float)


def wordings(maps: Maps, others: Sequence[Maps]) -> Values:
    """How much of the attention stays at its place in other words for the same thing: the mean of `shared`.

    A head that localises looks at one place, however the thing is called (after the self-consistency of explanations,
    arXiv 2312.04554). A head that looks at one place whatever is asked does so, too.
    """
    return np.mean([shared(maps, other) for other in others], axis=0)


def mirrored(maps: Maps, turned: Maps) -> Values:
    """How much of the attention goes with the thing when the picture is mirrored: `shared` with the map turned back.

    A head that localises mirrors its map (after the equivariance of class activation maps, arXiv 2004.04581). A head
    that looks at one place of the frame, whatever is there, does not.
    """
    return shared(maps, turned[..., ::-1])


def shared(maps: Maps, others: Maps) -> Values:
    """How much two maps of each head have in common beyond an even one: the covariance over cells, times their number.

    At most 1, for all attention in one and the same cell; 0 if one of them is flat. It is no correlation, by which two
    maps that are alike but nearly flat would be as good as two that look at one cell.
    """
    one, other = (m.reshape(len(m), -1) - m.mean((1, 2), dtype=float)[:, None] for m in (maps, others))
    return (one * other).sum(1)


@dataclass(frozen=True, eq=False)
class Beside:
    """Other records of the same thing in the same picture."""

    wordings: Sequence[Record] = ()  # by other words
    mirrored: Record | None = None  # in the mirrored picture, left and right swapped in the words


ALONE: dict[str, Callable[[Maps], Values]] = {"peak": peak, "focus": focus}
# What the others need, in words.
NEEDS = {
    "relative": "the generic prompt's attention (data.save_generic=true)",
    "wordings": "lines of the data file that say one thing in several words (the same picture, and the same `thing`, "
    "`ann_id` or `ref_id`)",
    "mirrored": "records of the mirrored pictures (python -m lab.datasets convert jsonl FILE --mirrored, stage=batch, "
    "and study.mirrored=FOLDER)",
}


def criteria_of(record: Record, beside: Beside | None = None) -> dict[str, Float[np.ndarray, "layers heads"]]:
    """Every criterion's value of each head, as far as there is what it needs.

    Raises NotKept if a record keeps the maps of some heads only, UserError if maps beside are of another shape.
    """
    beside = beside or Beside()
    for one in (record, *beside.wordings, *([beside.mirrored] if beside.mirrored else [])):
        one.subset.need_all()
        if one.maps.shape != record.maps.shape:
            shapes = f"{list(one.maps.shape)}, not {list(record.maps.shape)}"
            raise UserError(f"{one.meta.get('image_file')}: its maps are {shapes}, as those of the same picture are")
    shape = record.num_layers, record.num_heads
    heads = list(np.ndindex(shape))
    maps = record.maps_of(heads)
    found = {name: of(maps) for name, of in ALONE.items()}
    if record.generic is not None:
        generic = record.generic_maps_of(heads)
        found["relative"] = relative(maps, generic)
    if beside.wordings:
        found["wordings"] = wordings(maps, [other.maps_of(heads) for other in beside.wordings])
    if beside.mirrored is not None:
        found["mirrored"] = mirrored(maps, beside.mirrored.maps_of(heads))
    return {name: values.reshape(shape) for name, values in found.items()}
