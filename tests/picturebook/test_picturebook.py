"""The picture-book world: scenes are what they say, expressions mean one thing, files are what stage=batch reads."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from lab.base.errors import UserError
from lab.datasets import read_jsonl
from lab.picturebook.absent import ABSENCES
from lab.picturebook.drawing import MAX_TOKENS, TRAINING_SEEDS, ask, encode, patch_labels, square_pixels
from lab.picturebook.examples import QUERIES, SCENES, draw_examples
from lab.picturebook.expressions import CATEGORIES, Description, describe, lexicon, plural, referents, word
from lab.picturebook.fit import StageConfig, fit
from lab.picturebook.language import answer_loss, pack, silent_heads
from lab.picturebook.make import make, pairs, samples
from lab.picturebook.model import GRID, IMAGE_SIZE, make_model, make_processor, make_tokenizer
from lab.picturebook.read import TOKENS, ReadConfig, measure, report
from lab.picturebook.things import COLOURS, KINDS, PATTERNS, sprite, sprite_size
from lab.picturebook.world import CELLS, SIZES, Scene, SceneConfig, Thing, make_scene, mask_box_xyxy, render

SEEDS = range(5_000_000, 5_000_060)


BEYOND = {  # what no training scene has: options of `make`
    "small": SceneConfig(cells=[2, 3]),
    "large": SceneConfig(cells=[10, 14]),
    "many": SceneConfig(things=[8, 14]),
    "cluttered": SceneConfig(clutter=40),
    "blurred": SceneConfig(blur=0.4),
    "noisy": SceneConfig(noise=40),
    "wide": SceneConfig(shape=3),
    "tall": SceneConfig(shape=1 / 3, side=800),
}


def thing(kind: str, x: int, y: int, *, colour: str = "red", pattern: str = "plain", size: str = "small") -> Thing:
    return Thing(kind, colour, pattern, size, (x, y, x + 80, y + 80), False, 1.0)


def scene_of(*things: Thing) -> Scene:
    return Scene(400, 400, "paper", 0, things)


def test_the_same_seed_draws_the_same_picture_and_another_seed_another():
    first, again, other = (render(make_scene(seed)) for seed in (3, 3, 4))
    assert first[0].tobytes() == again[0].tobytes()
    assert np.array_equal(first[1], again[1])
    assert first[0].tobytes() != other[0].tobytes()


def test_every_thing_is_visible_and_its_mask_lies_in_its_box():
    counts = set()
    for seed in SEEDS:
        scene = make_scene(seed)
        image, owner = render(scene)
        assert image.size == (scene.width, scene.height)
        assert owner.shape == (scene.height, scene.width)
        assert 240 <= min(image.size) <= max(image.size) <= 640
        counts.add(len(scene.things))
        for index, t in enumerate(scene.things):
            x0, y0, x1, y1 = mask_box_xyxy(owner == index)
            bx0, by0, bx1, by1 = t.box_xyxy
            assert bx0 - 2 <= x0 < x1 <= bx1 + 2
            assert by0 - 2 <= y0 < y1 <= by1 + 2
            assert max(x1 - x0, y1 - y0) > 0.85 * max(bx1 - bx0, by1 - by0), (
                "hardly anything of a thing is covered by others"
            )
    assert counts == set(range(1, 8))


def test_things_span_three_to_nine_cells_of_the_models_grid():
    for seed in SEEDS:
        scene = make_scene(seed)
        for t in scene.things:
            x0, y0, x1, y1 = t.box_xyxy
            assert 2.9 <= max(x1 - x0, y1 - y0) / scene.longer_side * GRID <= 9


@pytest.mark.parametrize("name", BEYOND)
def test_scenes_outside_the_trainings_range_are_drawn_again_with_boxes_around_what_is_seen(name):
    like = BEYOND[name]
    for seed in SEEDS[:8]:
        scene, again = make_scene(seed, like), make_scene(seed, like)
        (image, owner), (same, _) = render(scene), render(again)
        assert scene == again
        assert image.tobytes() == same.tobytes()
        assert image.size == (scene.width, scene.height)
        assert like.things[0] <= len(scene.things) <= like.things[1]
        for index, t in enumerate(scene.things):
            x0, y0, x1, y1 = mask_box_xyxy(owner == index)
            bx0, by0, bx1, by1 = t.box_xyxy
            assert bx0 - 2 <= x0 < x1 <= bx1 + 2
            assert by0 - 2 <= y0 < y1 <= by1 + 2
            if like.cells is not None:
                rounding = 4 / scene.longer_side * CELLS
                longest = max(x1 - x0, y1 - y0) / scene.longer_side * CELLS
                assert like.cells[0] - rounding <= longest <= like.cells[1] + rounding


def test_the_shape_and_the_side_of_a_picture_can_be_given():
    assert CELLS == GRID
    scene = make_scene(SEEDS[0], SceneConfig(shape=0.25, side=800))
    assert (scene.width, scene.height) == (200, 800)
    assert make_scene(SEEDS[0], SceneConfig(side=1600)).longer_side == 1600


@pytest.mark.parametrize(("option", "value"), [("clutter", 20), ("blur", 0.2), ("noise", 20)])
def test_what_spoils_a_picture_moves_nothing_in_it(option, value):
    as_trained, spoiled = make_scene(SEEDS[1]), make_scene(SEEDS[1], SceneConfig(**{option: value}))
    assert as_trained.things == spoiled.things
    (clean, owner), (image, same) = render(as_trained), render(spoiled)
    assert np.array_equal(owner, same)
    changed = (np.asarray(clean) != np.asarray(image)).any(-1)
    assert changed.any()
    if option == "clutter":  # behind the things
        assert not (changed & ndimage.binary_erosion(owner >= 0, iterations=3)).any()


@pytest.mark.parametrize(
    ("like", "why"),
    [
        (SceneConfig(things=[8, 3]), r"things=\[8, 3\]: expected \[least,most\] between 1 and 100"),
        (SceneConfig(cells=[2]), r"cells=\[2\]: expected"),
        (SceneConfig(cells=[10, 30]), "between 0.5 and 15"),
        (SceneConfig(blur=-1), "blur=-1: must lie between 0 and 16"),
        (SceneConfig(shape=20), "shape=20: must lie between 0.125 and 8"),
        (SceneConfig(things=[40, 50], cells=[8, 9]), "do not fit into a picture: ask for fewer or smaller"),
    ],
)
def test_a_scene_that_cannot_be_is_refused_in_one_line(tmp_path, like, why):
    with pytest.raises(UserError, match=why):
        make(tmp_path, 1, 1, like=like)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_sprite_is_as_large_as_announced_and_mostly_in_its_colour(kind):
    plain = sprite(kind, "blue", "plain", 90, 12)
    assert max(plain.size) == pytest.approx(90, abs=2)
    assert plain.size == pytest.approx(sprite_size(kind, 90), abs=2)
    pixels = np.asarray(plain).astype(int)
    inside = pixels[..., 3] > 128
    blue = inside & (pixels[..., 2] > pixels[..., 0] + 40)
    assert blue.sum() / inside.sum() > 0.3
    assert not np.array_equal(pixels, np.asarray(sprite(kind, "blue", "striped", 90, 12)))


def test_an_unknown_pattern_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="plain, striped, spotted"):
        sprite("cat", "red", "tartan", 60, 10)


def test_every_expression_means_exactly_its_targets_by_its_words_alone():
    """Reads the words back, independently of the generator.

    The things with all named attributes must hold the targets.
    """
    seen = set()
    for seed in SEEDS:
        scene = make_scene(seed)
        rng = np.random.default_rng(seed)
        for _ in range(30):
            expression = describe(scene, rng, asides=0.0)
            if expression is None:
                continue
            seen.add(expression.category)
            words = expression.text.rstrip(".").split()
            if expression.category == "relation":
                words = (
                    words[: min(i for i, w in enumerate(words) if w in ("left", "right", "above", "below", "under"))]
                    or words
                )
            named = [t for t in scene.things if all(value in words for value in _stated(words, t))]
            targets = [scene.things[i] for i in expression.targets]
            if expression.category in ("place", "relation"):
                assert all(t in named for t in targets), expression
            else:
                assert named == targets, expression
            assert not set(expression.answer) & set(words) - {"left", "right", "top", "bottom"}, (
                "the answer repeats the expression"
            )
    assert seen == set(CATEGORIES)


def _stated(words: list[str], t: Thing) -> list[str]:
    """For each attribute that the words name at all: the word that would name this thing's value."""
    stated = []
    if set(words) & {*KINDS, *map(plural, KINDS)}:
        stated.append(plural(t.kind) if plural(t.kind) in words else t.kind)
    for values, value in ((COLOURS, t.colour), (PATTERNS, t.pattern), (SIZES, t.size)):
        if set(words) & set(values):
            stated.append(value)
    return stated


def test_places_and_relations_need_a_clear_margin():
    left, right, close = thing("bird", 20, 100), thing("bird", 280, 100), thing("bird", 30, 250)
    assert referents(scene_of(left, right), Description(kind="bird", place="left")) == (0,)
    assert referents(scene_of(left, right), Description(kind="bird", place="right")) == (1,)
    assert referents(scene_of(left, close), Description(kind="bird", place="left")) is None
    assert referents(scene_of(right), Description(kind="bird", place="left")) is None, "not on the left of the picture"
    tree = thing("tree", 150, 100)
    assert referents(scene_of(left, right, tree), Description(kind="bird", relation=("left of", "tree"))) == (0,)
    assert (
        referents(scene_of(left, right, tree, tree), Description(kind="bird", relation=("left of", "tree"))) is None
    ), "two anchors"


def test_two_of_a_kind_need_more_than_the_kind_and_a_plural_means_both():
    both = scene_of(thing("cat", 20, 20), thing("cat", 200, 200))
    assert referents(both, Description(kind="cat")) is None
    assert referents(both, Description(kind="cat", plural=True)) == (0, 1)
    assert referents(both, Description(kind="dog")) is None


def test_wordings_vary_in_order_article_and_final_period():
    rng = np.random.default_rng(0)
    wordings = {word(Description(kind="cat", colour="orange"), rng) for _ in range(200)}
    assert {"orange cat", "cat orange", "the orange cat.", "an orange cat", "the cat that is orange"} <= wordings


def test_every_word_of_the_world_is_one_token_and_anything_else_still_has_an_encoding():
    tokenizer = make_tokenizer()
    for entry in lexicon():
        assert len(tokenizer(entry, add_special_tokens=False).input_ids) == 1, entry
    for text in ("wearing a zorpel", "ein Käfer", "🙂", "THE RED BIRD."):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text.lower()


def test_training_pictures_are_what_the_shipped_processor_makes():
    processor = make_processor(make_tokenizer()).image_processor
    for seed in list(SEEDS)[:6]:
        image, _ = render(make_scene(seed))
        values = processor(images=image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        pixels = (values * np.array(processor.image_std) + np.array(processor.image_mean)) * 255
        assert np.abs(pixels - square_pixels(image)).max() < 1.0  # rounding to whole bytes


def test_patch_labels_name_the_thing_that_covers_each_patch():
    scene = Scene(480, 480, "paper", 0, (Thing("ball", "blue", "striped", "large", (120, 120, 360, 360), False, 1.0),))
    labels = patch_labels(scene, render(scene)[1]).reshape(GRID, GRID, 4)
    ball = [
        list(KINDS).index("ball") + 1,
        list(COLOURS).index("blue") + 1,
        PATTERNS.index("striped") + 1,
        list(SIZES).index("large") + 1,
    ]
    assert labels[GRID // 2, GRID // 2].tolist() == ball
    assert labels[0, 0].tolist() == [0, 0, 0, 0]
    assert (labels[..., 0] > 0).sum() == pytest.approx(np.pi * 4**2, abs=6)  # a circle of 8 cells


def test_questions_are_newline_expression_answer_and_end():
    tokenizer = make_tokenizer()
    ids, spans = ask(make_scene(11), 6)
    assert ids.shape == (6, MAX_TOKENS)
    for row, (asked, total) in zip(ids, spans, strict=True):
        assert tokenizer.convert_ids_to_tokens(int(row[0])) == "\n"
        assert row[total - 1] == tokenizer.eos_token_id
        assert 0 < asked < total - 1
        assert (row[total:] == -1).all()


def test_packed_questions_see_the_image_and_themselves_only():
    ids, spans = ask(make_scene(11), 4)
    packed = pack(
        ids[None], spans[None], [1, 5, 6], GRID * GRID, np.random.default_rng(0), kept_share=0.25, blind_share=0.0
    )
    allowed, (start, stop) = packed.allowed[0, 0].numpy(), packed.image
    assert (start, stop) == (3, 3 + 64)
    last_of_first = stop + spans[0, 0] - 1
    assert allowed[last_of_first, : last_of_first + 1].all()
    second = stop + spans[0, 1]
    assert allowed[second, :stop].all()
    assert not allowed[second, stop:second].any()
    assert packed.positions[0, second] == packed.positions[0, stop] == 3 + GRID * GRID
    assert packed.targets[0, last_of_first] == ids[0, spans[0, 0]]


def test_blinded_expressions_see_the_image_at_their_last_token_alone():
    ids, spans = ask(make_scene(11), 3)
    asked = int(spans[0, 0])
    packed = pack(ids[None], spans[None], [1], GRID * GRID, np.random.default_rng(0), blind_share=1.0)
    allowed, (start, stop) = packed.allowed[0, 0].numpy(), packed.image
    last = stop + asked - 1
    assert allowed[last, start:stop].all()
    assert not allowed[stop:last, start:stop].any()


def test_make_writes_what_the_data_stage_reads(tmp_path):
    target = make(tmp_path, 5, 1)
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"1_{i:06d}" for i in range(5)]
    for line in lines:
        image, mask = Image.open(tmp_path / line["image_path"]), np.asarray(Image.open(tmp_path / line["mask_path"]))
        assert mask.shape == image.size[::-1]
        assert set(np.unique(mask)) == {0, 255}
        x0, y0, x1, y1 = mask_box_xyxy(mask > 0)
        assert line["bbox"] == [x0, y0, x1 - x0, y1 - y0]
    beyond = make(tmp_path / "beyond", 2, 1, like=SceneConfig(cells=[10, 14]))
    for line in map(json.loads, beyond.read_text().splitlines()):
        width, height = Image.open(beyond.parent / line["image_path"]).size
        assert max(line["bbox"][2:]) / max(width, height) > 9.5 / GRID


def test_what_an_absent_expression_names_is_not_in_the_scene_and_its_twin_says_the_same_of_what_is(tmp_path):
    """Read back from the words alone: which things of the scene have every attribute that is named."""
    drawn = {one.id: one for one in pairs(12, 64, tuple(ABSENCES))}
    assert {one.absence for one in drawn.values()} == {None, *ABSENCES}
    for one in drawn.values():
        twin, words = drawn[one.twin], one.expression.text.rstrip(".").split()
        assert len(twin.expression.text.rstrip(".").split()) == len(words)
        assert twin.expression.category == one.expression.category
        assert one.mask.any() == (one.absence is None) == bool(one.expression.targets)
        if one.absence is None or one.expression.category in ("place", "relation"):
            continue
        kinds = {k for k in KINDS if k in words or plural(k) in words}
        colours, patterns = set(words) & set(COLOURS), set(words) & set(PATTERNS)
        of_kind = [t for t in one.scene.things if t.kind in kinds]
        there = {t.colour for t in one.scene.things}
        assert bool(of_kind) == (one.absence in ("colour", "apart", "pattern"))
        assert bool(kinds) == (one.absence != "word")
        assert bool(colours & there) == (one.absence in ("same_colour", "apart")) or one.absence == "word"
        assert not any(t.colour in colours for t in of_kind)
        assert one.absence != "pattern" or not any(t.pattern in patterns for t in of_kind)
    for sample in read_jsonl(make(tmp_path, 2, 64, absent=["colour", "word"])):
        assert sample.present == (sample.box_xyxy is not None) == ("absence" not in sample.extra)
        assert sample.extra["twin"] != sample.id


def test_a_kind_of_absence_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="absent=shape: choose from all, kind, neither, same_colour, colour, apart"):
        make(tmp_path, 1, 1, absent="shape")
    with pytest.raises(UserError, match="leave out expressions and wordings"):
        make(tmp_path, 1, 1, expressions=2, absent="all")


def test_evaluation_scenes_are_not_training_scenes():
    assert all(drawn.scene.seed not in TRAINING_SEEDS for seed in (0, 1, 9) for drawn in samples(2, seed))


def test_the_shipped_pictures_are_the_ones_the_command_draws(tmp_path):
    from lab.base.paths import PROJECT

    draw_examples(tmp_path)
    for name in SCENES:
        shipped, drawn = (
            np.asarray(Image.open(folder / "images" / f"{name}.png")) for folder in (PROJECT / "examples", tmp_path)
        )
        assert (
            np.abs(shipped.astype(int) - drawn).max() <= 2
        )  # Pillow's resampling may differ by a step between versions
        assert max(shipped.shape) >= 480
    assert (PROJECT / "examples/localization_data.jsonl").read_text() == (
        tmp_path / "localization_data.jsonl"
    ).read_text()
    assert len(QUERIES) == 4


def test_training_tokens_are_the_referseg_prompts_tokens():
    tokenizer = make_tokenizer()
    assert tokenizer.convert_ids_to_tokens(encode("\nthe red bird.")) == ["\n", "▁the", "▁red", "▁bird", "."]
    assert IMAGE_SIZE % GRID == 0


def test_silent_heads_say_nothing_inside_the_block_and_speak_again_after_it():
    model = make_model(make_tokenizer(), seed=0)
    hidden = torch.randn(1, 5, model.config.text_config.hidden_size)

    def answer() -> torch.Tensor:
        with torch.inference_mode():
            return model.model.language_model(inputs_embeds=hidden).last_hidden_state

    before = answer()
    with silent_heads(model, 0.5, np.random.default_rng(0)):
        assert not torch.allclose(answer(), before)
    assert torch.equal(answer(), before)


def test_the_language_model_learns_from_text_alone_and_the_tower_stays():
    """One step lowers the loss on the same questions; no gradient reaches the vision tower."""
    torch.manual_seed(0)
    model = make_model(make_tokenizer(), seed=0)
    model.model.vision_tower.requires_grad_(False)
    ids, spans = ask(make_scene(11), 4)
    packed = pack(ids[None], spans[None], [1, 5, 6], GRID * GRID, np.random.default_rng(0))
    features = torch.randn(1, GRID * GRID, model.config.vision_config.hidden_size)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(3):
        loss, numbers = answer_loss(model, features, packed, later_words=0.5)
        assert 0 <= numbers["first"] <= 1
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert losses[2] < losses[0]
    assert all(p.grad is None for p in model.model.vision_tower.parameters())


def test_packed_questions_get_the_answers_they_get_alone():
    """Attention rows of a packed question are those of the same question asked by itself."""
    model = make_model(make_tokenizer(), seed=0).eval()
    ids, spans = ask(make_scene(11), 5)
    features = torch.randn(1, GRID * GRID, model.config.vision_config.hidden_size)
    with torch.inference_mode():
        together = answer_loss(
            model, features, pack(ids[None], spans[None], [1, 5, 6], GRID * GRID, np.random.default_rng(0)), 1.0
        )[0]
        alone = [
            answer_loss(
                model,
                features,
                pack(ids[None, q : q + 1], spans[None, q : q + 1], [1, 5, 6], GRID * GRID, np.random.default_rng(0)),
                1.0,
            )[0]
            for q in range(5)
        ]
    words = [int(total) - int(asked) for asked, total in spans]
    assert together.item() == pytest.approx(np.average([a.item() for a in alone], weights=words), rel=1e-5)


def test_training_stops_and_continues_where_it_was(tmp_path):
    """The same weights, whether a stage runs through or is stopped at a checkpoint and started again."""

    def run(folder, stops):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
        for steps in stops:

            def loss(step: int):
                x = torch.from_numpy(np.random.default_rng(step).normal(size=(16, 4)).astype(np.float32))
                return (module(x) - x.sum(1, keepdim=True)).square().mean(), {}

            config = StageConfig(steps=6, batch=16, lr=1e-2, warmup=2, checkpoint_every=2)
            fit(module, loss if steps == 6 else _stopping(loss, steps), config, folder, "stage")
        return module.state_dict()

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    through = run(tmp_path / "a", [6])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", [4])
    continued = run(tmp_path / "b", [6])
    assert all(torch.equal(through[k], continued[k]) for k in through)


def _stopping(loss, at: int):
    def stopped(step: int):
        if step == at:
            raise KeyboardInterrupt
        return loss(step)

    return stopped


def test_a_scene_may_have_two_expressions_about_different_things(tmp_path):
    one, two = (make(tmp_path / str(number), 12, 1, expressions=number) for number in (1, 2))
    first, lines = ([json.loads(line) for line in target.read_text().splitlines()] for target in (one, two))
    assert [line for line in lines if not line["id"].endswith("b")] == first
    pairs = [(a, b) for a, b in pairwise(lines) if b["id"] == a["id"] + "b"]
    assert len(pairs) >= 6
    for a, b in pairs:
        assert (a["image_path"], a["category"]) == (b["image_path"], b["category"])
        assert a["bbox"] != b["bbox"]
        assert b["bbox"] in [other["bbox"] for other in a["others"]] or b["category"] == "plural"
        assert a["bbox"] not in [other["bbox"] for other in a["others"]]
        assert all(other["answer"] for other in a["others"])
    with pytest.raises(UserError, match="a scene has 1 or 2"):
        make(tmp_path, 1, 1, expressions=3)


def test_the_table_of_tokens_that_can_be_read():
    found = measure(ReadConfig(n=3, seed=5, find_n=2, find_seed=6, top_n=3))
    assert list(found) == list(TOKENS)
    assert all(ious.shape == (3,) and 0 <= ious.min() <= ious.max() <= 1 for ious in found.values())
    lines = report({"last": np.array([0.7, 0, 0.8, 0]), "answer": np.full(4, 0.9)}).splitlines()
    last, answer = ([cell.strip() for cell in line.split("|")] for line in lines[-2:])
    assert last[1:4] == ["last", "50.0 (0.0 to 100.0)", "+0.0 (+0.0 to +0.0)"]
    assert last[4].startswith("25.0 (")  # one of four reaches 0.75
    assert [cell.split(" ")[0] for cell in answer[2:6]] == ["100.0", "+50.0", "100.0", "+75.0"]
