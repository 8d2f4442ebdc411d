"""Who does what of uneven work, by a model of what it costs."""

from pathlib import Path

import numpy as np
import pytest

from lab.batch.dealing import PICTURE, dealt, expression_cost, picture_cost, share_of
from lab.batch.plan import plan_rows
from lab.batch.run import BLOCK
from lab.datasets import Sample


def test_a_row_costs_its_picture_and_its_expressions():
    assert picture_cost(np.array([0, 280 * 560, 100, 10**6, 81 * 10**6])).tolist() == [PICTURE, 200, 64, 1275, 2304]
    assert expression_cost(np.array([0, 20])).tolist() == [10, 15]
    asked = [Sample(str(i), "x" * 20, Path("a.png"), image_size=(280, 560)) for i in range(3)]
    assert plan_rows(asked, share_image=True).costs.tolist() == [200 + 3 * 15]
    assert plan_rows(asked, share_image=False).costs.tolist() == [200 + 15] * 3


def test_the_dearest_piece_goes_first_to_whoever_has_the_least():
    assert dealt([5, 1, 4, 2, 3], 2) == [[0, 1, 3], [2, 4]]  # 5 | 4, 3 | 2, and 1 to the first of two equals
    assert dealt([1, 1, 1], 3) == [[0], [1], [2]]
    assert dealt([], 2) == [[], []]


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, 8, 50])
def test_every_row_belongs_to_one_share_in_whole_blocks(shares, number):
    costs = np.random.default_rng(0).integers(1, 100, number)
    found = [share_of(costs, 4, one, shares).tolist() for one in range(shares)]
    assert sorted(row for rows in found for row in rows) == list(range(number))
    assert all(rows == sorted(rows) for rows in found)
    owner = {row: share for share, rows in enumerate(found) for row in rows}
    assert all(owner[row] == owner[row - row % 4] for row in range(number))


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
    costs = plan_rows(uneven(100 * workers, np.random.default_rng(workers)), share_image=True).costs
    loads = [costs[share_of(costs, BLOCK, number, workers)].sum() for number in range(workers)]
    assert min(loads) >= 0.9 * max(loads)
    in_turn = [costs[np.arange(len(costs)) // BLOCK % workers == number].sum() for number in range(workers)]
    assert max(loads) <= max(in_turn)


def test_rows_are_planned_as_a_list_would_be():
    rng = np.random.default_rng(1)
    samples = [Sample(str(i), "x" * int(rng.integers(1, 9)), Path(f"{rng.integers(20)}.png")) for i in range(200)]
    groups: dict[Path, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.image_file, []).append(sample)
    rows = [tuple(group[i : i + 16]) for group in groups.values() for i in range(0, len(group), 16)]
    expected = sorted(rows, key=lambda row: -sum(len(sample.query) + 8 for sample in row))
    planned = plan_rows(samples, share_image=True)
    assert list(planned) == expected
    assert list(planned.asked()) == [sample for row in expected for sample in row]
    done = rng.integers(0, 2, 200).astype(bool)
    left = [tuple(sample for sample in row if not done[int(sample.id)]) for row in expected]
    assert list(planned.without(done)) == [row for row in left if row]
    assert list(planned[:0].asked()) == list(planned.without(np.ones(200, bool))) == []
