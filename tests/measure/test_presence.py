"""AUROC and rejection: against definitions, and with intervals that hold pictures together."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from lab.measure.presence import figures, separation


def test_auroc_is_the_share_of_pairs_that_are_in_order_ties_half():
    rng = np.random.default_rng(0)
    scores, present = rng.integers(0, 12, 200).astype(float), rng.random(200) < 0.4
    auroc = figures(scores, present, np.ones((1, 200)))[0, 0]
    wins = mannwhitneyu(scores[present], scores[~present]).statistic
    assert auroc == pytest.approx(wins / (present.sum() * (~present).sum()))


def test_rejection_keeps_95_of_100_that_are_there():
    present = np.repeat([True, False], 100)
    scores = np.concatenate([np.arange(100.0), np.linspace(-10, 9.5, 100)])
    rejected = figures(scores, present, np.ones((1, 200)))[0, 1]
    assert rejected == pytest.approx((scores[100:] < 5).mean())  # of 0 to 99, five lie below 5
    assert figures(np.ones(200), present, np.ones((1, 200)))[0].tolist() == [0.5, 0]


def test_a_sample_that_counts_twice_is_a_sample_that_is_there_twice():
    rng = np.random.default_rng(1)
    scores, present = rng.normal(size=60), rng.random(60) < 0.5
    times = rng.integers(0, 3, 60)
    twice = np.repeat(np.arange(60), times)
    one = figures(scores, present, times[None].astype(float))
    assert one == pytest.approx(figures(scores[twice], present[twice], np.ones((1, len(twice)))))


def test_intervals_are_drawn_by_picture_and_groups_without_both_sides_are_left_out():
    rng = np.random.default_rng(2)
    present = np.tile([True, False], 40)
    scores = rng.normal(size=80) + present
    groups = {"all": np.ones(80, bool), "there": present}
    own = separation(scores, present, np.arange(80), groups, resamples=300)
    more = [np.repeat(values, 8) for values in (scores, present, np.arange(80))]
    eight = separation(*more, {"all": np.ones(640, bool)}, resamples=300)
    assert [(row.group, row.metric, row.there, row.absent) for row in own] == [
        ("all", "auroc", 40, 40),
        ("all", "rejected", 40, 40),
    ]
    assert own[0].low < own[0].value < own[0].high
    assert (eight[0].value, eight[0].low, eight[0].high) == pytest.approx((own[0].value, own[0].low, own[0].high))
