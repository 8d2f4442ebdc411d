"""How much each chosen head counts in the heat map."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bbox import heat_map, localize
from conf.schema import LogicConfig, ModelConfig, SmoothingConfig
from lab.api import load
from lab.base.errors import UserError
from lab.heads.choice import head_choice
from lab.heads.weights import head_weights, shannon_entropy, with_frequencies
from lab.records.record import Record
from pipeline import run
from tests.conftest import configuration
from tests.heads.test_select import PICTUREBOOK, box_of

SHARP = SmoothingConfig(sigma=0)
LEFT, RIGHT = (0, 0), (0, 1)


def looking_left_and_right() -> Record:
    attn = np.zeros((1, 2, 1, 36), np.float32)
    attn[0, 0, 0, [7, 13]] = 0.4  # two cells
    attn[0, 1, 0, 10] = 0.5  # one
    return Record(attn, {"image_size": [60, 60]})


def test_without_weights_maps_are_summed_as_they_are():
    maps = looking_left_and_right().maps_of([LEFT, RIGHT])
    logic = LogicConfig(smoothing=SHARP)
    assert head_weights(maps[None], [(LEFT, RIGHT)], logic) is None
    assert_array_equal(heat_map(maps, [LEFT, RIGHT], logic), maps[0] + maps[1])


def test_a_head_counts_by_how_often_it_was_selected():
    record = looking_left_and_right()
    logic = LogicConfig(smoothing=SHARP, weights="frequency", heads=with_frequencies({LEFT: 0.3, RIGHT: 0.9}))
    heat = localize(record, [LEFT, RIGHT], logic).heat.ravel()  # weights 0.5 and 1.5: 1 on average
    assert_allclose(heat[[7, 13, 10]], [0.2, 0.2, 0.75], rtol=1e-6)
    assert_array_equal(heat, localize(record, [RIGHT, LEFT], logic).heat.ravel())


def test_a_set_with_a_head_of_unknown_frequency_is_summed_as_it_is():
    record = looking_left_and_right()
    for known in ({LEFT: 0.3}, {}):
        logic = LogicConfig(smoothing=SHARP, weights="frequency", heads=with_frequencies(known))
        heat = localize(record, [LEFT, RIGHT], logic).heat.ravel()
        assert_allclose(heat[[7, 13, 10]], [0.4, 0.4, 0.5])


def test_a_scattered_head_counts_less_by_its_entropy():
    maps = looking_left_and_right().maps_of([LEFT, RIGHT])
    assert_allclose(shannon_entropy(maps), [np.log(2), 0])
    weights = head_weights(maps[None], [(LEFT, RIGHT)], LogicConfig(weights="inverse_entropy"))
    raw = np.array([1 / (1 + np.log(2)), 1])
    assert_allclose(weights, [raw / raw.mean()], rtol=1e-6)


def test_maps_of_zeros_count_nothing_and_alone_give_a_heat_map_of_zeros():
    logic = LogicConfig(smoothing=SHARP, weights="inverse_entropy")
    maps = np.zeros((2, 3, 3), np.float32)
    assert not heat_map(maps, [LEFT, RIGHT], logic).any()
    maps[1, 1, 1] = 0.5
    assert_array_equal(heat_map(maps, [LEFT, RIGHT], logic), 2 * maps[1])
    assert not heat_map(maps[:0], [], logic).any()


@pytest.mark.parametrize("heads", [None, "preset", [[3, 1]], "llava-1.5-7b"])
def test_frequencies_that_nothing_tells_are_refused_with_the_way_to_get_them(heads):
    logic = LogicConfig(heads=heads, weights="frequency", top_k=1)
    with pytest.raises(UserError, match=r"logic\.weights=frequency needs .* stage=select writes$") as caught:
        head_choice(logic, ModelConfig(name="one/model", localization_heads=[[1, 2]]))
    assert "\n" not in str(caught.value)


def file_of(path, frequency) -> str:
    rows = [{"layer": 1, "head": 5, "frequency": 0.9}, {"layer": 2, "head": 4, "frequency": frequency}]
    path.write_text(json.dumps({"num_layers": 8, "num_heads": 8, "heads": rows}))
    return str(path)


@pytest.mark.parametrize("frequency", [1.5, -0.1, float("nan"), "often", None])
def test_a_frequency_that_is_no_share_is_refused(tmp_path, frequency):
    with pytest.raises(UserError, match=r"h\.json: malformed"):
        head_choice(LogicConfig(heads=file_of(tmp_path / "h.json", frequency), top_k=2), ModelConfig(name="a/b"))


def test_the_frequencies_of_a_file_weigh_the_heads_of_a_stage_and_of_the_api(tmp_path, picturebook, monkeypatch):
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
    options = (f"logic.heads={file_of(tmp_path / 'h.json', 0.001)}", "logic.top_k=2", "logic.weights=frequency")
    run(configuration("stage=pipeline", *options, f"data.output_dir={tmp_path}", "save_fig=false"))
    saved = (tmp_path / PICTUREBOOK / "config.yaml").read_text()
    assert "weights: frequency" in saved
    assert "- 0.001" in saved
    found = load("picturebook", *options, device="cpu").find("examples/images/bird.png", "birds.")
    alone = localize(found.record, [(1, 5)], configuration().logic)
    assert np.abs(found.localization.heat / 2 - alone.heat).max() < 0.002 * alone.heat.max()  # the second hardly counts
    assert list(found.box_xyxy) == box_of(tmp_path, "bird")["bbox_xyxy"]
