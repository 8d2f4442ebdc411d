"""Which process, or which of several jobs, does what: whole blocks of rows, so that all end at about the same time.

What a row costs is guessed before a model is loaded, in image tokens and those of text alike: the picture, every
expression, and ranking and writing its record, which takes about as long as ten tokens. A picture whose size the data
file does not tell is taken for one of LLaVA-1.5.
"""

from collections.abc import Iterator, Sequence
from heapq import heapify, heapreplace
from typing import TypeVar

from lab.datasets import Sample

T = TypeVar("T")

PICTURE = 576  # image tokens of LLaVA-1.5
PIXELS, LEAST, MOST = 28 * 28, 64, 2304  # of a token where a model reads pictures at their own size; tokens of one
LETTERS, RECORD = 4, 10  # letters of a token; tokens that ranking and writing cost


def cost(row: Sequence[Sample]) -> int:
    """What asking samples of one picture costs, in tokens."""
    size = row[0].image_size
    picture = PICTURE if size is None else min(max(size[0] * size[1] // PIXELS, LEAST), MOST)
    return picture + sum(len(sample.query) // LETTERS + RECORD for sample in row)


def dealt(costs: Sequence[int], shares: int) -> list[list[int]]:
    """The numbers of the pieces of each share, ascending: the dearest first, each to whoever has the least so far.

    Shares differ by the cost of one piece at most, by that of a cheap one if there are many. The same for everybody who
    asks.
    """
    least = [(0, share) for share in range(shares)]
    heapify(least)
    found: list[list[int]] = [[] for _ in range(shares)]
    for piece in sorted(range(len(costs)), key=lambda piece: (-costs[piece], piece)):
        total, share = least[0]
        found[share].append(piece)
        heapreplace(least, (total + costs[piece], share))
    return [sorted(pieces) for pieces in found]


def share_of(pieces: Sequence[T], costs: Sequence[int], number: int, of: int) -> tuple[list[T], list[int]]:
    """The pieces of one share, and their costs."""
    mine = dealt(costs, of)[number]
    return [pieces[piece] for piece in mine], [costs[piece] for piece in mine]


def blocks(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The rows, so many in each block, which goes to one process: batches do not depend on the number of processes."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
