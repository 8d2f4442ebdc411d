"""Sinks: image tokens at which most heads look, whatever is asked.

Attention of many models gathers in a few cells, mostly at the picture's border. A head that rests there does not look
at an object, and its map shows the sink before anything else.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from llava.grid import Grid

HIGH = 10  # times the mean of a head's map: a weight from which on the head looks there
Extent = tuple[float, float, float, float]


def sinks(maps: Iterable[Float[np.ndarray, "layers heads vis"]], share: float) -> Int[np.ndarray, " sinks"]:
    """The image tokens at which more than `share` of the heads look in one of the maps, ascending.

    `maps` are those of the expression and, if they are known, of a prompt that asks for nothing in particular. Heads
    without any attention to the picture do not count.
    """
    found = [_share_of_heads(weights.reshape(-1, weights.shape[-1])) > share for weights in maps]
    return np.flatnonzero(np.any(found, axis=0))


def _share_of_heads(maps: Float[np.ndarray, "heads vis"]) -> Float[np.ndarray, " vis"]:
    means = maps.mean(1, keepdims=True)
    looking = means[:, 0] > 0
    return (maps > HIGH * means)[looking].sum(0) / max(1, looking.sum())


def without(weights: Float[np.ndarray, "*heads vis"], tokens: Sequence[int]) -> Float[np.ndarray, "*heads vis"]:
    """The weights with those of some tokens set to 0; the weights themselves if there are none."""
    if not len(tokens):
        return weights
    kept = weights.copy()
    kept[..., tokens] = 0
    return kept


def cells(grids: Sequence[Grid], tokens: Sequence[int]) -> list[Extent]:
    """Where these tokens lie in the picture: x0, y0, x1, y1 of each cell, edges exclusive."""
    found = []
    for grid in grids:
        x0, y0, x1, y1 = grid.extent_xyxy
        across, down = (x1 - x0) / grid.cols, (y1 - y0) / grid.rows
        for row, col in np.argwhere(np.isin(grid.index, tokens)).tolist():
            found.append((x0 + col * across, y0 + row * down, x0 + (col + 1) * across, y0 + (row + 1) * down))
    return found
