"""What is kept of a forward, against `output_attentions=True` and `generate`."""

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

from collector import GENERIC_QUERY, collect, last_rows, model_inputs
from conf.schema import ModelConfig
from lab.errors import UserError
from lab.records import load_record, save_record
from lab.stations import positions
from llava.mm_utils import build_prompt
from llava.model.builder import load_llava
from tests import tiny_llava

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
    return prompt, model_inputs(loaded, IMAGE, prompt)


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


def test_last_rows_of_a_left_padded_batch(single):
    (short, inputs), (long, others) = build(single), build(single, "a small dog wearing a collar")
    gap = len(long.ids) - len(short.ids)
    pad = single.tokenizer.pad_token_id
    batch = {
        "input_ids": torch.cat([torch.nn.functional.pad(inputs["input_ids"], (gap, 0), value=pad), others["input_ids"]]),
        "attention_mask": torch.cat([torch.nn.functional.pad(inputs["attention_mask"], (gap, 0)), others["attention_mask"]]),
        "pixel_values": torch.cat([inputs["pixel_values"], others["pixel_values"]]),
    }
    with torch.inference_mode(), last_rows(single.model) as rows:
        single.model(**batch, use_cache=False)
    assert torch.equal(torch.stack(rows), full_maps(single, batch)[:, :, :, -1:])
    alone = full_maps(single, inputs)[:, 0, :, -1:]
    torch.testing.assert_close(torch.stack(rows)[:, 0, :, :, gap:], alone, rtol=0, atol=1e-5)
    assert torch.stack(rows)[:, 0, :, :, :gap].abs().max() == 0


def test_no_full_map_is_kept(single):
    _, inputs = build(single)
    with torch.inference_mode(), last_rows(single.model) as rows:
        single.model(**inputs)
    assert [row.untyped_storage().nbytes() for row in rows] == [4 * inputs["input_ids"].shape[1] * 4] * 3  # heads x keys x bytes


def test_model_is_left_as_it_was_even_after_an_error(single):
    _, inputs = build(single)

    def hooks() -> list[int]:
        return [len(layer.self_attn._forward_hooks) for layer in single.model.model.language_model.layers]

    before = hooks()
    with contextlib.suppress(ZeroDivisionError), last_rows(single.model) as rows:
        during = hooks()
        raise ZeroDivisionError
    assert during == [count + 1 for count in before]
    assert hooks() == before
    with torch.inference_mode():
        single.model(**inputs)
    assert rows == []


def test_output_layer_sees_only_the_last_token(single):
    seen = []
    hook = single.model.lm_head.register_forward_hook(lambda _module, args, _output: seen.append(args[0].shape[1]))
    collect(single, IMAGE, "a bird")
    hook.remove()
    assert seen == [1]


@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": True, "temperature": 1.5}, {"do_sample": True, "top_p": 0.5}, {"num_beams": 3}],
    ids=lambda o: "-".join(o) or "greedy",
)
def test_generated_text_and_the_attention_of_its_first_step(single, options):
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
        "image_file": "x/bird.png", "query": "a bird", "model_name": single.name, "image_size": [61, 30], "vis_len": 16, "patch_size": 4,
        "num_layers": 3, "num_heads": 4, "generated_text": None, "dtype": "float32", "attn_implementation": "eager",
        "conv_mode": "vicuna_v1", "grids": [{"start": 0, "rows": 4, "cols": 4, "extent_xyxy": [0.0, -15.0, 61.0, 46.0]}], "schema": 1,
    }  # fmt: skip
    assert {key: meta[key] for key in expected} == expected
    assert positions(meta["stations"], "image") == [i for i, t in enumerate(build(single, conv_mode="vicuna_v1")[0].ids) if t == 420]
    assert set(meta["versions"]) == {"python", "torch", "transformers"}


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
    np.testing.assert_array_equal(record.generic, collect(single, IMAGE, GENERIC_QUERY, ModelConfig(conv_mode="vicuna_v1")).attn)
    assert collect(single, IMAGE, "a bird", config).generic is None
