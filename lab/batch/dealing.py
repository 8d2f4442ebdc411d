"""Which process, or which of several jobs, does what: whole blocks of rows, so that all end at about the same time.

What a row costs is guessed before a model is loaded, in image tokens and those of text alike: the picture, every
expression, and ranking and writing its record, which takes about as long as ten tokens. A picture whose size the data
file does not tell is taken for one of LLaVA-1.5.
"""

from collections.abc import Sequence
from heapq import heapreplace

import numpy as np
from jaxtyping import Int

PICTURE = 576  # image tokens of LLaVA-1.5
PIXELS, LEAST, MOST = 28 * 28, 64, 2304  # of a token where a model reads pictures at their own size; tokens of one
LETTERS, RECORD = 4, 10  # letters of a token; tokens that ranking and writing cost


def picture_cost(pixels: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """What looking at pictures costs, in tokens; of 0 pixels, which are not known, as much as one of LLaVA-1.5."""
    return np.where(pixels == 0, PICTURE, np.clip(pixels // PIXELS, LEAST, MOST))


def expression_cost(letters: Int[np.ndarray, " samples"]) -> Int[np.ndarray, " samples"]:
    """What asking for expressions of so many letters, and keeping the records, costs beside the picture."""
    return letters // LETTERS + RECORD


def dealt(costs: Sequence[int], shares: int) -> list[list[int]]:
    """The numbers of the pieces of each share, ascending: the dearest first, each to whoever has the least so far.

    Shares differ by the cost of one piece at most, by that of a cheap one if there are many. The same for everybody who
    asks.
    """
    least = [(0, share) for share in range(shares)]
    found: list[list[int]] = [[] for _ in range(shares)]
    for piece in sorted(range(len(costs)), key=lambda piece: (-costs[piece], piece)):
        total, share = least[0]
        found[share].append(piece)
        heapreplace(least, (total + costs[piece], share))
    return [sorted(pieces) for pieces in found]


def share_of(costs: Int[np.ndarray, " rows"], block: int, number: int, of: int) -> Int[np.ndarray, " some"]:
    """The numbers of the rows of one share, ascending: whole blocks, so that batches do not depend on the shares."""
    starts = np.arange(0, len(costs), block)
    if not len(starts):
        return starts
    pieces = np.array(dealt(np.add.reduceat(costs, starts).tolist(), of)[number], np.int64)
    rows = (starts[pieces][:, None] + np.arange(block)).ravel()
    return rows[rows < len(costs)]
