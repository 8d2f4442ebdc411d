"""Labels never overlap, stay within their bounds and near what they are about."""

import itertools

import numpy as np
import pytest

from lab.figures.labels import place_labels

BOUNDS = (0.0, 0.0, 100.0, 60.0)


def overlap(a, b) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def test_a_label_stands_at_the_right_of_its_target_if_there_is_room():
    assert place_labels([(10, 20, 30, 40)], [(12, 6)], BOUNDS, gap=1) == [(31, 27, 43, 33)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ((70, 20, 95, 40), (57, 27, 69, 33)),  # no room at the right: left
        ((5, 20, 95, 40), (44, 13, 56, 19)),  # nor at the left: above
        ((5, 2, 95, 40), (44, 41, 56, 47)),  # nor above: below
    ],
)
def test_the_other_sides_are_tried_in_turn(target, expected):
    assert place_labels([target], [(12, 6)], BOUNDS, gap=1) == [expected]


def test_a_label_hides_no_other_target_if_it_can_be_helped():
    targets = [(10, 20, 30, 40), (31, 20, 60, 40)]
    first, _ = place_labels(targets, [(8, 6), (8, 6)], BOUNDS, gap=1)
    assert first == (1, 27, 9, 33)


@pytest.mark.parametrize("seed", range(20))
def test_labels_of_crowded_targets_never_overlap_and_stay_within_the_bounds(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform((0, 0), (95, 55), (12, 2))
    targets = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, rng.uniform(1, 25, (12, 2)), strict=True)]
    targets = [(x0, y0, min(x1, 100), min(y1, 60)) for x0, y0, x1, y1 in targets]
    found = place_labels(targets, [(14.0, 7.0)] * 12, BOUNDS, gap=0.5)
    assert None not in found
    assert not any(overlap(a, b) for a, b in itertools.combinations(found, 2))
    assert all(x0 >= 0 and y0 >= 0 and x1 <= 100 + 1e-9 and y1 <= 60 + 1e-9 for x0, y0, x1, y1 in found)


def test_a_label_without_room_is_left_out():
    assert place_labels([(0, 0, 5, 5)], [(120, 7)], BOUNDS) == [None]
    crowd = place_labels([(0, 0, 5, 5)] * 3, [(90, 40)] * 3, BOUNDS)
    assert crowd[0] is not None
    assert crowd[1:] == [None, None]
