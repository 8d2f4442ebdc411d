"""What every family must do, on tiny checkpoints in the real format. A new family is a line in `FAMILIES`.

`VARIANTS` are the same families with language models whose layers do not all see everything before a token.
"""

import pickle
from dataclasses import replace
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from collector import ask, collect, prepare
from conf.schema import ModelConfig
from lab.attention.capture import Wanted, attention_modules, attention_name, kept_rows, use_attention
from lab.attention.forward import body, in_all_layers, to_model
from lab.attention.packing import pack
from lab.base.errors import UserError
from lab.batch.plan import plan_rows
from lab.batch.rows import RowDataset, feed
from lab.datasets import Sample
from lab.records.files import load_record, save_record
from llava.chat import Measured
from llava.families import FAMILIES as KNOWN
from llava.family import LoadedModel, Picture, Sharing
from llava.grid import Grid
from llava.layers import kinds, seen_tokens
from llava.model.builder import load_llava, load_model, main
from llava.model.look import grids
from tests.llava.tiny_chat import CHAT_FAMILIES, LACKING
from tests.llava.tiny_families import FAMILIES as LLAVA_FAMILIES
from tests.llava.tiny_families import MISTRAL, write_llava, write_llava_next

SHORT = 40  # tokens that a sliding layer sees: fewer than any prompt here
SLIDING = {**MISTRAL, "sliding_window": SHORT}
MIXED = {**MISTRAL, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": SHORT, "max_window_layers": 1}
VARIANTS = {
    "llava, sliding": lambda folder: write_llava(folder, SLIDING),
    "llava_next, sliding": lambda folder: write_llava_next(folder, SLIDING),
    "llava, full and sliding": lambda folder: write_llava(folder, MIXED),
}
FAMILIES = {**LLAVA_FAMILIES, **CHAT_FAMILIES}
NEED_TORCHVISION = {
    "llama4",
    "perception_lm",
    "lfm2_vl",
    "molmo2",
    "kimi_k25",
    "cohere2_vision",
}  # see test_torchvision
ATTENTION = ("eager", "fused")
QUERIES = ("a bird", "a small dog wearing a collar", "the red ball on the left")


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8))


WIDE, TALL = noise(192, 96), noise(64, 128)
ASKED = [(WIDE, list(QUERIES)), (TALL, ["a cat"]), (TALL, ["the bird", "a cup beside the house"])]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp("families") / "tiny")


@pytest.fixture(params=ATTENTION)
def loaded(request, folder) -> LoadedModel:
    model = load_model(str(folder), device="cpu")
    use_attention(model.model, request.param)
    return model


@pytest.fixture
def eager(folder) -> LoadedModel:
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tmp_path_factory) -> LoadedModel:
    return load_model(str(VARIANTS[request.param](tmp_path_factory.mktemp("variants") / "tiny")), device="cpu")


WAYS = {  # in which expressions may share a picture, by the best of them
    Sharing.PACKED: tuple(Sharing),
    Sharing.CACHED: (Sharing.CACHED, Sharing.ALONE),
    Sharing.ALONE: (Sharing.ALONE,),
}


def shared(loaded: LoadedModel, sharing: Sharing) -> LoadedModel:
    return replace(loaded, family=replace(loaded.family, sharing=sharing))


def taken(loaded: LoadedModel, ids: torch.Tensor, *pictures: Picture) -> dict[str, torch.Tensor]:
    """What a stock forward takes."""
    inputs = to_model(loaded, loaded.family.inputs(pictures))
    return {"input_ids": ids, **inputs, **loaded.family.text_inputs(ids, inputs)}


def maps_of(loaded: LoadedModel, attentions: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Of what transformers returns, the maps of the layers that look at pictures, in their order."""
    own = [int(module.layer_idx) for module in attention_modules(loaded.model)]
    return [attentions[layer] for layer in own] if len(attentions) == loaded.num_layers else list(attentions)


def stock(loaded: LoadedModel, image: Image.Image, query: str) -> torch.Tensor:
    """What transformers' own `output_attentions` says, [layers, heads, 1, image tokens]."""
    use_attention(loaded.model, "eager")
    picture = loaded.family.picture(image)
    prompt = loaded.family.prompt(query, picture)
    with torch.inference_mode():
        given = taken(loaded, torch.tensor([prompt.ids]), picture)
        output = loaded.model(**given, output_attentions=True, use_cache=False)
    rows = torch.stack(maps_of(loaded, output.attentions))[:, 0, :, -1:, prompt.columns]
    return in_all_layers(loaded, rows)


def test_every_family_is_tested():
    original = {"llava_llama", "llava_mistral", "share4v"}  # see test_llava_layouts
    assert set(KNOWN) <= set(FAMILIES) | original | NEED_TORCHVISION | LACKING


# rows


@pytest.mark.parametrize("image", [WIDE, TALL], ids=["wide", "tall"])
def test_rows_are_those_of_output_attentions(eager, image):
    record = collect(eager, image, "a bird")
    assert torch.equal(record.tensor(), stock(eager, image, "a bird"))
    assert record.attn.max() > 1.5 * np.median(record.attn)


def test_in_bfloat16_fused_rows_are_as_near_to_exact_ones_as_eager_rows_are(eager, folder):
    exact, half = collect(eager, TALL, "a cat").attn, load_model(str(folder), device="cpu", dtype="bfloat16")
    error = {}
    for name in ATTENTION:
        use_attention(half.model, name)
        error[name] = np.abs(collect(half, TALL, "a cat").attn - exact).mean()
    assert error["fused"] < 2 * error["eager"]


@pytest.mark.parametrize("image", [WIDE, TALL], ids=["wide", "tall"])
def test_fused_rows_are_those_of_output_attentions(eager, image):
    expected = stock(eager, image, "a bird").numpy()
    use_attention(eager.model, "fused")
    record = collect(eager, image, "a bird")
    eager.model.set_experts_implementation("eager")  # the others know no float64
    exact = stock(replace(eager, model=eager.model.double()), image, "a bird").numpy()
    rounding = np.abs(expected - exact).max()  # of the stock's own float32; fused sums in another order
    slack = 4 * rounding if isinstance(eager.geometry, Measured) else 0
    np.testing.assert_allclose(record.attn, expected, rtol=0, atol=1e-6 + slack)
    assert rounding < 1e-5


@pytest.mark.parametrize("attention", ATTENTION)
def test_rows_of_layers_with_a_window_are_those_of_output_attentions(variant, attention):
    use_attention(variant.model, attention)
    found, expected = collect(variant, WIDE, "a bird").attn, stock(variant, WIDE, "a bird").numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if attention == "eager" else 1e-6)
    assert found[-1].min() == 0  # the window ends within the picture


# the tokens that are read


def stock_at(loaded: LoadedModel, answer: tuple[int, ...], places: list[int]) -> np.ndarray:
    """What a stock forward over "a small dog" and an answer gives for some places, [layers, heads, places, vis]."""
    use_attention(loaded.model, "eager")
    picture = loaded.family.picture(WIDE)
    prompt = loaded.family.prompt("a small dog", picture)
    ids = torch.tensor([[*prompt.ids, *answer]])
    with torch.inference_mode():
        output = loaded.model(**taken(loaded, ids, picture), output_attentions=True, use_cache=False)
    rows = torch.stack(maps_of(loaded, output.attentions))[:, 0][:, :, places][..., prompt.columns]
    return in_all_layers(loaded, rows).numpy()


def test_the_tokens_of_an_expression_are_those_of_output_attentions(loaded):
    eager = attention_name(loaded.model) == "eager"
    for read, asked in (("expression", ["a bird", "a small dog"]), ("word:DOG", ["a dog", "a small dog"])):
        assert_read(loaded, read, asked, exact=eager)


def assert_read(loaded: LoadedModel, read: str, asked: list[str], *, exact: bool) -> None:
    use_attention(loaded.model, "eager" if exact else "fused")
    config = ModelConfig(read=read)
    record = collect(loaded, WIDE, "a small dog", config)
    questions = [prepare(loaded, WIDE, asked, config), prepare(loaded, TALL, ["dog"], config)]
    together = ask(loaded, questions, config).of(0)[1]
    places = [token["place"] for token in record.meta["tokens"]]
    text = "".join(token["text"] for token in record.meta["tokens"]).replace(" ", "")  # some tokens hold a space
    assert text == ("dog" if "dog" in read.lower() else "asmalldog")
    np.testing.assert_allclose(together.attn, record.attn, rtol=0, atol=1e-5)
    assert together.meta == record.meta
    np.testing.assert_allclose(record.attn, stock_at(loaded, (), places), rtol=0, atol=0 if exact else 1e-5)


def test_the_tokens_of_an_answer_are_those_of_the_steps_that_take_them_in(loaded):
    config = ModelConfig(read="answer", max_new_tokens=4)
    record = collect(loaded, WIDE, "a small dog", config)
    picture = loaded.family.picture(WIDE)
    prompt = loaded.family.prompt("a small dog", picture)
    ids = torch.tensor([prompt.ids])
    use_attention(loaded.model, "eager")
    with torch.inference_mode():
        out = loaded.model.generate(
            **taken(loaded, ids, picture), max_new_tokens=5, min_new_tokens=5, do_sample=False, output_attentions=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    tokens = record.meta["tokens"]
    assert [token["place"] for token in tokens] == [len(prompt.ids) + i for i in range(len(tokens))]
    compared, own = 0, [int(module.layer_idx) for module in attention_modules(loaded.model)]
    for number, token in enumerate(tokens):
        step = maps_of(loaded, out.attentions[number + 1])  # that takes the token in
        for layer, seen in zip(own, step, strict=True):
            if prompt.apart or seen.shape[-1] == token["place"] + 1:  # layers with a window forget the first keys
                expected = seen[0, :, -1][:, prompt.columns].numpy()
                np.testing.assert_allclose(record.attn[layer, :, number], expected, rtol=0, atol=1e-5)
                compared += 1
    assert compared >= len(tokens) > 0


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_tokens_of_an_answer_behind_layers_with_a_window(variant, attention):
    use_attention(variant.model, attention)
    record = collect(variant, WIDE, "a small dog", ModelConfig(read="answer", max_new_tokens=3))
    places = [token["place"] for token in record.meta["tokens"]]
    ids = greedy(variant, "a small dog", 3)
    np.testing.assert_allclose(record.attn, stock_at(variant, ids, places), rtol=0, atol=1e-5)


def greedy(loaded: LoadedModel, query: str, tokens: int) -> tuple[int, ...]:
    picture = loaded.family.picture(WIDE)
    ids = torch.tensor([loaded.family.prompt(query, picture).ids])
    with torch.inference_mode():
        output = loaded.model.generate(**taken(loaded, ids, picture), max_new_tokens=tokens, do_sample=False)
    return tuple(output[0, ids.shape[1] :].tolist())


# geometry


def test_grids_and_what_is_beside_them_hold_every_image_token_once(eager):
    for size in ((240, 144), (96, 192), (64, 64), (61, 30), (300, 30), (1000, 12), (7, 40), (1, 1)):
        picture = eager.family.picture(noise(*size))
        held = [*(int(token) for grid in picture.grids for token in grid.index.ravel()), *picture.beside]
        assert sorted(held) == list(range(picture.tokens))
        if not isinstance(eager.geometry, Measured):
            assert eager.geometry.fewest <= picture.tokens <= eager.geometry.tokens
        prompt = eager.family.prompt("a bird", picture)
        assert len(prompt.columns) == picture.tokens


@pytest.mark.parametrize("pad", ["pad", "crop"])
def test_a_class_token_is_beside_the_grid(tmp_path, pad):
    folder = write_llava(tmp_path / "full", vision_feature_select_strategy="full", image_seq_length=65)
    loaded = load_model(str(folder), device="cpu", image_aspect_ratio=pad)
    picture = loaded.family.picture(WIDE)
    assert (picture.tokens, picture.beside, picture.grids[0].tokens) == (65, (0,), slice(1, 65))
    silenced(loaded)
    assert found_in_place(loaded, smooth(192, 96), picture.grids[0]) == 1
    assert_together_as_alone(loaded)


def silenced(loaded: LoadedModel) -> None:
    """Takes the attention out of the vision towers, so that a feature comes from its own cell alone."""
    own = set(attention_modules(loaded.model))

    def zero(_module, _args, output):
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    for name, module in loaded.model.named_modules():
        mixes = type(module).__name__.endswith("Attention") and "projector" not in name  # which pools a cell's patches
        if mixes and module not in own:
            module.register_forward_hook(zero)


@torch.inference_mode()
def features(loaded: LoadedModel, image: Image.Image) -> np.ndarray:
    """The picture's image features, [image tokens, width]."""
    picture = loaded.family.picture(image)
    inputs = to_model(loaded, loaded.family.inputs([picture]))
    if picture.apart:
        tower, project = body(loaded).vision_model, body(loaded).multi_modal_projector
        return project(tower(**inputs).last_hidden_state).flatten(0, -2).numpy()
    output = body(loaded).get_image_features(**inputs, return_dict=True)
    found = output.last_hidden_state if output.get("pooler_output") is None else torch.cat(list(output.pooler_output))
    return found.flatten(0, -2).numpy()


def found_in_place(loaded: LoadedModel, image: Image.Image, grid: Grid) -> float:
    """Paints the place of one cell after the other; the share of them whose own feature then changes the most."""
    x0, y0, x1, y1 = grid.extent_xyxy
    across, down = (x1 - x0) / grid.cols, (y1 - y0) / grid.rows
    boxes = {
        (r, c): (x0 + c * across, y0 + r * down, x0 + (c + 1) * across, y0 + (r + 1) * down)
        for r, c in np.ndindex(grid.rows, grid.cols)
    }
    inside = [
        cell
        for cell, box in boxes.items()
        if min(box) >= -1e-6 and box[2] < image.width + 1e-6 and box[3] < image.height + 1e-6
    ]  # others hold padding
    before, hits = features(loaded, image), []
    for cell in inside[:: max(1, len(inside) // 16)]:
        painted = image.copy()
        left, top, right, bottom = boxes[cell]
        painted.paste((255, 0, 255), (ceil(left - 0.01), ceil(top - 0.01), int(right + 0.01), int(bottom + 0.01)))
        change = np.linalg.norm(features(loaded, painted) - before, axis=1)[grid.index]
        hits.append(divmod(int(change.argmax()), grid.cols) == cell)
    assert len(hits) >= 8  # a tile may hold padding in half of its cells
    return float(np.mean(hits))


@pytest.mark.parametrize("size", [(192, 96), (72, 144)], ids=["wide", "tall"])
def test_a_painted_cell_changes_its_own_feature_the_most(eager, size):
    silenced(eager)
    image = smooth(*size)
    grids = eager.family.picture(image).grids
    for grid in {grids[0], grids[len(grids) // 2], grids[-1]}:
        assert found_in_place(eager, image, grid) == 1


def smooth(width: int, height: int) -> Image.Image:
    return noise(8, 8).resize((width, height), Image.Resampling.BICUBIC)


def wrong_geometries(picture: Picture, image: Image.Image) -> list[Grid]:
    """Mistakes that are easily made, for each grid that they would change."""
    stretched = (0.0, 0.0, float(image.width), float(image.height))
    wrong = []
    for grid in {picture.grids[0], picture.grids[-1]}:
        x0, y0, x1, y1 = grid.extent_xyxy
        if max(abs(edge - other) for edge, other in zip(grid.extent_xyxy, stretched, strict=True)) > image.width / 10:
            wrong.append(replace(grid, extent_xyxy=stretched))  # padding forgotten
        elif grid.rows == grid.cols and grid.extent_xyxy == stretched:
            wrong.append(Grid.padded_square(grid.rows, image.size, grid.start))  # padding where there is none
        if grid.stride > grid.cols:
            wrong.append(replace(grid, stride=grid.cols))  # newlines forgotten
        wrong.append(replace(grid, extent_xyxy=(x0, y0, x0 + 0.8 * (x1 - x0), y1)))  # too narrow
        if grid.rows != grid.cols and grid.stride == grid.cols:
            wrong.append(replace(grid, rows=grid.cols, cols=grid.rows, stride=grid.rows))  # rows for columns
    return wrong


def test_a_wrong_geometry_does_not_pass_the_painted_test(eager):
    silenced(eager)
    image = smooth(192, 96)
    wrong = wrong_geometries(eager.family.picture(image), image)
    assert len(wrong) >= 2
    for grid in wrong:
        assert found_in_place(eager, image, grid) < 0.9


# several expressions, several pictures


def assert_together_as_alone(loaded: LoadedModel, asked=ASKED, *, generic: bool = False) -> None:
    questions = [prepare(loaded, image, queries, generic=generic) for image, queries in asked]
    answers = ask(loaded, questions)
    for number, (image, queries) in enumerate(asked):
        for record, query in zip(answers.of(number), queries, strict=True):
            alone = collect(loaded, image, query, generic=generic)
            assert record.meta == alone.meta
            np.testing.assert_allclose(record.attn, alone.attn, rtol=0, atol=1e-5)
            if generic:
                np.testing.assert_allclose(record.generic, alone.generic, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharing", Sharing)
def test_an_expression_is_read_as_if_it_were_alone(loaded, sharing):
    if sharing not in WAYS[loaded.family.sharing]:
        pytest.skip("the family cannot")
    assert_together_as_alone(shared(loaded, sharing), generic=sharing is loaded.family.sharing)
    assert_together_as_alone(shared(loaded, sharing), [(WIDE, ["a bird"]), (TALL, ["a small dog wearing a collar"])])


@pytest.mark.parametrize("attention", ATTENTION)
def test_an_expression_is_read_as_if_it_were_alone_where_layers_have_a_window(variant, attention):
    assert variant.family.sharing is Sharing.CACHED
    use_attention(variant.model, attention)
    assert_together_as_alone(variant)


def test_a_block_mask_alone_would_be_wrong_where_layers_have_a_window(variant):
    with pytest.raises(AssertionError, match="Mismatched"):
        assert_together_as_alone(shared(variant, Sharing.PACKED))


def test_the_way_of_sharing_is_told_by_the_checkpoint(tmp_path):
    far = load_model(str(write_llava(tmp_path / "far", {**MISTRAL, "sliding_window": 1024})), device="cpu")
    assert far.family.sharing is Sharing.PACKED  # the window holds the longest prompt
    for text in ({"layer_types": ["full_attention", "linear_attention"]}, {"is_causal": False}):
        assert far.family.shares(SimpleNamespace(**text), 1024) is Sharing.ALONE


def test_the_picture_is_read_once(eager, monkeypatch):
    together = [sharing for sharing in WAYS[eager.family.sharing] if sharing is not Sharing.ALONE]
    if not together:
        pytest.skip("the family cannot")
    seen, features = [], body(eager).get_image_features
    monkeypatch.setattr(body(eager), "get_image_features", lambda *a, **k: seen.append(1) or features(*a, **k))
    for sharing in together:
        ask(shared(eager, sharing), [prepare(eager, image, queries) for image, queries in ASKED])
    assert len(seen) == len(together)


def test_a_left_padded_batch_equals_alone(loaded):
    asked = [(WIDE, "a bird"), (TALL, "a small dog wearing a collar")]
    pictures = [loaded.family.picture(image) for image, _ in asked]
    prompts = [loaded.family.prompt(q, p) for p, (_, q) in zip(pictures, asked, strict=True)]
    length = max(len(prompt.ids) for prompt in prompts)
    gaps = [length - len(prompt.ids) for prompt in prompts]
    ids = torch.tensor([[1] * gap + list(prompt.ids) for gap, prompt in zip(gaps, prompts, strict=True)])
    mask = torch.tensor([[0] * gap + [1] * (length - gap) for gap in gaps])
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    columns = [[i + gap * (not p.apart) for i in p.columns] for gap, p in zip(gaps, prompts, strict=True)]
    most = max(map(len, columns))
    wanted = Wanted(
        torch.full((2, 1), length - 1), torch.tensor([row + [row[0]] * (most - len(row)) for row in columns])
    )
    with torch.inference_mode(), kept_rows(loaded.model, wanted) as rows:
        own = {} if any(picture.shift for picture in pictures) else {"position_ids": places}
        loaded.model(**taken(loaded, ids, *pictures), **own, attention_mask=mask, use_cache=False)
    for number, (image, query) in enumerate(asked):
        found = in_all_layers(loaded, torch.stack(rows))[:, number, ..., : pictures[number].tokens]
        np.testing.assert_allclose(found.numpy(), collect(loaded, image, query).attn, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharing", Sharing)
def test_nothing_runs_behind_the_last_attention(loaded, sharing):
    if sharing not in WAYS[loaded.family.sharing]:
        pytest.skip("the family cannot")
    layers = next(module.layers for module in loaded.model.get_decoder().modules() if hasattr(module, "layers"))
    kind = "cross_attn" if loaded.family.picture(WIDE).apart else "self_attn"
    assert attention_modules(loaded.model) == [getattr(layer, kind) for layer in layers if hasattr(layer, kind)]
    seen, last = [], layers[-1]
    for module in (last.mlp if hasattr(last, "mlp") else last.feed_forward, loaded.model.get_output_embeddings()):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    ask(shared(loaded, sharing), [prepare(loaded, image, queries) for image, queries in ASKED])
    assert seen == []
    prompt = loaded.family.prompt("a bird", loaded.family.picture(WIDE))
    with torch.inference_mode():
        loaded.model(**taken(loaded, torch.tensor([prompt.ids]), loaded.family.picture(WIDE)))
    assert len(seen) == 2  # and the model is as it was


def test_an_answer_is_that_of_the_model_alone(loaded):
    config = ModelConfig(use_generate=True, max_new_tokens=6)
    for beams in (1, 2) if loaded.family.beams else (1,):
        record = collect(loaded, WIDE, "a bird", replace(config, num_beams=beams), generic=True)
        picture = loaded.family.picture(WIDE)
        prompt = loaded.family.prompt("a bird", picture)
        with torch.inference_mode():
            given = taken(loaded, torch.tensor([prompt.ids]), picture)
            ids = loaded.model.generate(**given, max_new_tokens=6, num_beams=beams, do_sample=False)
        text = loaded.tokenizer.decode(ids[0, len(prompt.ids) :], skip_special_tokens=True).strip()
        assert record.meta["generated_text"] == text
        np.testing.assert_allclose(record.attn, collect(loaded, WIDE, "a bird").attn, rtol=0, atol=1e-6)


def test_an_answer_behind_layers_with_a_window(variant):
    record = collect(variant, WIDE, "a bird", ModelConfig(use_generate=True, max_new_tokens=3))
    np.testing.assert_allclose(record.attn, collect(variant, WIDE, "a bird").attn, rtol=0, atol=1e-6)


# records and processes


def test_a_record_survives_its_file(eager, tmp_path):
    for image in (WIDE, TALL):
        record = collect(eager, image, "a bird", generic=True)
        save_record(tmp_path / "a.pkl", record)
        again = load_record(tmp_path / "a.pkl")
        assert (again.meta, again.grids, again.dtype) == (record.meta, eager.family.picture(image).grids, "float32")
        assert np.array_equal(again.attn, record.attn)
        assert np.array_equal(again.generic, record.generic)
        assert record.meta["vis_len"] == record.attn.shape[-1]
        first = record.grids[0]
        assert ("patch_size" in record.meta) == (len(record.grids) == 1 and first.rows == first.cols)


def test_other_processes_get_the_family_without_its_weights(eager, tmp_path):
    WIDE.save(tmp_path / "a.png")
    sent = pickle.dumps(eager.without_weights())
    assert b"_rebuild_tensor" not in sent
    assert b"_rebuild_parameter" not in sent
    config = ModelConfig()
    rows = plan_rows([Sample(q, q, tmp_path / "a.png") for q in QUERIES], share_image=True)
    there = next(iter(feed(RowDataset(rows, pickle.loads(sent), config, generic=True), workers=1, pin=False))).question
    here = prepare(eager, WIDE, QUERIES, generic=True)
    assert there.prompts == here.prompts
    assert (there.picture.tokens, there.picture.grids) == (here.picture.tokens, here.picture.grids)
    for key, values in here.picture.inputs.items():
        assert torch.equal(values, there.picture.inputs[key])


def test_the_prefix_is_shared_by_rows_that_have_the_same(eager):
    """One range of columns and the longest causal prefix, whatever the expressions."""
    questions = [prepare(eager, WIDE, [query, "a cat"]) for query in QUERIES]
    if questions[0].picture.apart:
        pytest.skip("the prompt holds no picture")
    packed = pack([question.prompts for question in questions])
    image = questions[0].prompts[0].stations["image"]
    assert isinstance(packed.columns, slice) == (len(image) == 1)
    assert packed.prefix == packed.start == image[-1][1]


# loading


def test_what_was_found_is_told(folder, eager, capsys):
    main([str(folder), "--device", "cpu"])
    told = capsys.readouterr().out
    picture = eager.family.picture(Image.new("RGB", (640, 480), "white"))
    assert all(text in told for text in (*eager.geometry.describe().values(), "3 layers x 4 heads"))
    where = "none of them in the prompt" if picture.apart else "from place"
    assert all(text in told for text in (*grids(picture.grids), f"image tokens    {picture.tokens}, {where}"))
    assert "[query: the cup]" in told


@pytest.mark.parametrize("image", [WIDE, TALL], ids=["wide", "tall"])
def test_what_layers_are_told_to_see_is_what_they_see(eager, image):
    assert_seen_as_told(eager, image)


def test_what_layers_with_a_window_are_told_to_see_is_what_they_see(variant, caplog):
    for _ in range(2):
        assert_seen_as_told(replace(variant, name=f"{variant.name} again"), WIDE)
    said = [line for line in caplog.messages if "of the picture from the end of the prompt" in line]
    assert len(said) == 1
    assert f"see the last {SHORT} tokens only" in said[0]


def assert_seen_as_told(loaded: LoadedModel, image: Image.Image) -> None:
    seen = seen_tokens(loaded.text_config, loaded.family.prompt("a bird", loaded.family.picture(image)))
    found = (collect(loaded, image, "a bird").attn > 0).sum(-1)[..., 0]
    for layer, kind in enumerate(kinds(loaded.text_config)):
        assert (found[layer] == seen[kind]).all()


def test_a_picture_that_leaves_no_room_for_words(eager):
    prompt = eager.family.prompt("a bird", eager.family.picture(WIDE))
    small = replace(eager, family=replace(eager.family, context=len(prompt.ids) - 1))
    with pytest.raises(UserError, match=r"tokens, [0-9]+ of them for the image, but the model reads"):
        collect(small, WIDE, "a bird")


def test_llava_alone_is_asked_for(tmp_path):
    folder = write_llava_next(tmp_path / "next")
    with pytest.raises(UserError, match="'llava_next'; use load_model"):
        load_llava(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"image_aspect_ratio": "pad"}, "whole and in tiles"), ({"base": "owner/base"}, "is a whole model")],
)
def test_options_of_llava_are_refused_for_tiles(tmp_path, options, reason):
    with pytest.raises(UserError, match=reason):
        load_model(str(write_llava_next(tmp_path / "next")), device="cpu", **options)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"image_grid_pinpoints": [[56, 112]]}, "of the model and of its image processor differ"),
        ({"vision_feature_select_strategy": "full"}, "a class token fits into no tile"),
        ({"vision_feature_layer": -9}, "features of layer -9"),
    ],
)
def test_tiles_that_cannot_be(tmp_path, config, reason):
    with pytest.raises(UserError, match=reason):
        load_model(str(write_llava_next(tmp_path / "next", **config)), device="cpu")
