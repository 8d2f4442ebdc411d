"""Rules of where to cut, compared on scenes like the training's and unlike them."""

import numpy as np
import pytest

from conf.schema import configuration
from lab.base.errors import UserError
from lab.datasets import Truth
from lab.picturebook import cuts
from lab.records.record import Record


def test_every_rule_is_measured_on_every_kind_of_scene(monkeypatch):
    monkeypatch.setattr(cuts, "SETS", {name: cuts.SETS[name] for name in ("in range", "large: 10 to 14 cells")})
    found = cuts.measure(cuts.CutsConfig(seed=5, n=3, beyond=2))
    columns = len(cuts.RULES) + len(cuts.BY_TRUTH)
    assert [one.shape for one in found.values()] == [(4, columns, 3), (4, columns, 2)]
    for iou, intersection, union, pointed in found.values():
        masks = intersection / union
        for by_truth, name in enumerate(cuts.BY_TRUTH, len(cuts.RULES)):
            rule = list(cuts.RULES).index(name)
            assert np.all(masks[by_truth] >= masks[rule] - 0.05), "levels between those that are tried may be better"
            assert np.all(iou[by_truth] >= iou[rule] - 0.1)
            assert np.array_equal(pointed[by_truth], pointed[rule])


@pytest.mark.parametrize("numbers", [{"n": -1}, {"beyond": -1}, {"n": 0, "beyond": 0}])
def test_no_scenes_are_refused(numbers):
    with pytest.raises(UserError, match="no scenes; expected 0 or more of each, and some of one"):
        cuts.CutsConfig(**numbers)


def test_the_level_by_truth_is_the_one_that_cuts_out_the_thing():
    logic = configuration(["logic.smoothing.sigma=0", "logic.mask.cuts=1", "logic.heads=[[0,0]]"]).logic
    values = np.zeros((16, 16), np.float32)
    values[4:8, 2:6] = 0.3
    values[5:7, 3:5] = 1.0
    record = Record(values.reshape(1, 1, 1, 256)).with_image_size((160, 160))
    mask = np.zeros((160, 160), bool)
    mask[40:80, 20:60] = True
    truth = Truth("a", (20.0, 40.0, 60.0, 80.0), mask, None, 1600.0, None)
    iou, intersection, union = cuts.by_truth(record, ((0, 0),), logic, truth)
    assert iou == 1
    assert intersection / union > 0.95  # a mask of cells has round corners


def test_the_tables_tell_gains_and_how_much_of_the_way_they_go():
    rules = len(cuts.RULES)
    right = np.ones((4, rules + len(cuts.BY_TRUTH), 8))
    right[0] = 0
    right[0, :, :4], right[0, 1, :6], right[0, rules] = 0.6, 0.6, 0.8  # half right, three quarters, all by the truth
    rows = [line.strip("| ").split(" | ") for line in cuts.report({"drawn": right}).splitlines()]
    second, by_truth = list(cuts.RULES)[1], f"{cuts.BY_TRUTH[0]}, level by truth"
    value, gain = (row for row in rows if row[:2] == ["drawn, 8", second])
    assert value[2].startswith("75.0 (")
    assert value[4:] == ["100.0 (100.0 to 100.0)"] * 2
    assert gain[2].startswith("+25.0 (")
    assert gain[-1].startswith("50 (")
    assert [row[-1] for row in rows if row[:2] == ["drawn, 8", by_truth]][1] == "100 (100 to 100)"
