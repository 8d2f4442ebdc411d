"""Who does what of uneven work, by a model of what it costs."""

from pathlib import Path

import numpy as np
import pytest

from lab.batch.dealing import PICTURE, blocks, cost, dealt, share_of
from lab.batch.rows import plan_rows
from lab.batch.run import BLOCK
from lab.datasets import Sample


def row(number: int, size: tuple[int, int] | None = None, query: str = "x" * 20) -> list[Sample]:
    return [Sample(str(i), query, Path("a.png"), image_size=size) for i in range(number)]


def test_a_row_costs_its_picture_and_its_expressions():
    assert cost(row(1)) == PICTURE + 15
    assert cost(row(3)) == PICTURE + 45
    assert cost(row(1, (280, 560))) == 200 + 15
    assert cost(row(1, (10, 10))) < cost(row(1, (1000, 1000))) == 1275 + 15 < cost(row(1, (9000, 9000))) == 2304 + 15


def test_the_dearest_piece_goes_first_to_whoever_has_the_least():
    assert dealt([5, 1, 4, 2, 3], 2) == [[0, 1, 3], [2, 4]]  # 5 | 4, 3 | 2, and 1 to the first of two equals
    assert dealt([1, 1, 1], 3) == [[0], [1], [2]]
    assert dealt([], 2) == [[], []]


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
def test_every_piece_belongs_to_one_share(shares):
    costs = np.random.default_rng(0).integers(1, 100, 50).tolist()
    found = dealt(costs, shares)
    assert sorted(piece for pieces in found for piece in pieces) == list(range(50))
    assert all(pieces == sorted(pieces) for pieces in found)
    parts = [share_of(list("abcdefghij"), [1] * 10, number, shares) for number in range(shares)]
    assert sorted(piece for pieces, _ in parts for piece in pieces) == list("abcdefghij")


def uneven(pictures: int, rng: np.random.Generator) -> list[Sample]:
    """One picture with 400 expressions, and pictures of unlike size with 1 to 30."""
    samples = [Sample(f"many{i}", f"the {i}. thing", Path("many.png")) for i in range(400)]
    for picture in range(pictures):
        size = tuple(rng.integers(100, 4000, 2).tolist())
        samples += [
            Sample(f"{picture}-{i}", "x" * int(rng.integers(3, 80)), Path(f"{picture}.png"), image_size=size)
            for i in range(int(rng.integers(1, 30)))
        ]
    return samples


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_nobody_is_idle_for_more_than_a_tenth_of_an_uneven_run(workers):
    rows = plan_rows(uneven(100 * workers, np.random.default_rng(workers)), share_image=True)
    pieces = list(blocks(rows, BLOCK))
    costs = [sum(map(cost, piece)) for piece in pieces]
    loads = [sum(share_of(pieces, costs, number, workers)[1]) for number in range(workers)]
    assert min(loads) >= 0.9 * max(loads)
    in_turn = [sum(costs[number::workers]) for number in range(workers)]
    assert max(loads) <= max(in_turn)
