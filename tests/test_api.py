"""The same as the stages, in Python: what it finds, what it takes, and what it becomes for other tools."""

import gc
import json
import sys
from collections import UserDict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image

from conf.presets import preset_of
from lab.api import Found, load
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.base.paths import PROJECT
from lab.datasets import read_jsonl, rle
from lab.measure.metrics import box_iou, exclusive
from lab.refine.sam import Sam
from lab.stages.results import box_line
from pipeline import run
from tests.conftest import configuration
from tests.llava.tiny_chat import CHAT_FAMILIES

BIRD, CAT = (PROJECT / "examples" / "images" / name for name in ("bird.png", "cat.png"))


@pytest.fixture(scope="module")
def model():
    return load()


@pytest.fixture(scope="module")
def bird(model) -> Found:
    return model.find(BIRD, "birds.")


def test_it_finds_what_the_command_line_finds(bird, tmp_path):
    run(configuration(f"data.output_dir={tmp_path}", f"data.image_file={BIRD}", "data.query=birds.", "save_fig=false"))
    folder = tmp_path / "examples-models-picturebook"
    told = json.loads((folder / "bird_bbox.json").read_text())
    assert list(bird.box_xyxy) == told["bbox_xyxy"]
    assert [list(head) for head in bird.heads] == told["selected_heads"]
    assert_array_equal(bird.mask, np.asarray(Image.open(folder / "bird_mask.png")) > 0)
    assert [score.to_dict() for score in bird.ranking] == json.loads((folder / "bird_analysis.json").read_text())


@pytest.mark.parametrize("kind", ["text", "PIL", "array", "with an alpha channel"])
def test_a_picture_may_be_a_path_an_image_or_an_array(model, bird, kind):
    image = open_image(BIRD)
    picture = {
        "text": str(BIRD),
        "PIL": image,
        "array": np.asarray(image),
        "with an alpha channel": np.asarray(image.convert("RGBA")),
    }[kind]
    found = model.find(picture, "birds.")
    assert_array_equal(found.record.attn, bird.record.attn)
    assert found.box_xyxy == bird.box_xyxy


def test_several_expressions_and_pictures_are_found_as_each_alone(model, bird):
    of_bird = model.find(BIRD, ["birds.", "the umbrella"])
    assert [found.expression for found in of_bird] == ["birds.", "the umbrella"]
    assert of_bird[0].box_xyxy == bird.box_xyxy
    one, two = model.find([CAT, BIRD], ["a cat", ["birds.", "the umbrella"]])
    assert one.box_xyxy == model.find(CAT, "a cat").box_xyxy
    assert [found.box_xyxy for found in two] == [found.box_xyxy for found in of_bird]
    assert [found.expression for found in model.find([CAT, BIRD], "a cat")] == ["a cat", "a cat"]
    assert model.find([], "a cat") == []
    assert len(model.find(BIRD, [f"the {number}. bird" for number in range(18)])) == 18  # more than one row holds


def test_other_rules_need_no_other_weights(model, bird):
    single = model.with_options("logic.top_k=1", "logic.mask.method=quantile")
    assert single.loaded is model.loaded
    found = single.localize(bird.record, BIRD)
    assert found.heads == bird.heads[:1]
    assert model.config.logic.top_k == 3
    assert single.with_options("logic.top_k=2").localize(bird.record, BIRD).heads == bird.heads[:2]
    assert single.with_options("logic.heads=null").localize(bird.record, BIRD).heads == (
        (bird.ranking[0].layer, bird.ranking[0].head),
    )


def test_other_tokens_are_read_by_the_same_weights(model, bird):
    words = model.with_options("model.read=expression").find(BIRD, "the bird on the branch")
    assert [token["text"] for token in words.record.meta["tokens"]] == ["the", " bird", " on", " the", " branch"]
    last = model.with_options("logic.token=last").localize(words.record, BIRD)
    assert last.box_xyxy == model.find(BIRD, "the bird on the branch").box_xyxy  # the prompt ends with the expression
    rules = replace(model.config.logic, top_k=1)
    assert model.with_logic(rules).localize(bird.record, BIRD).heads == bird.heads[:1]


def test_a_calibration_tells_nothing_of_records_of_other_tokens(model):
    words = model.with_options("model.read=expression").find(BIRD, "birds.")
    assert words.presence is None
    assert model.localize(words.record, BIRD).presence is None
    with pytest.raises(UserError, match=r"record is of model\.read=expression, the calibration of last"):
        model.with_options("logic.presence.threshold=0.5").localize(words.record, BIRD)


def test_a_sharp_mask_stands_beside_the_grids(model, bird, tmp_path, monkeypatch):
    sharp, looks = model.with_options("logic.refine=sam"), []
    monkeypatch.setattr(Sam, "look", lambda self, image, real=Sam.look: looks.append(image.size) or real(self, image))
    found = sharp.find(BIRD, ["birds.", "the umbrella"])
    assert len(looks) == 1
    assert bird.sharp_mask is bird.refined is None
    assert_array_equal(found[0].mask, bird.mask)
    assert found[0].box_xyxy == bird.box_xyxy
    truth = next(one for one in read_jsonl(PROJECT / "examples/localization_data.jsonl") if one.image_file == BIRD)
    boxes = (np.array(exclusive(one.box_xyxy)) for one in (bird, found[0].refined))
    grid, refined = (box_iou(box, np.array(truth.box_xyxy)) for box in boxes)
    assert refined > grid + 0.1
    assert found[0]._repr_png_() != bird._repr_png_()
    where = f"data.output_dir={tmp_path}", f"data.image_file={BIRD}", "data.query=birds."
    run(configuration(*where, "logic.refine=sam", "save_fig=false"))
    written = np.asarray(Image.open(tmp_path / "examples-models-picturebook" / "bird_refined.png")) > 0
    assert_array_equal(found[0].sharp_mask, written)


def test_a_sam_is_asked_otherwise_without_being_loaded_again(model, bird):
    sharp = model.with_options("logic.refine=sam")
    first = sharp.localize(bird.record, BIRD)
    other = sharp.with_options("refine.prompt=points")
    assert other.refiner.sam is sharp.refiner.sam
    assert other.localize(bird.record, BIRD).refined.prompt.points_xy
    assert not first.refined.prompt.points_xy
    with pytest.raises(UserError, match="is no SAM that is known"):
        load("picturebook", "logic.refine=sam", "refine.checkpoint=examples/models/picturebook")


def test_without_a_prompt_there_is_no_sharp_mask_and_why(model, bird):
    strict = model.with_options("logic.refine=sam", "logic.presence.threshold=1").localize(bird.record, BIRD)
    assert strict.sharp_mask is None
    why = f"presence is {bird.presence:.4g}, below logic.presence.threshold"
    assert strict.refined.why == f"no box that SAM could be asked with: {why}"
    assert box_line(strict.localization).startswith(f"no box: {why}\npresence 0.")


def test_an_answer_is_kept_of_every_expression(model):
    asked = load("picturebook", "model.use_generate=true")
    found = asked.find(BIRD, ["the bird", "the umbrella"])
    assert all(one.record.meta["generated_text"] for one in found)


def test_any_family_is_loaded_by_its_folder(tmp_path):
    folder = CHAT_FAMILIES["qwen2_5_vl"](tmp_path / "tiny")
    found = load(str(folder), device="cpu").find(BIRD, "birds.")
    assert found.mask.shape == open_image(BIRD).size[::-1]
    assert found.record.meta["model_name"] == str(folder)


def test_a_checkpoint_is_asked_as_its_preset_says():
    assert preset_of("llava-hf/llava-1.5-7b-hf") == "llava15_7b_hf"
    assert preset_of("llava15_7b") == "llava15_7b"
    assert preset_of("examples/models/picturebook") == preset_of(str(PROJECT / "examples/models/picturebook"))
    assert preset_of("examples/models/picturebook") == "picturebook"
    assert preset_of("nobody/nothing") == "auto"


@pytest.mark.parametrize(
    ("picture", "expression", "message"),
    [
        ("nowhere.png", "a bird", "No such image: nowhere.png"),
        (np.zeros((4, 4, 2), np.uint8), "a bird", r"an array \[4, 4, 2\] of uint8: expected uint8 \[height, width\]"),
        (np.zeros((4, 4)), "a bird", "of float64: expected uint8 .* times 255"),
        (np.array(None), "a bird", r"an array \[\] of object: expected uint8"),
        (BIRD, " ", "an expression is empty: say what to look for"),
        ([BIRD, CAT], ["a bird", ""], "an expression is empty: say what to look for"),
        (BIRD, b"cat", "an expression is a text, not b'cat'"),
        (BIRD, {"cat": 1}, "an expression is a text, not {'cat': 1}"),
        (b"cat", "a bird", "a picture is a path.* not b'cat'"),
        ({"img": BIRD, "label": 3}, "a bird", 'a row needs a key "image" with the picture, but has img, label'),
        ([{"image": [BIRD]}], "a bird", "a picture is a path"),
        (3, "a bird", "a picture is a path.* not 3"),
        (Image.new("RGB", (0, 5)), "a bird", "0 x 5 pixels shows nothing"),
        (None, "a bird", "a picture is a path.* not None"),
        ([[BIRD]], "a bird", "a picture is a path"),
        (BIRD, None, "an expression is a text, not None"),
        ([BIRD, CAT], ["a bird", 5], "an expression is a text, not 5"),
        ([BIRD, CAT], ["a bird"], "2 pictures, but 1 expressions"),
        (
            torch.zeros(5, 4, 3, dtype=torch.uint8),
            "a bird",
            r"a tensor \[5, 4, 3\] of uint8: expected uint8 \[1, 3 or 4, h",
        ),
        (torch.zeros(3, 4, 4), "a bird", "of float32: expected uint8 .* times 255"),
        ({"image": {"bytes": b"cat", "path": None}}, "a bird", "The image of a row cannot be read: not an image"),
        ({"bytes": b"", "path": "a.png"}, "a bird", r"The image a\.png is empty \(0 bytes\)"),
        ({"bytes": None, "path": None}, "a bird", "a picture is a path.* not None"),
        ({"bytes": "cat", "path": "a.png"}, "a bird", 'a row needs a key "image"'),
        (SimpleNamespace(image="\n" * 3), "a bird", "a picture is a path"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(model, picture, expression, message):
    with pytest.raises(UserError, match=message) as caught:
        model.find(picture, expression)
    assert "\n" not in str(caught.value)


def test_a_row_of_a_data_set_is_its_picture_and_a_data_set_is_its_rows(model, bird):
    rows = [{"image": str(BIRD), "label": 0}, {"image": Image.open(CAT), "label": 1}]
    assert model.find(rows[0], "birds.").box_xyxy == bird.box_xyxy
    found = model.find(rows, ["birds.", "a cat"])
    assert [one.box_xyxy for one in found] == [bird.box_xyxy, model.find(CAT, "a cat").box_xyxy]
    assert model.localize(bird.record, rows[0]).box_xyxy == bird.box_xyxy


def arrays() -> list[np.ndarray]:
    return [np.asarray(open_image(path)) for path in (BIRD, CAT)]


def channels_first() -> torch.Tensor:
    return torch.tensor(np.stack(arrays())).permute(0, 3, 1, 2)


FILES = [{"bytes": BIRD.read_bytes(), "path": None}, {"bytes": None, "path": str(CAT)}]
STAND_INS = {  # what a data set gives, without one
    "rows that are not decoded": lambda: [{"image": file, "label": 0} for file in FILES],
    "their column": lambda: FILES,
    "a stream": lambda: ({"image": Image.open(path)} for path in (BIRD, CAT)),
    "a slice": lambda: UserDict({"image": [Image.open(path) for path in (BIRD, CAT)], "label": [0, 1]}),
    "rows of tensors": lambda: [{"image": tensor} for tensor in channels_first()],
    "a slice of tensors": lambda: {"image": channels_first(), "label": [0, 1]},
    "an array of all": lambda: np.stack(arrays()),
}


@pytest.fixture(scope="module")
def boxes(model) -> list[tuple]:
    return [model.find(path, "the bird").box_xyxy for path in (BIRD, CAT)]


@pytest.mark.parametrize("kind", STAND_INS)
def test_whatever_a_data_set_holds_as_pictures_is_found_as_each_alone(model, boxes, kind):
    assert [found.box_xyxy for found in model.find(STAND_INS[kind](), "the bird")] == boxes


def test_a_grey_tensor_is_a_picture(model):
    grey = open_image(BIRD).convert("L")
    found = model.find(torch.tensor(np.asarray(grey))[None], "the bird")
    assert_array_equal(found.record.attn, model.find(grey, "the bird").record.attn)


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
@pytest.mark.parametrize("decode", [True, False])
def test_a_real_data_set_is_found_as_its_pictures(model, boxes, form, decode):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    rows = datasets.Dataset.from_dict({"image": [str(BIRD), str(CAT)], "label": [0, 1]})
    rows = rows.cast_column("image", datasets.Image(decode=decode)).with_format(form)
    given = {"whole": rows, "column": rows["image"], "slice": rows[0:2], "stream": rows.to_iterable_dataset()}
    for kind, pictures in given.items():
        assert (kind, [found.box_xyxy for found in model.find(pictures, "the bird")]) == (kind, boxes)
    assert model.find(rows[1], "the bird").box_xyxy == boxes[1]


def test_a_pil_image_that_cannot_be_read_is_told_in_one_line(model, tmp_path):
    cut = tmp_path / "cut.jpg"
    Image.open(BIRD).convert("RGB").save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    closed = Image.open(CAT)
    closed.close()
    with Image.open(BIRD) as left:
        pass
    for picture, why in (
        (Image.open(cut), "image file is truncated"),
        (closed, "it was closed"),
        (left, "it was closed"),
    ):
        with pytest.raises(UserError, match=f"the PIL image cannot be read: {why}") as caught:
            model.find(picture, "a bird")
        assert "\n" not in str(caught.value)


def test_garbage_is_looked_for_in_a_model_too():
    gc.unfreeze()
    model = load().loaded.model
    assert any(one is model for one in gc.get_objects())  # of which none is frozen


def test_what_was_found_stays_when_its_picture_is_drawn_on(model):
    with Image.open(BIRD) as image:
        mine = image.convert("RGB")
    found = model.find(mine, "a bird")
    before = found.picture.tobytes()
    mine.paste("black", (0, 0, *mine.size))
    assert found.picture.tobytes() == before


@pytest.mark.parametrize("name", [3, None, "", b"picturebook", ["picturebook"]])
def test_a_model_is_named_by_a_text(name):
    with pytest.raises(UserError, match="a model is a folder, a hub id or a preset, as a text, not "):
        load(name)


def test_an_option_is_a_text_with_a_key(model):
    for given in (3, None, ["logic.top_k=5"], {"logic.top_k": 5}):
        for does in (model.with_options, lambda option: load("picturebook", option)):
            with pytest.raises(UserError, match=r'an option is a text such as "logic\.top_k=5", not '):
                does(given)
    for option in ("foo", "--port", "=3", "logic@x=3"):
        with pytest.raises(UserError, match=rf"{option}: expected key=value, such as logic\.top_k=5"):
            load("picturebook", option)
    with pytest.raises(UserError, match=r"logic\.top_k=\(: expected a number, a word, a list, \[A,B\], or a text"):
        model.with_options("logic.top_k=(")


def test_it_is_short_in_a_console(model, bird):
    assert repr(bird) == f"Found('birds.', box_xyxy={bird.box_xyxy}, heads={bird.heads}, presence={bird.presence})"
    assert repr(model).startswith("Model('examples/models/picturebook', 8 layers x 8 heads, options=['model=picture")
    assert len(repr(model)) < 200


def test_options_that_the_command_line_refuses_are_refused(model):
    with pytest.raises(UserError, match=r"model\.dtype=float16: only logic, refine and model\.read, .* while a model"):
        model.with_options("model.dtype=float16")
    with pytest.raises(UserError, match=r"logic\.top_k is 65; expected 1 to 64"):
        model.with_options("logic.top_k=65")
    with pytest.raises(UserError, match="keys cannot be added"):
        load("picturebook", "+nothing=1")
    for option in ("logic", "logic.nothing=1", "logicx=1", "logic=nothing"):
        with pytest.raises(UserError) as caught:
            model.with_options(option)
        assert "\n" not in str(caught.value)


def test_it_shows_itself(bird, monkeypatch):
    assert bird._repr_png_().startswith(b"\x89PNG")
    monkeypatch.setattr("viz.can_show", lambda: False)
    bird.show()


def test_it_becomes_a_row_of_coco(bird):
    row = bird.to_coco(image_id=7)
    x0, y0, x1, y1 = bird.box_xyxy
    assert row["image_id"] == 7
    assert row["bbox"] == [x0, y0, x1 - x0 + 1, y1 - y0 + 1]
    assert_array_equal(rle.decode(row["segmentation"]), bird.mask)


def test_it_becomes_detections_where_supervision_is_installed(bird, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        bird.to_supervision()
    (tmp_path / "supervision.py").write_text("import nothing_of_this_name")
    monkeypatch.delitem(sys.modules, "supervision")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="installed, but cannot be imported: No module named 'nothing_of_this_name'"):
        bird.to_supervision()
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=lambda **values: values))
    found = bird.to_supervision()
    x0, y0, x1, y1 = bird.box_xyxy
    assert found["xyxy"].tolist() == [[x0, y0, x1 + 1, y1 + 1]]
    assert found["mask"].shape == (1, *bird.picture.size[::-1])
    assert found["data"]["class_name"].tolist() == ["birds."]
    assert found["confidence"].tolist() == pytest.approx([bird.presence])


def test_real_detections_are_joined_and_filtered(model, bird):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    absent = model.with_options("logic.presence.threshold=1").localize(bird.record, BIRD)
    found = supervision.Detections.merge([bird.to_supervision(), absent.to_supervision(), bird.to_supervision()])
    assert len(found) == 2
    assert found.mask.sum() == 2 * bird.mask.sum()
    assert len(found.with_nms()) == 1
    assert len(found[found.confidence > 0.999]) == 0


def test_the_quick_start_runs_as_it_is_written(capsys, monkeypatch):
    from examples.quickstart import main

    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("viz.can_show", lambda: False)
    main()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("a cat on the floor: box (170, 240, 369, 429)")
    assert second.startswith("the umbrella: box ")
