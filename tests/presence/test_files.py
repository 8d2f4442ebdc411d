"""Calibrations on disk: what fits the heads in use is taken, what was named and does not fit is refused in one line."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bbox import presence
from conf.schema import configuration
from lab.base.errors import UserError
from lab.heads.choice import head_choice
from lab.presence.files import Calibration, calibration_of, read_calibration
from lab.presence.rule import Rule
from lab.records.record import Record


def calibration(*overrides: str) -> Calibration | None:
    """The one that `python pipeline.py <overrides>` would use."""
    config = configuration(overrides)
    choice = head_choice(config.logic, config.model)
    return calibration_of(config, choice.named, choice.file)


def of_heads(*heads: tuple[int, int]) -> Calibration:
    config = configuration([])
    return Calibration.of(Rule(-1.0, {"look": 0.5}), heads, config.logic, config.model)


def smoothed(**changed: object) -> str:
    """A calibration whose smoothing was changed by hand."""
    content = of_heads((1, 5)).to_dict()
    return json.dumps(content | {"smoothing": content["smoothing"] | changed})


def test_a_calibration_survives_its_file(tmp_path):
    path = tmp_path / "presence.json"
    path.write_text(json.dumps(of_heads((1, 5), (2, 4)).to_dict() | {"pictures": 500}))
    assert read_calibration(path) == of_heads((1, 5), (2, 4))


def test_the_shipped_preset_comes_calibrated_for_its_own_heads_alone():
    found = calibration()
    assert found is not None
    assert found.heads == ((1, 5), (1, 6), (2, 4))
    assert calibration("logic.heads=[[1,6],[2,4],[1,5]]") == found, "the same heads in another order"
    assert calibration("logic.heads=[[1,5],[1,6]]") is None
    assert calibration("logic.heads=null") is None
    assert calibration("logic.grids=whole") is None
    assert calibration("model.name=another/model") is None
    assert calibration("logic.smoothing.sigma=2") == found, "it brings its own smoothing"
    assert calibration("logic.heads=picturebook") == found, "the same heads by the name of their file"
    assert calibration("logic.heads=picturebook", "logic.top_k=2") is None


def test_a_record_of_another_model_has_no_presence():
    config = configuration(["logic.heads=[[1,5]]"])
    told = replace(config.logic, presence=replace(config.logic.presence, file=of_heads((1, 5)).to_dict()))
    record = Record(np.full((2, 6, 1, 16), 1 / 16, np.float32), {"image_size": [8, 8]})
    own = replace(record, meta=record.meta | {"model_name": "examples/models/picturebook"})
    other = replace(record, meta=record.meta | {"model_name": "another/model"})
    assert presence(record, [(1, 5)], told) == presence(own, [(1, 5)], told) is not None
    assert presence(other, [(1, 5)], told) is None
    needed = replace(told, presence=replace(told.presence, threshold=0.5))
    with pytest.raises(UserError, match="the record is of another/model, the calibration of examples/models/pic"):
        presence(other, [(1, 5)], needed)


def test_a_file_of_heads_brings_the_calibration_beside_it(tmp_path):
    rows = [{"layer": 3, "head": 1}]
    heads = {"num_layers": 8, "num_heads": 8, "model": None, "heads": rows}
    (tmp_path / "localization_heads.json").write_text(json.dumps(heads))
    named = (f"logic.heads={tmp_path}/localization_heads.json", "logic.top_k=1")
    assert calibration(*named) is None
    (tmp_path / "presence.json").write_text(json.dumps(of_heads((3, 1)).to_dict()))
    assert calibration(*named) == of_heads((3, 1))
    (tmp_path / "presence.json").write_text(json.dumps(of_heads((3, 2)).to_dict()))
    assert calibration(*named) is None


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["logic.heads=null"], "is of fixed heads, but heads are ranked"),
        (["logic.heads=[[3,1]]"], "is of heads L1H5 L1H6 L2H4, not of L3H1"),
        (["model.read=answer"], "was made with model.read=last, not answer"),
        (["logic.token=first"], "was made with logic.token=mean, not first"),
        (["logic.filter.sinks=null"], "was made with logic.filter.sinks=0.5, not None"),
    ],
)
def test_what_does_not_fit_is_refused_where_it_is_named_or_needed(overrides, why):
    with pytest.raises(UserError, match=f"presence.json {why}.*stage=calibrate"):
        calibration("logic.presence.file=examples/models/picturebook/presence.json", *overrides)
    how = "fix them with logic.heads" if overrides == ["logic.heads=null"] else "stage=calibrate"
    with pytest.raises(UserError, match=rf"logic\.presence\.threshold=0\.5 needs a calibration.*{how}"):
        calibration("logic.presence.threshold=0.5", *overrides)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[1]", "malformed"),
        ("{", "not JSON"),
        (json.dumps(of_heads((1, 5)).to_dict() | {"heads": []}), "holds no heads"),
        (json.dumps(of_heads((1, 5)).to_dict() | {"rule": {"intercept": 0, "weights": {"luck": 1}}}), "weighs luck"),
        (json.dumps(of_heads((1, 5)).to_dict() | {"rule": {"intercept": "x", "weights": {}}}), "malformed"),
        (smoothed(sigma="a"), "malformed"),
        (smoothed(sigma=None), "malformed"),
        (smoothed(kernel=2.5), "malformed"),
        (smoothed(width=3), "malformed.*smoothing.width"),
        (smoothed(sigma=-3.0), r"logic.smoothing.sigma=-3.0: must be 0 or more; expected a presence.json"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, text, why):
    path = tmp_path / "presence.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"presence.json.*{why}"):
        read_calibration(path)
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        read_calibration(tmp_path / "none.json")


def test_what_a_saved_configuration_tells_of_a_calibration_is_the_calibration():
    config = configuration([])
    found = calibration()
    saved = replace(config.logic, presence=replace(config.logic.presence, file=found.to_dict()))
    assert calibration_of(replace(config, logic=saved), [(1, 5), (1, 6), (2, 4)], None) == found
