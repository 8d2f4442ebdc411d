"""Many sets of heads measured at once give what each of them gives alone."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from analyze import rank_heads
from bbox import localize
from conf.schema import Contrast, MaskMethod, Region, Resolution, Weights
from lab.base.errors import UserError
from lab.datasets.sample import Truth
from lab.heads.weights import with_frequencies
from lab.measure.glance import glance
from lab.measure.intervals import columns
from lab.measure.metrics import box_iou, exclusive, score
from lab.measure.predictions import prediction
from lab.measure.sets import Asked, Sight
from lab.records.record import Record
from llava.grid import Grid
from tests.conftest import configuration

SIZE = (120, 90)
SETS = [(), ((0, 1),), ((3, 2), (0, 1)), ((0, 1), (3, 2)), tuple(np.ndindex(5, 4)), ((0, 1),)]


@pytest.fixture(scope="module")
def record() -> Record:
    rng = np.random.default_rng(0)
    weights, generic = rng.gamma(0.3, 1, (2, 5, 4, 1, 12 * 12)).astype(np.float32)
    meta = {"image_size": SIZE, "grids": [Grid.padded_square(12, SIZE).to_dict()]}
    return Record(weights / weights.sum(-1, keepdims=True), meta, generic=generic / generic.sum(-1, keepdims=True))


def truth(*, mask: bool) -> Truth:
    there = np.zeros(SIZE[::-1], bool)
    there[20:60, 30:80] = True
    return Truth(
        "a", (30.0, 20.0, 80.0, 60.0), there if mask else None, there[::-1, ::-1] if mask else None, 2000, None
    )


@pytest.mark.parametrize("method", MaskMethod)
@pytest.mark.parametrize("region", Region)
def test_sets_are_measured_in_cells_and_finer_at_once(record, region, method):
    logic = configuration(f"logic.box.region={region}", f"logic.mask.method={method}").logic
    rules = [replace(logic, mask=replace(logic.mask, cuts=cuts)) for cuts in (3, 1, 3)]
    beside = truth(mask=True)
    found = Sight(record).scores_of([Asked(SETS, one) for one in rules], beside)
    for scores, one in zip(found, rules, strict=True):
        alone = [score(beside, prediction("a", localize(record, heads, one), record.grid)) for heads in SETS]
        assert_array_equal(scores, columns(alone))


@pytest.mark.parametrize("resolution", Resolution)
@pytest.mark.parametrize("weights", Weights)
def test_weighted_heads_of_many_sets_are_summed_as_those_of_each_alone(record, weights, resolution):
    logic = configuration("logic=best", f"logic.mask.resolution={resolution}").logic
    rules = replace(
        logic, weights=weights, heads=with_frequencies({(4, 2): 0.9, (1, 2): 0.3, (3, 3): 0.7, (0, 1): 0.1})
    )
    beside = truth(mask=True)
    alone = [score(beside, prediction("a", localize(record, heads, rules), record.grid)) for heads in SETS]
    assert_array_equal(Sight(record).scores(SETS, rules, beside), columns(alone))


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("resolution", Resolution)
@pytest.mark.parametrize("region", Region)
@pytest.mark.parametrize("preset", ["best", "paper", "selection_v1"])
def test_many_sets_are_measured_as_each_alone(record, preset, region, resolution, inclusive):
    logic = configuration(f"logic={preset}", f"logic.box.region={region}", f"logic.mask.resolution={resolution}").logic
    for contrast in Contrast:
        rules = replace(logic, contrast=contrast)
        for beside in (truth(mask=True), truth(mask=False)):
            alone = []
            for heads in SETS:
                found = prediction("a", localize(record, heads, rules), record.grid, inclusive=inclusive)
                alone.append(score(beside, found, inclusive=inclusive))
            together = Sight(record).scores(SETS, rules, beside, inclusive=inclusive)
            assert_array_equal(together, columns(alone))
            without = Sight(record).scores(SETS, rules, beside, masks=False, inclusive=inclusive)
            assert_array_equal(without[[0, 3]], together[[0, 3]])
            assert np.isnan(without[1:3]).all()


def test_a_glance_tells_the_ranking_and_the_box_of_each_head(record, tmp_path):
    logic = configuration("logic=paper").logic
    beside = truth(mask=False)
    seen = glance(record, tmp_path / "a.pkl", logic, beside.box_xyxy)
    ranking = [(one.layer, one.head) for one in rank_heads(record, logic)]
    assert seen.picked("both", 3) == tuple(ranking[:3])
    boxes = [localize(record, [head], logic).box_xyxy for head in np.ndindex(5, 4)]
    ious = [0.0 if box is None else box_iou(np.array(exclusive(box)), np.array(beside.box_xyxy)) for box in boxes]
    assert seen.iou is not None
    assert_array_equal(seen.iou.ravel(), ious)


def test_a_record_that_does_not_know_its_picture_is_refused(record):
    with pytest.raises(UserError, match="collect it again"):
        Sight(replace(record, meta={"grids": record.meta["grids"]}))
