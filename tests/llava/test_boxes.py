"""Boxes that a model writes: read from its answer, and put on the picture by the family's own rule."""

from dataclasses import replace

import numpy as np
import pytest

import collector
from collector import collect
from conf.schema import ModelConfig
from lab.base.errors import UserError
from lab.stages.common import load_model as load_as_configured
from llava.boxes import BRACKETS, LOCATIONS, POINTS, BoxRule, on_picture, written
from llava.family import LoadedModel
from llava.model.builder import load_model
from tests.conftest import configuration
from tests.llava.test_families import FAMILIES, noise

WIDE, TALL = noise(300, 180), noise(170, 310)


@pytest.mark.parametrize(
    ("rule", "answer", "boxes"),
    [
        (BoxRule(POINTS, 1000), "<|box_start|>(12,34),(560,780)<|box_end|>", [(12, 34, 560, 780)]),
        (BoxRule(BRACKETS, None), '[{"bbox_2d": [12, 34, 56, 78], "label": "a"}]', [(12, 34, 56, 78)]),
        (BoxRule(BRACKETS, 1000), "<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        (BoxRule(BRACKETS, 1), "It is at [0.12, 0.30, 0.5, 0.75].", [(0.12, 0.3, 0.5, 0.75)]),
        (BoxRule(LOCATIONS, 1024, rows_first=True), "<loc0100><loc0200><loc0300><loc0400> a", [(200, 100, 400, 300)]),
        (BoxRule(BRACKETS, 1000), "[3, 4, 3, 9] is empty, [1, 2, 3] too short, and a bird", []),
    ],
)
def test_boxes_of_an_answer(rule, answer, boxes):
    found = written(rule, answer)
    assert [one.numbers_xyxy for one in found] == boxes
    for one in found:
        numbers = sorted(float(answer[a:b]) for a, b in one.spans)
        assert numbers == sorted(one.numbers_xyxy)


def test_a_box_is_cut_at_the_picture():
    padded = (0.0, -60.0, 300.0, 240.0)  # a wide picture in a square
    assert on_picture((0.5, 0.4, 1.0, 1.0), (1, 1), padded, (300, 180)) == (150, 60, 300, 180)
    assert on_picture((0.0, 0.0, 1.0, 0.1), (1, 1), padded, (300, 180)) is None


HALF = {  # how each family writes the box from a quarter to three quarters of the picture's width and height
    "llava": "[0.25, 0.40, 0.75, 0.60]",  # of the square: above and below is padding
    "qwen2_vl": "(250,250),(750,750)",
    "qwen3_vl": "[250, 250, 750, 750]",
    "glm4v": "[[250, 250, 750, 750]]",
    "internvl": "<box>[[250, 250, 750, 750]]</box>",
    "paligemma": "<loc0256><loc0256><loc0768><loc0768>",
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """load(name): a tiny checkpoint of a family, made once."""
    made: dict[str, LoadedModel] = {}

    def load(name: str) -> LoadedModel:
        if name not in made:
            made[name] = load_model(str(FAMILIES[name](tmp_path_factory.mktemp("boxes") / "tiny")), device="cpu")
        return made[name]

    return load


@pytest.mark.parametrize("name", HALF)
def test_each_family_has_its_own_numbers(loaded, name):
    image = noise(300, 120) if name == "llava" else WIDE
    picture = loaded(name).family.picture(image)
    (_, box), *_ = loaded(name).family.boxes(HALF[name], picture, image.size)
    expected = (75, 30, 225, 90) if name == "llava" else (75, 45, 225, 135)
    assert box == pytest.approx(expected)


@pytest.mark.parametrize("image", [WIDE, TALL], ids=["wide", "tall"])
def test_numbers_of_qwen2_5_are_pixels_of_the_picture_as_it_was_resized(loaded, image):
    family = loaded("qwen2_5_vl").family
    picture = family.picture(image)
    _, rows, cols = picture.inputs["image_grid_thw"][0].tolist()
    patch = family.image_processor.image_processor.patch_size
    width, height = cols * patch, rows * patch
    assert (width, height) != image.size
    answer = f'{{"bbox_2d": [{width // 2}, 0, {width}, {height}]}}'
    (_, box), *_ = family.boxes(answer, picture, image.size)
    assert box == pytest.approx((image.width * (width // 2) / width, 0, *image.size))


def test_a_family_whose_way_is_not_known_is_refused(tmp_path):
    FAMILIES["janus"](tmp_path / "tiny")
    config = configuration("model=auto", f"model.name={tmp_path}/tiny", "model.read=answer_boxes", "device=cpu")
    with pytest.raises(UserError, match="how DeepseekVL writes boxes is not known here"):
        load_as_configured(config)


def test_the_tokens_of_a_written_box_are_read(loaded, monkeypatch):
    qwen, real = loaded("qwen2_vl"), collector._generate
    said = "at (250,250),(750,750)"

    def generate(*arguments):
        return real(*arguments)[0], tuple(qwen.tokenizer(said, add_special_tokens=False).input_ids)

    monkeypatch.setattr(collector, "_generate", generate)
    config = ModelConfig(read="answer_boxes")
    record = collect(qwen, WIDE, "a bird", config, generic=True)
    assert "".join(token["text"] for token in record.meta["tokens"]) == "250250750750"
    assert record.meta["answer_boxes"] == [pytest.approx([75, 45, 225, 135])]
    whole = collect(qwen, WIDE, "a bird", replace(config, read="answer"), generic=True)
    kept = [place for place, letter in enumerate(said) if letter.isdigit()]  # a token is a letter here
    np.testing.assert_array_equal(record.attn, whole.attn[:, :, kept])
    np.testing.assert_array_equal(record.generic, whole.generic)
    said = "there is none"
    with pytest.raises(UserError, match="the answer there is none holds no box"):
        collect(qwen, WIDE, "a bird", config)
