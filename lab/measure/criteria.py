"""More criteria for the best heads of one record, beside the paper's two; each is a function over maps.

    criteria_of(record)["peak"]    # [layers, heads], the larger the better

No label is read. Among the heads that look at the image enough, the first by one of these are its picks.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lab.records.record import Record

Maps = Float[np.ndarray, "heads rows cols"]
Values = Float[np.ndarray, " heads"]


def peak(maps: Maps) -> Values:
    """The weight of the cell that is looked at most."""
    return maps.max((1, 2)).astype(float)


def focus(maps: Maps) -> Values:
    """Minus Shannon's entropy of the map, in nats: 0 for one cell; unlike spatial entropy it has no threshold."""
    total = maps.sum((1, 2), dtype=float, keepdims=True)
    share = np.divide(maps, total, out=np.zeros(maps.shape), where=total > 0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.where(total[:, 0, 0] > 0, (share * logs).sum((1, 2)), -np.inf)


def relative(maps: Maps, generic: Maps) -> Values:
    """The weight that the expression adds to what a generic prompt looks at (after arXiv 2502.17422)."""
    return np.maximum(maps - generic, 0).sum((1, 2), dtype=float)


ALONE: dict[str, Callable[[Maps], Values]] = {"peak": peak, "focus": focus}
BESIDE_GENERIC: dict[str, Callable[[Maps, Maps], Values]] = {"relative": relative}


def criteria_of(record: Record) -> dict[str, Float[np.ndarray, "layers heads"]]:
    """Every criterion's value of each head; of those beside a generic prompt only if the record holds one.

    Raises NotKept if the record keeps the maps of some heads only.
    """
    record.subset.need_all()
    shape = record.num_layers, record.num_heads
    heads = list(np.ndindex(shape))
    maps = record.maps_of(heads)
    found = {name: of(maps) for name, of in ALONE.items()}
    if record.generic is not None:
        generic = record.generic_maps_of(heads)
        found |= {name: of(maps, generic) for name, of in BESIDE_GENERIC.items()}
    return {name: values.reshape(shape) for name, values in found.items()}
