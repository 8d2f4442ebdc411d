"""The SAM in miniature: what it is trained on, and that its training runs from nothing to a checkpoint."""

import json

import numpy as np
import pytest
import torch
from transformers import SamModel

from lab.picturebook.fit import StageConfig
from lab.picturebook.make import samples
from lab.picturebook.sam import asking
from lab.picturebook.sam.evaluate import SamEvaluateConfig, evaluate, report, ways
from lab.picturebook.sam.loss import DenseSam, cell_edges, coverage, dense_loss, mask_loss, normalised
from lab.picturebook.sam.model import IMAGE_SIZE, MASK_SIZE, PATCH_SIZE, make_sam, save, start_tower
from lab.picturebook.sam.scenes import in_frame
from lab.picturebook.sam.train import KINDS, SamTrainConfig, answer, ask, train
from lab.picturebook.world import make_scene, mask_box_xyxy, render


@pytest.fixture(scope="module")
def owner():
    return in_frame(*render(make_scene(3)))[1]


@pytest.fixture(scope="module")
def mask(owner):
    return owner == np.bincount(owner[owner >= 0]).argmax()


def test_a_scene_keeps_its_shape_and_is_padded_below_or_at_the_right():
    scene = next(scene for scene in map(make_scene, range(50)) if scene.width > 1.3 * scene.height)
    pixels, things = in_frame(*render(scene))
    lowest = round(scene.height * IMAGE_SIZE / scene.width)
    assert np.ptp(pixels[lowest + 1 :], axis=(0, 1)).max() == 0
    assert (things[lowest + 1 :] == -1).all()
    assert np.ptp(pixels[:lowest], axis=(0, 1)).min() > 0


def test_boxes_are_near_the_thing_and_inside_the_picture(mask):
    true = np.array(mask_box_xyxy(mask)) - [0, 0, 1, 1]
    boxes = np.stack([asking.box(mask, np.random.default_rng(i)) for i in range(200)])
    assert ((boxes >= 0) & (boxes < IMAGE_SIZE)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    side = (true[2:] - true[:2]).max()
    assert np.abs(np.median(boxes, axis=0) - true).max() < 0.15 * side
    assert (boxes == true).all(1).any()


def test_points_lie_on_the_thing_and_off_it(mask, owner):
    for seed in range(50):
        found = asking.points(mask, owner, 3, 2, np.random.default_rng(seed))
        x, y = found.astype(int).T
        assert not mask[y[3:], x[3:]].any()
        assert np.isin(owner[y[:3], x[:3]], [-1, owner[mask][0]]).all()
        assert mask[y[:3], x[:3]].any()


def test_the_coarse_mask_is_above_zero_where_the_thing_is(mask):
    logits = asking.heat(mask, np.random.default_rng(0))
    assert logits.shape == (MASK_SIZE, MASK_SIZE)
    assert np.abs(logits).max() <= 10
    y, x = np.unravel_index(logits.argmax(), logits.shape)
    step = IMAGE_SIZE // MASK_SIZE
    assert coverage(torch.from_numpy(mask))[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].any(), (y * step, x * step)


def test_every_kind_of_prompt_has_its_parts(owner):
    parts = {"box": {"input_boxes"}, "points": {"input_points", "input_labels"}}
    parts["box+points"], parts["mask"] = parts["box"] | parts["points"], {"input_boxes", "input_masks"}
    for kind in KINDS:
        asked = ask(np.stack([owner, owner]), kind, 3, np.random.default_rng(0))
        assert asked.prompts.keys() == parts[kind]
        assert all(value.shape[:2] == (2, 3) for value in asked.prompts.values())
        assert asked.truth.shape == (2, 3, MASK_SIZE, MASK_SIZE)


def test_the_edges_of_a_cell_are_those_of_its_thing(owner):
    ways, known = cell_edges(owner[None])
    row, column = np.argwhere(known[0].numpy())[0]
    centre = np.array([column, row, column, row]) * PATCH_SIZE + PATCH_SIZE // 2
    box = centre + ways[0, :, row, column].numpy() * IMAGE_SIZE
    assert box.round().tolist() == list(mask_box_xyxy(owner == owner[centre[1], centre[0]]))


def test_the_best_of_several_masks_counts():
    truth = torch.zeros(1, 1, MASK_SIZE, MASK_SIZE)
    truth[..., :20, :20] = 1
    right, wrong = truth * 40 - 20, 20 - truth * 40
    loss, iou = mask_loss(torch.stack([wrong, right], dim=2), torch.tensor([[[0.0, 1.0]]]), truth)
    assert iou == 1
    assert loss < 1e-3


def test_training_runs_and_picks_up_where_it_was(tmp_path):
    first, second = (StageConfig(steps=steps, batch=2, lr=1e-3, checkpoint_every=1) for steps in (1, 2))
    folders = str(tmp_path / "work"), str(tmp_path / "out")
    config = SamTrainConfig(*folders, workers=1, scenes=6, held_out=2, prompts_only=first, all=second)
    train(config)
    model = SamModel.from_pretrained(tmp_path / "out")
    assert model.config.vision_config.image_size == IMAGE_SIZE
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 8e6
    second.steps = 3
    train(config)
    steps = [json.loads(line)["step"] for line in (tmp_path / "work" / "all.log.jsonl").open()]
    assert steps == [1, 2, 3]


def test_every_part_of_the_model_learns_and_the_tower_only_in_the_second_stage(owner):
    model = DenseSam(make_sam(seed=0))
    pixels, asked = torch.zeros(1, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8), {}
    for kind in KINDS:
        asked[kind] = ask(owner[None], kind, 2, np.random.default_rng(0))
    for learns in (False, True):
        model.sam.vision_encoder.requires_grad_(learns)
        model.zero_grad()
        embeddings, shown, edges = model(pixels)
        for multimask in (False, True):
            for one in asked.values():
                answers = answer(model, embeddings, one, multimask=multimask)
                mask_loss(*answers, one.truth)[0].backward(retain_graph=True)
        dense_loss(shown, edges, owner[None]).backward()
        still = {name for name, value in model.named_parameters() if value.requires_grad and value.grad is None}
        assert still <= {"sam.prompt_encoder.not_a_point_embed.weight"}
        tower = [value.grad for name, value in model.named_parameters() if "vision_encoder" in name]
        assert all((grad is not None) == learns for grad in tower)


def test_the_tower_starts_as_that_of_the_picture_book_model(picturebook):
    sam, clip = make_sam(seed=0), picturebook.model.model.vision_tower
    pixels = torch.from_numpy(np.stack([in_frame(*render(make_scene(seed)))[0] for seed in (1, 2)]))
    values, tower = normalised(pixels), sam.vision_encoder
    start_tower(sam, clip, values)
    small = torch.nn.functional.interpolate(values, (192, 192), mode="bilinear", antialias=True)
    with torch.inference_mode():
        own = tower.patch_embed(values) + tower.pos_embed
        for layer in tower.layers:
            own = layer(own)
        theirs = clip(pixel_values=small, output_hidden_states=True).hidden_states[-1][:, 1:]
        alike = torch.nn.functional.cosine_similarity(own.flatten(1, 2), theirs, dim=-1)
    assert alike.mean() > 0.9


def test_evaluation_asks_for_every_thing_in_every_way(tmp_path):
    save(make_sam(seed=0), tmp_path)
    found = evaluate(SamEvaluateConfig(str(tmp_path), "cpu", n=3, seed=5))
    counts = {len(scores) for scores, _ in found.values()}
    assert len(found) == 6
    assert len(counts) == 1
    assert f"{counts.pop()} things of 3 scenes." in report(found, resamples=10)


def test_the_true_box_is_that_of_the_mask_and_every_prompt_lies_in_the_picture():
    drawn = next(iter(samples(1, 9)))
    owner = in_frame(drawn.image, drawn.owner)[1]
    asked = ways(drawn.owner == 0, owner, 0, np.random.default_rng(0))
    x0, y0, x1, y1 = mask_box_xyxy(drawn.owner == 0)
    assert asked["the true box"].box_xyxy == (x0, y0, x1 - 1, y1 - 1)
    for prompt in asked.values():
        for x, y in [*prompt.points_xy, *np.reshape(prompt.box_xyxy or [], (-1, 2)).tolist()]:
            assert 0 <= x <= drawn.image.width
            assert 0 <= y <= drawn.image.height
