"""Every layout of SAM: the library's own numbers, non-square pictures, many prompts as one at a time, little memory."""

import json
import os
from dataclasses import replace
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from transformers import SamModel, SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from bbox import Localization, xywh
from conf.schema import RefineConfig, RefinePrompt, WhichMask
from lab.base.errors import UserError
from lab.refine.checkpoint import Loaded, load
from lab.refine.frame import Frame
from lab.refine.kinds import KINDS
from lab.refine.prompts import Coarse, Prompt
from lab.refine.refined import agreement, refine, tight_box
from lab.refine.sam import Answer, Look, Sam
from llava.grid import Grid
from tests.refine.tiny_sams import MAKERS, OF_VIDEO, PADDED, SIDE, save_tiny

SIZE = (90, 50)
GRID = Grid.stretched(5, 9, SIZE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_tiny(kind, tmp_path_factory.mktemp(kind)) for kind in MAKERS}


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=list(MAKERS))
def sam(request, folders):
    return Sam.load(str(folders[request.param]), "cpu")


def prompts():
    logits = np.random.default_rng(1).normal(size=(5, 9)).astype(np.float32)
    return [
        Prompt((10, 10, 40, 30)),
        Prompt(None, ((5, 5), (20, 20)), (1, 0)),
        Prompt((1, 2, 30, 40), ((5, 5),), (1,)),
        Prompt((5, 5, 30, 30), coarse=Coarse(logits, GRID)),
        Prompt((20, 10, 80, 30)),
        Prompt((20, 10, 80, 30), coarse=Coarse(-logits, GRID)),
        Prompt(None, ((50, 5),), (1,)),
    ]


@pytest.mark.parametrize("multimask", [False, True])
def test_many_prompts_together_are_answered_as_each_alone(sam, picture, multimask):
    look = sam.look(picture)
    together = sam.answers(look, prompts(), multimask=multimask)
    for prompt, answer in zip(prompts(), together, strict=True):
        alone = sam.answers(look, [prompt], multimask=multimask)[0]
        assert answer.logits.shape == (3 if multimask else 1, 16, 16)
        assert len(answer.estimates) == len(answer.logits)
        torch.testing.assert_close(answer.logits, alone.logits, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(answer.estimates, alone.estimates, atol=1e-5)


def test_what_is_kept_is_not_looked_at_again_and_answers_the_same(sam, picture, tmp_path, monkeypatch):
    keeping, seen = (Sam.load(sam.loaded.name, "cpu", tmp_path / "kept") for _ in range(2)), []
    first, second = keeping
    answers = [one.logits for one in first.answers(first.look(picture), prompts(), multimask=True)]
    (file,) = (tmp_path / "kept").iterdir()
    real = second.loaded.model.get_image_embeddings
    monkeypatch.setattr(second.loaded.model, "get_image_embeddings", lambda pixels: seen.append(1) or real(pixels))
    again = [one.logits for one in second.answers(second.look(picture), prompts(), multimask=True)]
    assert not seen
    for one, other in zip(answers, again, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    second.look(picture.rotate(180))  # another picture
    assert len(seen) == 1
    file.write_bytes(file.read_bytes()[:100])  # damaged
    second.look(picture)
    assert len(seen) == 2
    second.look(picture)
    assert len(seen) == 2


def test_a_kept_file_that_is_not_from_here_or_has_changed_is_made_again(sam, picture, tmp_path):
    keeping = Sam.load(sam.loaded.name, "cpu", tmp_path / "kept")
    keeping.look(picture)
    (file,) = (tmp_path / "kept").iterdir()
    whole, flipped = file.read_bytes(), bytearray(file.read_bytes())
    flipped[-1] ^= 64  # an exponent
    foreign = save({"image_embeddings": torch.zeros(2, 3), "other": torch.zeros(0)})
    nobody = save({"image_embeddings.x": torch.zeros(2, 3)})
    for content in (bytes(flipped), foreign, nobody, save({})):
        file.write_bytes(content)
        assert keeping.answers(keeping.look(picture), prompts(), multimask=False)
        assert file.read_bytes() == whole
    file.unlink()
    os.mkfifo(file)
    keeping.look(picture)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_made_is_told(folders, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"refine\.keep=.*cannot be made"):
        Sam.load(str(folders["sam"]), "cpu", tmp_path / "file" / "kept")


def test_other_weights_have_files_of_their_own(folders, picture, tmp_path):
    folder = copytree(folders["sam"], tmp_path / "sam")
    Sam.load(str(folder), "cpu", tmp_path / "kept").look(picture)
    model = SamModel.from_pretrained(folder)
    torch.nn.init.normal_(model.vision_encoder.pos_embed)
    model.save_pretrained(folder)
    Sam.load(str(folder), "cpu", tmp_path / "kept").look(picture)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_what_is_asked_decides_the_answer(sam, picture):
    answers = sam.answers(sam.look(picture), prompts(), multimask=False)
    for first, second in ((0, 4), (3, 5), (1, 6)):
        assert not torch.allclose(answers[first].logits, answers[second].logits, atol=1e-6)


@pytest.mark.parametrize("size", [(90, 50), (40, 75), (64, 64), (300, 17)])
def test_sam_answers_as_the_library_does_by_itself(folders, size):
    image = Image.fromarray(np.random.default_rng(3).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    box, point = (size[0] // 5, 2, size[0] // 2, size[1] - 3), (size[0] // 3, size[1] // 2)
    processor = SamProcessor(SamImageProcessorPil.from_pretrained(folders["sam"]))
    model = SamModel.from_pretrained(folders["sam"]).eval()
    inputs = processor(image, input_boxes=[[list(box)]], input_points=[[[list(point)]]], return_tensors="pt")
    inputs = {k: v.float() if v.dtype == torch.float64 else v for k, v in inputs.items()}
    inputs["input_labels"] = torch.ones(1, 1, 1, dtype=torch.long)
    with torch.inference_mode():
        said = model(**inputs, multimask_output=True)
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    theirs = processor.post_process_masks(said.pred_masks, *sizes, binarize=False)[0][0]
    sam = Sam.load(str(folders["sam"]), "cpu")
    look = sam.look(image)
    ours = sam.answers(look, [Prompt(box, (point,), (1,))], multimask=True)[0]
    torch.testing.assert_close(look.frame.on_picture(ours.logits), theirs, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(ours.estimates, said.iou_scores[0, 0].numpy(), atol=1e-5)


class DrawsItsBox:
    """A SAM whose answer is known: it draws the box that it gets, or a disc around the point."""

    def __init__(self, resolution=SIDE):
        self.resolution = resolution
        self.prompt_encoder = SimpleNamespace(image_embedding_size=(resolution // 4, resolution // 4))
        self.asked = []

    def get_image_embeddings(self, pixels):
        return torch.zeros(1, 1)

    def __call__(self, image_embeddings, multimask_output, input_boxes=None, input_points=None, **_):
        at = (torch.arange(self.resolution) + 0.5) * SIDE / self.resolution
        if input_boxes is not None:
            x0, y0, x1, y1 = (edge[..., None, None] for edge in input_boxes.unbind(-1))
            scale = SIDE / max(SIZE)  # a pixel of the picture: both edges of a prompt are inclusive
            inside = (at >= x0) & (at < x1 + scale) & (at[:, None] >= y0) & (at[:, None] < y1 + scale)
        else:
            x, y = (place[..., 0, None, None] for place in input_points.unbind(-1))
            inside = (at - x) ** 2 + (at[:, None] - y) ** 2 < 36
        self.asked.append(inside.shape[1])
        masks = torch.where(inside, 10.0, -10.0)[:, :, None]
        if multimask_output:  # the second is all, the third nothing
            masks = torch.cat([masks, masks.abs(), -masks.abs()], dim=2)
        estimates = torch.tensor([0.4, 0.9, 0.1])[: masks.shape[2]].expand(masks.shape[:3])
        return SimpleNamespace(pred_masks=masks, iou_scores=estimates)


def drawing(stretched=False, **rest):
    def processor(image, return_tensors):
        pixels = {"pixel_values": torch.zeros(1, 3, SIDE, SIDE)}
        scale = SIDE / max(image.size)
        sizes = torch.tensor([[round(image.height * scale), round(image.width * scale)]])
        return pixels if stretched else pixels | {"reshaped_input_sizes": sizes}

    return Sam(Loaded("drawing", DrawsItsBox(**rest), processor, torch.device("cpu")))


def located(box, grid=GRID, size=SIZE):
    heat = np.zeros((grid.rows, grid.cols), np.float32)
    x0, y0, x1, y1 = box
    col, row = int((x0 + x1) / 2 * grid.cols / size[0]), int((y0 + y1) / 2 * grid.rows / size[1])
    heat[row, col] = 1
    mask = np.zeros(size[::-1], bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return Localization(((0, 0),), heat, heat > 0, mask, box, xywh(box)), grid


@pytest.mark.parametrize("size", [(90, 50), (50, 90), (90, 90)])
@pytest.mark.parametrize("resolution", [16, 64])
def test_a_box_comes_back_where_it_was_asked_on_pictures_of_any_shape(size, resolution):
    sam, box = drawing(resolution=resolution), (10, 5, 40, 45)
    found = located(box, Grid.stretched(5, 9, size), size)
    one = refine(sam, sam.look(Image.new("RGB", size)), [found], RefineConfig())[0]
    tolerance = max(size) / resolution / 2 + 1  # half of a pixel of the answer
    assert one.mask.shape == size[::-1]
    assert np.abs(np.array(one.box_xyxy) - box).max() <= tolerance


def test_a_point_comes_back_on_a_stretched_picture():
    sam = drawing(stretched=True)
    found = located((60, 20, 70, 30))
    config = RefineConfig(prompt=RefinePrompt("points"), negatives=0)
    one = refine(sam, sam.look(Image.new("RGB", SIZE)), [found], config)[0]
    x0, y0, x1, y1 = one.box_xyxy
    assert abs((x0 + x1) / 2 - one.prompt.points_xy[0][0]) < 2
    assert abs((y0 + y1) / 2 - one.prompt.points_xy[0][1]) < 2
    assert (x1 - x0) / (y1 - y0) == pytest.approx(SIZE[0] / SIZE[1], rel=0.15)


def test_of_three_masks_the_estimate_or_the_heat_map_chooses():
    sam = drawing()
    look, found = sam.look(Image.new("RGB", SIZE)), located((10, 5, 40, 45))
    by_estimate, by_heat = (
        refine(sam, look, [found], RefineConfig(multimask=True, choose=choose))[0] for choose in WhichMask
    )
    assert by_estimate.mask.all()
    assert by_estimate.estimate == pytest.approx(0.9)
    assert 0.2 < by_heat.mask.mean() < 0.4
    assert by_heat.agreement > by_estimate.agreement == 0


def test_the_heat_map_lies_where_the_picture_does():
    frame = Frame((90, 50), 64, (64, 36))
    heat = np.zeros((5, 9), np.float32)
    heat[4, 8] = 1
    laid = frame.heat(heat, GRID, 64, outside=-7)
    row, col = np.unravel_index(laid.argmax(), laid.shape)
    assert (col + 0.5, row + 0.5) == pytest.approx((85 * 64 / 90, 45 * 36 / 50), abs=1)
    assert (laid[36:] == -7).all()
    assert laid[:36].min() == 0


def test_agreement_is_a_correlation():
    heat = np.zeros((4, 4))
    heat[:2] = 1
    masks = np.stack([heat > 0, heat == 0, heat == 5, heat < 5])
    assert agreement(masks, heat, np.ones((4, 4), bool)).tolist() == pytest.approx([1, -1, 0, 0])


def test_an_empty_heat_map_gives_no_mask_and_says_so_while_the_others_are_refined():
    sam = drawing()
    empty = replace(located((10, 5, 40, 45))[0], box_xyxy=None)
    none, one = refine(sam, sam.look(Image.new("RGB", SIZE)), [(empty, GRID), located((10, 5, 40, 45))], RefineConfig())
    assert not none.mask.any()
    assert none.box_xyxy is None
    assert "the mask is empty" in none.to_dict()["why"]
    assert one.mask.any()
    assert tight_box(none.mask) is None


def test_prompts_that_do_not_fit_into_memory_are_asked_in_halves(monkeypatch, caplog):
    sam, fits = drawing(), 2

    def little(self, look, asked, multimask, real=Sam._asked):
        if len(asked) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, look, asked, multimask)

    monkeypatch.setattr(Sam, "_asked", little)
    look = sam.look(Image.new("RGB", SIZE))
    asked = [Prompt((i, i, i + 10, i + 9)) for i in range(7)]
    assert len(sam.answers(look, asked, multimask=False)) == 7
    assert sam.most == 1 or sam.most == 2
    assert "out of memory with 7 prompts" in caplog.text
    fits = 0
    with pytest.raises(UserError, match="out of memory with one prompt"):
        sam.answers(look, asked, multimask=False)


def test_a_picture_that_does_not_fit_into_memory_is_one_clear_line(monkeypatch):
    def full(self, pixels):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DrawsItsBox, "get_image_embeddings", full)
    with pytest.raises(UserError, match="out of memory with one picture"):
        drawing().look(Image.new("RGB", SIZE))


@pytest.mark.parametrize(
    ("config", "found"),
    [('{"model_type": "clip"}', "model_type is 'clip'"), ("{}", "no config.json with"), (None, "no")],
)
def test_what_is_no_sam_is_refused_by_name(tmp_path, config, found):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=found) as error:
        load(str(tmp_path), "cpu")
    assert "no SAM" in str(error.value)
    assert all(kind in str(error.value) for kind in KINDS)


def test_a_sam_without_weights_is_refused(folders, tmp_path):
    (tmp_path / "config.json").write_text((folders["sam"] / "config.json").read_text())
    with pytest.raises(UserError, match="holds no weights"):
        load(str(tmp_path), "cpu")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"size": {"longest_edge": 32}}, "makes pictures of 32 and 64 pixels, but its model takes 64 x 64"),
        ({"size": {"longest_edge": 10**9}}, "makes pictures of 64 and 1000000000 pixels"),
        ({"do_pad": False}, "makes do_pad=false"),
    ],
)
def test_what_prepares_pictures_otherwise_than_the_model_takes_them_is_refused(folders, tmp_path, change, found):
    folder = copytree(folders["sam"], tmp_path / "sam")
    (folder / "preprocessor_config.json").write_text(json.dumps(PADDED | change))
    with pytest.raises(UserError, match=found) as error:
        load(str(folder), "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", list(OF_VIDEO))
def test_the_checkpoint_of_a_video_model_answers_as_its_picture_model(folders, picture, tmp_path, kind):
    of_pictures, save = OF_VIDEO[kind]
    answers = [
        (sam := Sam.load(str(folder), "cpu")).answers(sam.look(picture), prompts(), multimask=True)
        for folder in (folders[of_pictures], save(folders[of_pictures], tmp_path / kind))
    ]
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=1e-4)


def test_the_picture_is_looked_at_as_it_is_shown(sam, picture):
    grey = picture.convert("L")
    assert sam.look(grey).frame == sam.look(picture).frame


def test_an_answer_has_an_estimate_for_each_mask():
    answer = Answer(torch.zeros(3, 4, 4), np.zeros(3))
    assert len(answer.estimates) == len(answer.logits)
    assert Look(Frame(SIZE, 64, (64, 36)), {}).frame.place(np.array([90.0, 50.0])).tolist() == [64, 36]
