"""What is kept of a forward, against `output_attentions=True` and `generate`."""

import contextlib

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from PIL import Image

from collector import GENERIC_QUERY, ask, collect, prepare
from conf.schema import ModelConfig
from lab.attention.capture import Wanted, kept_rows, use_attention
from lab.base.errors import UserError
from lab.records.files import load_record, save_record
from lab.stations import positions
from llava.model.builder import load_llava
from llava.prompt import build_prompt
from tests.llava import tiny_llava

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 61, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_llava.write_transformers(tmp_path_factory.mktemp("model") / "tiny", tiny_llava.make_tensors()))


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def loaded(folder, request):
    return load_llava(folder, device="cpu", dtype=request.param)


@pytest.fixture(scope="module")
def single(folder):
    return load_llava(folder, device="cpu")


def build(loaded, query="a bird", conv_mode="referseg"):
    prompt = build_prompt(query, conv_mode, loaded.tokenizer, loaded.image_tokens, context=loaded.context)
    return prompt, tiny_llava.model_inputs(loaded, IMAGE, prompt)


def full_maps(loaded, inputs) -> torch.Tensor:
    """[layers, batch, heads, queries, keys]"""
    with torch.inference_mode():
        return torch.stack(loaded.model(**inputs, output_attentions=True, use_cache=False).attentions)


@pytest.mark.parametrize("conv_mode", ["referseg", "vicuna_v1"])
def test_record_is_bit_by_bit_what_output_attentions_gives(loaded, conv_mode):
    prompt, inputs = build(loaded, conv_mode=conv_mode)
    expected = full_maps(loaded, inputs)[:, 0, :, -1:, positions(prompt.stations, "image")]
    record = collect(loaded, IMAGE, "a bird", ModelConfig(conv_mode=conv_mode))
    assert record.tensor().dtype == loaded.dtype
    assert torch.equal(record.tensor(), expected)
    assert record.attn.shape == (3, 4, 1, 16)
    assert record.attn.max() > 1.5 * np.median(record.attn)


def left_padded(loaded) -> tuple[int, dict[str, torch.Tensor]]:
    """A short prompt with so many padding tokens in front, and a long one, in one batch."""
    (short, inputs), (long, others) = build(loaded), build(loaded, "a small dog wearing a collar")
    gap = len(long.ids) - len(short.ids)
    pad = loaded.tokenizer.pad_token_id
    mask = torch.cat([torch.nn.functional.pad(inputs["attention_mask"], (gap, 0)), others["attention_mask"]])
    return gap, {
        "input_ids": torch.cat(
            [torch.nn.functional.pad(inputs["input_ids"], (gap, 0), value=pad), others["input_ids"]]
        ),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        "pixel_values": torch.cat([inputs["pixel_values"], others["pixel_values"]]),
    }


@pytest.mark.parametrize("attention", ["eager", "fused"])
def test_last_rows_of_a_left_padded_batch(folder, attention):
    loaded = load_llava(folder, device="cpu")
    gap, batch = left_padded(loaded)
    expected = full_maps(loaded, batch)[:, :, :, -1:]
    alone = full_maps(loaded, build(loaded)[1])[:, 0, :, -1:]
    use_attention(loaded.model, attention)
    with torch.inference_mode(), kept_rows(loaded.model) as rows:
        loaded.model(**batch, use_cache=False)
    rows = torch.stack(rows)
    torch.testing.assert_close(rows, expected, rtol=0, atol=0 if attention == "eager" else 1e-5)
    torch.testing.assert_close(
        rows[:, 0, :, :, gap:], alone, rtol=0, atol=1e-5
    )  # other positions in the batch, so other rounding
    assert rows[:, 0, :, :, :gap].max() == 0


@pytest.mark.parametrize("attention", ["eager", "fused"])
def test_chosen_queries_and_columns_are_kept(folder, attention):
    loaded = load_llava(folder, device="cpu")
    _, inputs = build(loaded)
    expected = full_maps(loaded, inputs)[:, :, :, [3, 20, 7], 2:9]
    use_attention(loaded.model, attention)
    with torch.inference_mode(), kept_rows(loaded.model, Wanted(torch.tensor([[3, 20, 7]]), slice(2, 9))) as rows:
        loaded.model(**inputs, use_cache=False)
    torch.testing.assert_close(torch.stack(rows), expected, rtol=0, atol=1e-6)


def test_no_full_map_is_kept(single):
    _, inputs = build(single)
    with torch.inference_mode(), kept_rows(single.model) as rows:
        single.model(**inputs)
    assert [row.untyped_storage().nbytes() for row in rows] == [
        4 * inputs["input_ids"].shape[1] * 4
    ] * 3  # heads x keys x bytes


def reference_rows(folder, query="a bird") -> torch.Tensor:
    """The record of a query in double precision, [layers, heads, 1, image tokens]."""
    loaded = load_llava(folder, device="cpu")
    loaded.model.double()
    prompt, inputs = build(loaded, query)
    inputs["pixel_values"] = inputs["pixel_values"].double()
    with torch.inference_mode():
        maps = torch.stack(loaded.model(**inputs, output_attentions=True, use_cache=False).attentions)
    return maps[:, 0, :, -1:, positions(prompt.stations, "image")]


def test_fused_attention_gives_the_same_record(folder):
    loaded = load_llava(folder, device="cpu")
    eager = collect(loaded, IMAGE, "a small dog")
    use_attention(loaded.model, "fused")
    fused = collect(loaded, IMAGE, "a small dog")
    assert fused.meta["attn_implementation"] == "fused"
    np.testing.assert_allclose(fused.attn, eager.attn, rtol=0, atol=1e-6)


def test_in_16_bits_fused_attention_is_closer_to_the_truth_than_eager(folder):
    queries = ("a bird", "a red ball", "a small dog wearing a collar", "the cup")
    truth = np.stack([reference_rows(folder, query).numpy() for query in queries])
    errors = {}
    for attention in ("eager", "fused"):
        loaded = load_llava(folder, device="cpu", dtype="bfloat16")
        use_attention(loaded.model, attention)
        records = [collect(loaded, IMAGE, query) for query in queries]
        assert {record.dtype for record in records} == {"bfloat16" if attention == "eager" else "float32"}
        errors[attention] = np.abs(np.stack([record.attn for record in records]) - truth).mean()
    assert errors["fused"] < errors["eager"]


@pytest.mark.parametrize("attention", ["eager", "fused"])
def test_a_model_spread_over_devices_gives_the_same_record(folder, tmp_path, attention):
    """The last layers wait on the disk, so that accelerate's hooks move weights and inputs as they do between GPUs."""
    whole, spread = load_llava(folder, device="cpu"), load_llava(folder, device="cpu")
    parts = dict.fromkeys(
        ("model.vision_tower", "model.multi_modal_projector", "model.language_model.embed_tokens"), "cpu"
    )
    parts |= {
        "model.language_model.layers.0": "cpu",
        "model.language_model.layers.1": "disk",
        "model.language_model.layers.2": "disk",
    }
    parts |= dict.fromkeys(("model.language_model.norm", "model.language_model.rotary_emb", "lm_head"), "cpu")
    dispatch_model(spread.model, parts, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    for loaded in (whole, spread):
        use_attention(loaded.model, attention)
    queries = ["a bird", "a small dog wearing a collar"]
    expected, found = (ask(loaded, [prepare(loaded, IMAGE, queries)]).of(0) for loaded in (whole, spread))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.attn, other.attn)


# several questions at once

OTHER = IMAGE.rotate(180).resize((40, 40))
ASKED = [
    (IMAGE, ["a bird", "a small dog wearing a collar", "the red ball on the left"]),
    (OTHER, ["a cat"]),
    (OTHER, ["the bird", "a cup beside the house"]),
]


@pytest.mark.parametrize("attention", ["eager", "fused"])
@pytest.mark.parametrize("conv_mode", ["referseg", "vicuna_v1"])
@pytest.mark.parametrize("generic", [False, True])
def test_a_record_does_not_depend_on_what_is_asked_beside_it(folder, attention, conv_mode, generic):
    loaded = load_llava(folder, device="cpu")
    use_attention(loaded.model, attention)
    config = ModelConfig(conv_mode=conv_mode)
    questions = [
        prepare(loaded, image, queries, config, image_file="x.png", generic=generic) for image, queries in ASKED
    ]
    answers = ask(loaded, questions, config)
    records = [record for number in range(3) for record in answers.of(number)]
    alone = [
        collect(loaded, image, query, config, image_file="x.png", generic=generic)
        for image, queries in ASKED
        for query in queries
    ]
    assert [record.meta for record in records] == [record.meta for record in alone]
    for together, single in zip(records, alone, strict=True):
        np.testing.assert_allclose(together.attn, single.attn, rtol=0, atol=1e-6)
        assert (together.generic is None) == (not generic)
        if generic:
            np.testing.assert_allclose(together.generic, single.generic, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attention", ["eager", "fused"])
def test_the_tail_of_a_batch_of_single_prompts_is_not_seen(folder, attention):
    loaded = load_llava(folder, device="cpu")
    use_attention(loaded.model, attention)
    questions = [prepare(loaded, IMAGE, [query]) for query in ("a bird", "a small dog wearing a collar")]
    first = ask(loaded, questions).of(0)[0]
    np.testing.assert_allclose(first.attn, collect(loaded, IMAGE, "a bird").attn, rtol=0, atol=1e-6)


def test_the_vision_tower_reads_each_image_once(single):
    seen = []
    hook = single.model.model.vision_tower.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append(len(kwargs.get("pixel_values", *args[:1]))), with_kwargs=True
    )
    ask(single, [prepare(single, image, queries) for image, queries in ASKED])
    hook.remove()
    assert seen == [3]


def test_the_generic_row_is_that_of_the_generic_query(single):
    record = collect(single, IMAGE, "a bird", generic=True)
    assert np.array_equal(record.generic, collect(single, IMAGE, GENERIC_QUERY).attn)
    assert np.array_equal(record.attn, collect(single, IMAGE, "a bird").attn)


def test_model_is_left_as_it_was_even_after_an_error(single):
    _, inputs = build(single)

    def hooks() -> list[int]:
        return [len(layer.self_attn._forward_hooks) for layer in single.model.model.language_model.layers]

    before = hooks()
    with contextlib.suppress(ZeroDivisionError), kept_rows(single.model) as rows:
        during = hooks()
        raise ZeroDivisionError
    assert during == [count + 1 for count in before]
    assert hooks() == before
    with torch.inference_mode():
        single.model(**inputs)
    assert rows == []


@pytest.mark.parametrize("attention", ["eager", "fused"])
def test_nothing_runs_behind_the_last_attention(folder, attention):
    loaded = load_llava(folder, device="cpu")
    use_attention(loaded.model, attention)
    layers = loaded.model.model.language_model.layers
    seen = []
    for module in (layers[1].mlp, layers[2].mlp, loaded.model.lm_head):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    collect(loaded, IMAGE, "a bird")
    assert seen == [layers[1].mlp]
    loaded.model(**build(loaded)[1])  # and the model is as it was
    assert seen[1:] == [layers[1].mlp, layers[2].mlp, loaded.model.lm_head]


@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": True, "temperature": 1.5}, {"do_sample": True, "top_p": 0.5}, {"num_beams": 3}],
    ids=lambda o: "-".join(o) or "greedy",
)
@pytest.mark.parametrize("attention", ["eager", "fused"])
def test_generated_text_and_the_attention_of_its_first_step(folder, options, attention):
    single = load_llava(folder, device="cpu")
    use_attention(single.model, attention)
    prompt, inputs = build(single)
    config = ModelConfig(use_generate=True, max_new_tokens=6, **options)
    torch.manual_seed(3)
    record = collect(single, IMAGE, "a bird", config)
    torch.manual_seed(3)
    sampling = {"temperature": 0.2, **options} if "do_sample" in options else {"do_sample": False, **options}
    ids = single.model.generate(**inputs, max_new_tokens=6, **sampling)[0, len(prompt.ids) :]
    assert record.meta["generated_text"] == single.tokenizer.decode(ids, skip_special_tokens=True).strip() != ""
    torch.testing.assert_close(record.tensor(), collect(single, IMAGE, "a bird").tensor(), rtol=0, atol=1e-6)


def test_meta_and_the_way_to_disk_and_back(single, tmp_path):
    record = collect(single, IMAGE, "a bird", ModelConfig(conv_mode="vicuna_v1"), image_file="x/bird.png")
    save_record(tmp_path / "r.pkl", record)
    meta = load_record(tmp_path / "r.pkl").meta
    assert meta == record.meta
    expected = {
        "image_file": "x/bird.png", "query": "a bird", "model_name": single.name, "image_size": [61, 30],
        "vis_len": 16, "patch_size": 4,
        "num_layers": 3, "num_heads": 4, "generated_text": None, "dtype": "float32", "attn_implementation": "eager",
        "conv_mode": "vicuna_v1",
        "grids": [{"start": 0, "rows": 4, "cols": 4, "extent_xyxy": [0.0, -15.0, 61.0, 46.0]}], "schema": 1,
    }  # fmt: skip
    assert {key: meta[key] for key in expected} == expected
    assert positions(meta["stations"], "image") == [
        i for i, t in enumerate(build(single, conv_mode="vicuna_v1")[0].ids) if t == 420
    ]
    assert set(meta["versions"]) == {"localization_heads", "python", "torch", "transformers"}


def test_different_queries_and_images_give_different_records(single):
    first = collect(single, IMAGE, "a bird").attn
    assert not np.allclose(first, collect(single, IMAGE, "a red ball").attn)
    assert not np.allclose(first, collect(single, IMAGE.rotate(180), "a bird").attn)


@pytest.mark.parametrize(
    ("config", "query", "reason"),
    [
        ({"use_flash_attn": True}, "a bird", "flash attention never forms the weights"),
        ({"conv_mode": "vicuna"}, "a bird", "No prompt template 'vicuna'"),
        ({}, "", "query is empty"),
        ({}, "bird " * 200, "shorten the query"),
        ({"use_generate": True, "max_new_tokens": 200}, "a bird", "max_new_tokens=200 exceed the 256"),
    ],
)
def test_wrong_requests_are_refused(single, config, query, reason):
    with pytest.raises(UserError, match=reason):
        collect(single, IMAGE, query, ModelConfig(**config))


def test_other_attention_is_refused(folder):
    other = load_llava(folder, device="cpu")
    other.model.set_attn_implementation({"text_config": "sdpa"})
    with pytest.raises(UserError, match="sdpa attention, which gives no weights"):
        collect(other, IMAGE, "a bird")


@pytest.mark.parametrize("use_generate", [False, True])
def test_the_generic_prompts_attention_is_what_asking_it_gives(single, use_generate):
    config = ModelConfig(conv_mode="vicuna_v1", use_generate=use_generate, max_new_tokens=2)
    record = collect(single, IMAGE, "a bird", config, generic=True)
    np.testing.assert_array_equal(record.attn, collect(single, IMAGE, "a bird", config).attn)
    np.testing.assert_array_equal(
        record.generic, collect(single, IMAGE, GENERIC_QUERY, ModelConfig(conv_mode="vicuna_v1")).attn
    )
    assert collect(single, IMAGE, "a bird", config).generic is None
