"""Presence: the numbers are what they say, the rule is monotone and finds what is true, swaps are worded alike."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.datasets import Sample
from lab.presence.numbers import NUMBERS, concentration, presence_numbers
from lab.presence.rule import Rule, fit
from lab.presence.swap import LEAST, asks


def one_hot(*cells: tuple[int, int], total: float = 0.9) -> np.ndarray:
    maps = np.zeros((len(cells), 4, 4), np.float32)
    for i, cell in enumerate(cells):
        maps[i][cell] = total
    return maps


def test_concentration_is_0_for_even_shares_and_1_for_one_cell():
    assert concentration(np.full(16, 1 / 16)) == pytest.approx(0)
    assert concentration(np.eye(16)[3]) == 1
    assert concentration(np.array([0.5, 0.5, 0, 0])) == pytest.approx(0.5)
    assert concentration(np.ones(1)) == 1


def test_the_numbers_of_heads_that_look_at_one_cell():
    maps = one_hot((1, 1), (1, 1))
    numbers = presence_numbers(maps, maps, "float32")
    assert numbers["look"] == pytest.approx(np.log(0.9 / 0.1), rel=1e-5)
    assert numbers["focus"] == pytest.approx(1)
    assert numbers["agreement"] > 0.98  # but for the floor
    assert numbers["peak"] == pytest.approx(np.log(16))


def test_heads_that_look_apart_agree_less_though_each_is_as_focused():
    together, apart = one_hot((1, 1), (1, 1), (1, 1)), one_hot((0, 0), (1, 2), (3, 3))
    one, other = (presence_numbers(maps, maps, "float32") for maps in (together, apart))
    assert other["agreement"] < 0.5 * one["agreement"]
    assert other["look"] == one["look"]


def test_sums_of_0_and_1_and_beyond_are_told_as_near_as_the_precision_allows():
    full = one_hot((0, 0), total=1.01)
    assert presence_numbers(full, full, "float32")["look"] == pytest.approx(np.log(1e5), rel=1e-3)
    assert presence_numbers(full, full, "bfloat16")["look"] == pytest.approx(np.log(1e3), rel=1e-3)
    empty = np.zeros((2, 4, 4), np.float32)
    numbers = presence_numbers(empty, empty, "float16")
    assert all(np.isfinite(value) for value in numbers.values())
    assert numbers["focus"] == pytest.approx(0)


def test_a_map_is_not_changed():
    maps = one_hot((0, 1), (2, 2))
    before = maps.copy()
    presence_numbers(maps, maps, "float32")
    assert np.array_equal(maps, before)


# the rule


def drawn(number: int, seed: int) -> tuple[list[dict[str, float]], np.ndarray]:
    """One number that tells with log-odds 1.5 x - 0.5 at even odds, one that tells the opposite, one of noise."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(number, 3))
    present = rng.random(number) < 1 / (1 + np.exp(-(1.5 * values[:, 0] - 1.0 * values[:, 1])))
    return [dict(zip("abc", row, strict=True)) for row in values.tolist()], present


def test_the_fit_finds_the_weight_that_made_the_data_and_none_that_speaks_against_presence():
    numbers, present = drawn(6000, 0)
    rule = fit(numbers, present, penalty=1e-6)
    assert rule.weights["b"] == 0
    assert rule.weights["a"] == pytest.approx(1.3, abs=0.12)  # below 1.5: what b tells is left out
    assert rule.weights["c"] == pytest.approx(0, abs=0.08)


def test_the_fit_is_that_of_a_plain_logistic_regression_where_no_bound_holds():
    from scipy.optimize import minimize

    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2))
    present = x.sum(1) + rng.logistic(size=400) > 0
    rule = fit([dict(zip("ab", row, strict=True)) for row in x.tolist()], present, penalty=0.05)
    share = np.where(present, 0.5 / present.sum(), 0.5 / (~present).sum())

    def loss(p):
        margin = np.where(present, 1, -1) * (x @ p[:2] + p[2])
        return (share * np.log1p(np.exp(-margin))).sum() + 0.025 * ((p[:2] * x.std(0)) ** 2).sum()

    direct = minimize(loss, np.zeros(3)).x
    assert [*rule.weights.values(), rule.intercept] == pytest.approx(direct.tolist(), abs=1e-3)


def test_a_number_that_never_differs_has_no_weight():
    rule = fit([{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 3.0}] * 10, np.array([False, True] * 10))
    assert rule.weights["b"] == 0
    assert rule.probability({"a": 2, "b": 3}) > 0.9 > 0.1 > rule.probability({"a": 1, "b": 3})


def test_the_probability_of_extreme_odds_is_0_or_1():
    rule = Rule(0.0, {"a": 1000.0})
    assert [rule.probability({"a": value}) for value in (-9, 0, 9)] == [0, 0.5, 1]


def test_a_rule_needs_both_sides():
    with pytest.raises(ValueError, match="there and of what is not"):
        fit([{"a": 1.0}] * 3, np.ones(3, bool))


# swaps


def samples(pictures: int, each: int = 1) -> list[Sample]:
    numbers = [(i, j) for i in range(pictures) for j in range(each)]
    return [Sample(f"{i}-{j}", f"thing {i} {j}", Path(f"{i}.png"), (0, 0, 2, 2)) for i, j in numbers]


def test_every_expression_is_asked_about_its_own_picture_and_about_as_many_others():
    data = samples(60, 2)
    found = asks(data, 3, np.random.default_rng(0))
    own, others = ([ask.sample for ask in found if ask.own == side] for side in (True, False))
    assert [(one.query, one.image_file) for one in own] == [(one.query, one.image_file) for one in data]
    assert Counter(one.query for one in others) == {one.query: 3 for one in data}, "worded exactly alike"
    assert set(Counter(one.image_file for one in others).values()) == {6}
    assert all(one.query.split()[1] != one.image_file.stem for one in others)
    assert all(one.box_xyxy is None for one in own + others)
    assert len({ask.sample.id for ask in found}) == len(found)


def test_what_both_pictures_say_is_not_swapped_and_what_is_absent_is_not_asked():
    same = [Sample(str(i), "the cat" if i % 2 else "The cat.", Path(f"{i}.png")) for i in range(60)]
    gone = Sample("gone", "the dog", Path("0.png"), present=False)
    assert all(ask.own for ask in asks([*same, gone], 4, np.random.default_rng(0)))
    assert len(asks([*same, gone], 4, np.random.default_rng(0))) == 60


def test_too_few_pictures_are_refused():
    with pytest.raises(UserError, match=f"49 expressions about 49 pictures are too few.*{LEAST} pictures or more"):
        asks(samples(LEAST - 1), 4, np.random.default_rng(0))


def test_the_table_of_numbers_is_what_a_rule_weighs():
    maps = one_hot((1, 1))
    assert list(presence_numbers(maps, maps, "float32")) == list(NUMBERS)
