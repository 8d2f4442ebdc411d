"""More criteria, on maps whose values are known."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from analyze import rank_heads
from lab.base.errors import UserError
from lab.measure.criteria import Beside, criteria_of
from lab.measure.glance import glance
from lab.records.record import Record
from tests.conftest import configuration


def record(generic: bool = True) -> Record:
    """Four heads of two layers: one cell, two cells, everywhere, nowhere."""
    maps = np.zeros((2, 2, 1, 16), np.float32)
    maps[0, 0, 0, 5] = 0.8
    maps[0, 1, 0, [2, 9]] = 0.25
    maps[1, 0, 0] = 0.03
    beside = np.zeros_like(maps)
    beside[0, 0, 0, 5] = 0.7  # looks there whatever is asked
    return Record(maps, {"image_size": (40, 40)}, generic=beside if generic else None)


def test_every_criterion_tells_what_it_is_named_after():
    found = criteria_of(record())
    assert_allclose(found["peak"], [[0.8, 0.25], [0.03, 0]])
    assert_allclose(found["focus"], [[0, -np.log(2)], [-np.log(16), -np.inf]], atol=1e-6)
    assert_allclose(found["relative"], [[0.1, 0.5], [0.48, 0]], atol=1e-6)
    assert list(criteria_of(record(generic=False))) == ["peak", "focus"]


@pytest.mark.parametrize(("first_layer", "best"), [(0, [0, 0]), (1, [1, 0])])
def test_a_glance_picks_by_them_among_heads_that_look_and_in_allowed_layers(tmp_path, first_layer, best):
    logic = configuration("logic.threshold.method=value", "logic.threshold.value=0.1").logic
    logic.filter.min_layer = first_layer
    seen = glance(record(), tmp_path / "a.pkl", logic, more=True)
    assert list(seen.best) == ["both", "sum only", "entropy only", "selection_v1", "peak", "focus", "relative"]
    assert seen.best["focus"][0].tolist() == best
    assert all((1, 1) not in seen.picked(name, 4) for name in ("peak", "focus", "relative"))
    assert "peak" not in glance(record(), tmp_path / "a.pkl", logic).best


def test_the_published_code_picks_by_its_own_rules_in_the_layers_of_the_run(tmp_path):
    """As logic=selection_v1 ranks, whatever the run's rules are."""
    attn = np.random.default_rng(0).dirichlet(np.full(65, 0.1), (6, 8, 1))[..., :64].astype(np.float32)
    some = Record(attn, {"image_size": (40, 40)})
    for option in ("logic=paper", "logic=selection_v1"):
        logic = configuration("model=picturebook", option, "logic.filter.min_layer=1").logic
        published = configuration("model=picturebook", "logic=selection_v1", "logic.filter.min_layer=1").logic
        expected = [(one.layer, one.head) for one in rank_heads(some, published)]
        seen = glance(some, tmp_path / "a.pkl", logic, more=True)
        assert seen.picked("selection_v1", 10) == tuple(expected[:10])
        assert (seen.picked("both", 10) == seen.picked("selection_v1", 10)) is (option == "logic=selection_v1")


def looking_at(*cells: int, rows: int = 4) -> Record:
    """A head for each cell, which looks at it alone, and one that looks everywhere."""
    maps = np.zeros((1, len(cells) + 1, 1, rows * rows), np.float32)
    for head, cell in enumerate(cells):
        maps[0, head, 0, cell] = 0.5
    maps[0, -1] = 0.02
    return Record(maps, {"image_size": (40, 40)})


def test_a_head_is_consistent_over_wordings_if_it_looks_at_the_same_place():
    found = criteria_of(looking_at(5, 5), Beside([looking_at(5, 9), looking_at(5, 5)]))["wordings"]
    apart, same = -1 / 64, 15 / 64  # of two single cells of 16 that hold a half: -16 (1/32)^2, and 1/4 beyond that
    assert_allclose(found, [[same, (apart + same) / 2, 0]], atol=1e-6)


def test_a_head_is_consistent_over_mirrored_pictures_if_its_map_turns_with_them():
    found = criteria_of(looking_at(4, 4), Beside(mirrored=looking_at(7, 4)))["mirrored"]  # 4 and 7: a row's two ends
    assert_allclose(found, [[15 / 64, -1 / 64, 0]], atol=1e-6)


def test_maps_of_another_shape_are_no_other_words_for_the_same_thing():
    with pytest.raises(UserError, match=r"its maps are \[1, 3, 5, 5\], not \[1, 3, 4, 4\]"):
        criteria_of(looking_at(4, 4), Beside(mirrored=looking_at(7, 4, rows=5)))
