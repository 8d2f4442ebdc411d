"""Samples without target: the figures of gRefCOCO's authors, on numbers that can be checked by hand."""

from pathlib import Path

import numpy as np
import pytest

from lab.datasets import Sample
from lab.measure.absent import Told, no_target_figures, presence_separation, without_target

NONE = float("nan")


def there(number: int, boxed: bool, intersection: float, union: float, presence: float | None = None) -> Told:
    return Told(Sample(str(number), "x", Path(f"{number}.png")), presence, boxed, intersection, union)


def gone(number: int, area: int, presence: float | None = None, **extra: str) -> Told:
    sample = Sample(f"gone {number}", "x", Path(f"{number}.png"), present=False, extra=extra)
    return Told.of_absent(sample, presence, area > 0, area)


def test_the_figures_of_five_samples_by_hand():
    told = [there(0, True, 50, 100), there(1, True, 90, 100), there(2, False, 0, 40), gone(3, 0), gone(4, 60)]
    found = {one.metric: (one.value, one.n) for one in no_target_figures(told, resamples=20)}
    assert found == {
        "N-acc": (0.5, 2),
        "T-acc": (pytest.approx(2 / 3), 3),
        "gIoU": (pytest.approx((0.5 + 0.9 + 0 + 1 + 0) / 5), 5),
        "cIoU": (pytest.approx(140 / 300), 5),
    }


def test_without_true_masks_only_what_needs_none_is_told():
    told = [there(0, True, NONE, NONE), gone(1, 0)]
    assert [one.metric for one in no_target_figures(told, resamples=20)] == ["N-acc", "T-acc"]


def test_where_every_sample_has_a_target_nothing_is_added():
    assert without_target([there(0, True, 1, 2)]).tables() == []


def test_a_kind_of_absence_is_set_against_its_twins():
    told = [there(i, True, 1, 2, presence=0.9 if i < 3 else 0.1) for i in range(6)]
    told += [gone(i, 9, presence=0.5, absence="kind", twin=str(i)) for i in range(3)]
    rows = {(row.group, row.metric): row for row in presence_separation(told, resamples=20)}
    assert rows["all", "auroc"].value == pytest.approx(0.5)
    assert rows["absent kind", "auroc"].value == 1
    assert (rows["absent kind", "auroc"].there, rows["absent kind", "auroc"].absent) == (3, 3)
    assert presence_separation([there(0, True, 1, 2), gone(1, 0)]) == []


def test_intervals_are_shares_around_the_value():
    rng = np.random.default_rng(0)
    told = [there(i, bool(rng.random() < 0.9), 1, 2) for i in range(50)] + [gone(i, int(i % 3)) for i in range(50)]
    for one in no_target_figures(told, resamples=200):
        assert 0 <= one.low <= one.value <= one.high <= 1
