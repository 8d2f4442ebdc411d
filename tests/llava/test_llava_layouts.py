"""Every layout of a checkpoint against the original's forward, run from the same tensors by `tiny_llava`."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from collector import collect
from conf.schema import ModelConfig
from lab.attention.capture import TOWER, use_attention
from lab.base.errors import UserError
from llava.conversation import CONVERSATIONS
from llava.model.builder import LoadedModel, load_from_config, load_llava, main
from llava.prompt import build_prompt
from tests.llava import tiny_llava
from tests.llava.tiny_llava import (
    VOCAB,
    make_tensors,
    original_forward,
    original_ids,
    original_pixels,
    write_original,
    write_projector,
    write_transformers,
)

QUERY = "a zebra on the grass."
IMAGES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 255, (height, width, 3), dtype=np.uint8))
    for i, (width, height) in enumerate([(40, 40), (61, 30), (30, 60)])
]


def load(folder, **options) -> LoadedModel:
    return load_llava(str(folder), device="cpu", **options)


def ask(loaded: LoadedModel, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of every token [tokens, vocabulary] and the record's attention."""
    prompt = build_prompt(QUERY, "referseg", loaded.tokenizer, loaded.image_tokens, context=loaded.context)
    with torch.inference_mode():
        logits = loaded.model(**tiny_llava.model_inputs(loaded, image, prompt)).logits[0]
    return logits, collect(loaded, image, QUERY).tensor()


def expect(
    tensors, image: Image.Image, *, pad: bool = True, marks: tuple[str, str] = ("", ""), **options
) -> tuple[torch.Tensor, torch.Tensor]:
    before, after = original_ids(CONVERSATIONS["referseg"].system + "\n", "\n" + QUERY, drop_spaces=True)
    if marks[0]:
        before, after = [*before, VOCAB + 1], [VOCAB + 2, *after]
    return original_forward(tensors, before, after, original_pixels(image, pad=pad), **options)


def assert_same(loaded: LoadedModel, tensors, **options) -> None:
    for image in IMAGES:
        for found, expected in zip(ask(loaded, image), expect(tensors, image, **options), strict=True):
            assert found.dtype == torch.float32
            columns = min(VOCAB, expected.shape[-1])  # logits of unused rows differ
            torch.testing.assert_close(found[..., :columns], expected[..., :columns], rtol=1e-5, atol=1e-5)


def test_attention_of_the_reference_is_not_uniform(tensors):
    """Otherwise the comparisons below would show nothing."""
    first, second = (expect(tensors, image)[1] for image in IMAGES[:2])
    assert (first.amax(-1) / first.mean(-1)).median() > 1.5
    assert (first - second).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tower_inside", [False, True])
def test_original_layout(tmp_path, tensors, tower, kind, shards, tower_inside):
    loaded = load(write_original(tmp_path / "m", tensors, tower, kind=kind, shards=shards, tower_inside=tower_inside))
    assert loaded.layout == "original"
    assert_same(loaded, tensors)


@pytest.mark.parametrize(("kind", "shards"), [("safetensors", 1), ("safetensors", 2), ("bin", 1)])
def test_transformers_layout(tmp_path, tensors, kind, shards):
    loaded = load(write_transformers(tmp_path / "m", tensors, kind=kind, shards=shards))
    assert loaded.layout == "transformers"
    assert_same(loaded, tensors)


def test_a_tower_inside_wins_over_the_one_outside(tmp_path, tensors, tower):
    tuned = {name: value * 1.2 if name.startswith(tiny_llava.TOWER) else value for name, value in tensors.items()}
    assert_same(load(write_original(tmp_path / "m", tuned, tower, tower_inside=True)), tuned)


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_vision_layer(tmp_path, tensors, tower, layer):
    assert_same(
        load(write_original(tmp_path / "m", tensors, tower, mm_vision_select_layer=layer)), tensors, layer=layer
    )


@pytest.mark.parametrize(("layer", "left"), [(-1, 3), (-2, 2), (1, 1), (-4, 1), (0, 1), ([1, 0], 1), ([-1, 0], 3)])
def test_layers_of_the_tower_that_nothing_is_taken_from_are_dropped(tmp_path, tensors, layer, left):
    if isinstance(layer, list):  # their features stand side by side
        name = "model.mm_projector.0.weight"
        tensors = {**tensors, name: tensors[name].repeat(1, len(layer))}
    folder = write_transformers(tmp_path / "m", tensors, vision_feature_layer=layer)
    whole = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float16, attn_implementation="eager")
    model = load(folder, dtype="float16").model
    assert len(model.model.vision_tower.encoder.layers) == model.config.vision_config.num_hidden_layers == left
    pixels = torch.rand(1, 3, tiny_llava.SIDE, tiny_llava.SIDE).half()
    expected, found = (features(m.eval(), pixels) for m in (whole, model))
    assert torch.equal(found, expected)


def features(model, pixels):
    return model.model.get_image_features(pixels, output_hidden_states=True, return_dict=True).pooler_output[0]


def test_a_projector_with_norms_as_yi_vl_has_it(tmp_path, tower):
    tensors = make_tensors(projector="mlp2x_gelu_Norm")
    assert_same(load(write_original(tmp_path / "m", tensors, tower, mm_projector_type="mlp2x_gelu_Norm")), tensors)
    base, kind = tiny_llava.write_base(tmp_path / "base", tensors), {"mm_projector_type": "mlp2x_gelu_Norm"}
    assert_same(load(write_projector(tmp_path / "p", tensors, tower, **kind), base=str(base)), tensors)


def test_class_token_kept(tmp_path, tensors, tower):
    loaded = load(write_original(tmp_path / "m", tensors, tower, mm_vision_select_feature="cls_patch"))
    assert (loaded.geometry.tokens, loaded.geometry.start) == (17, 1)
    assert_same(loaded, tensors, keep_class=True)


@pytest.mark.parametrize("model_type", ["llava_llama", "share4v", "llava_mistral"])
def test_other_names_of_the_original_layout(tmp_path, tensors, tower, model_type):
    assert_same(load(write_original(tmp_path / "m", tensors, tower, model_type=model_type)), tensors)


def test_first_generation_checkpoint(tmp_path, tower):
    """LLaVA v1.1 as published: linear projector, image marks, keys that did not exist yet, wrong special ids."""
    tensors = tiny_llava.with_rows(make_tensors("linear"), VOCAB + 3)
    absent = dict.fromkeys(
        [
            "mm_projector_type",
            "image_aspect_ratio",
            "mm_use_im_patch_token",
            "mm_vision_select_feature",
            "rope_scaling",
            "max_length",
        ]
    )
    folder = write_original(
        tmp_path / "m", tensors, tower, vocab_size=VOCAB + 3, mm_use_im_start_end=True, bos_token_id=0,
        eos_token_id=1, pad_token_id=-1,
        max_sequence_length=200, **absent,
    )  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    tiny_llava.write_json(folder / "config.json", {key: value for key, value in config.items() if value is not None})
    tiny_llava.write_json(
        folder / "added_tokens.json", {"<im_end>": VOCAB + 2, "<im_patch>": VOCAB, "<im_start>": VOCAB + 1}
    )
    loaded = load(folder)
    assert loaded.context == 200
    assert loaded.model.generation_config.eos_token_id == 2
    assert any("mm_projector_type" in note for note in loaded.notes)
    assert_same(loaded, tensors, pad=False, marks=("<im_start>", "<im_end>"))


@pytest.mark.parametrize(("ratio", "pad"), [("pad", True), (None, False), ("square", False)])
def test_aspect_ratio_of_the_original_layout(tmp_path, tensors, tower, ratio, pad):
    folder = write_original(tmp_path / "m", tensors, tower, image_aspect_ratio=ratio)
    assert_same(load(folder), tensors, pad=pad)
    assert load(folder, image_aspect_ratio="crop" if pad else "pad").geometry.pad is not pad


def test_transformers_layout_pads_unless_told_to_crop(tmp_path, tensors):
    folder = write_transformers(tmp_path / "m", tensors)
    assert_same(load(folder, image_aspect_ratio="crop"), tensors, pad=False)


def test_embedding_larger_than_the_tokenizer(tmp_path, tensors, tower):
    assert_same(
        load(write_original(tmp_path / "m", tiny_llava.with_rows(tensors, 448), tower, vocab_size=448)), tensors
    )


def test_tokenizer_larger_than_the_embedding(tmp_path, tensors, tower):
    loaded = load(write_original(tmp_path / "m", tensors, tower, mm_use_im_patch_token=True))
    assert any("421 tokens and the embedding 420 rows" in note for note in loaded.notes)
    assert_same(loaded, tensors)


def test_numbers_of_the_config_reach_the_model(tmp_path, tensors, tower):
    config = {"rms_norm_eps": 1e-3, "rope_scaling": {"type": "linear", "factor": 2.0}, "max_position_embeddings": 512}
    text = load(write_original(tmp_path / "m", tensors, tower, **config)).model.config.text_config
    assert text.rms_norm_eps == 1e-3
    assert text.max_position_embeddings == 512
    assert (text.rope_parameters["rope_type"], text.rope_parameters["factor"], text.rope_parameters["rope_theta"]) == (
        "linear",
        2.0,
        5000.0,
    )


def test_tower_in_a_folder_of_the_checkpoint(tmp_path, tensors, tower):
    folder = write_original(tmp_path / "m", tensors, "towers/clip")
    shutil.copytree(tower, folder / "towers" / "clip")
    assert_same(load(folder), tensors)


def test_original_layout_with_only_tokenizer_json(tmp_path, tensors, tower):
    folder = write_original(tmp_path / "m", tiny_llava.with_rows(tensors, 448), tower, vocab_size=448)
    tiny_llava.write_tokenizer_json(folder)
    assert_same(load(folder), tensors)


def test_special_tokens_of_the_first_vicuna(tmp_path, tensors, tower):
    """Its files call </s> the unknown token and the beginning as well."""
    folder = write_original(tmp_path / "m", tensors, tower)
    special = dict.fromkeys(["bos_token", "eos_token", "unk_token"], "</s>")
    tiny_llava.write_sentencepiece(folder, **special)
    tiny_llava.write_json(folder / "special_tokens_map.json", special)
    loaded = load(folder)
    prompt = build_prompt(QUERY, "referseg", loaded.tokenizer, loaded.image_tokens, context=loaded.context)
    assert prompt.ids[0] == 2
    assert loaded.image_tokens.token_id == 0


# on a base


def test_projector_on_a_base(tmp_path, tensors, tower):
    base = tiny_llava.write_base(tmp_path / "base", tensors)
    loaded = load(write_projector(tmp_path / "p", tensors, tower), base=str(base))
    assert loaded.layout == "original, projector on a base"
    assert_same(loaded, tensors)


@pytest.mark.parametrize(("below", "above"), [("mlp2x_gelu", "linear"), ("linear", "mlp2x_gelu")])
def test_projector_replaces_that_of_a_whole_llava(tmp_path, tower, below, above):
    base = write_original(tmp_path / "base", make_tensors(below), tower, mm_projector_type=below)
    other = make_tensors(above, seed=3)
    expected = {name: (other if "mm_projector" in name else make_tensors(below)).get(name) for name in other}
    assert_same(load(write_projector(tmp_path / "p", other, tower, mm_projector_type=above), base=str(base)), expected)


def test_tuned_tower_beside_the_projector(tmp_path, tensors, tower):
    tuned = {name: value * 1.2 if name.startswith(tiny_llava.TOWER) else value for name, value in tensors.items()}
    base, folder = tiny_llava.write_base(tmp_path / "base", tensors), write_projector(tmp_path / "p", tensors, tower)
    torch.save(
        {k: v for k, v in tuned.items() if "mm_projector" in k or k.startswith(tiny_llava.TOWER)},
        folder / "mm_projector.bin",
    )
    assert_same(load(folder, base=str(base)), tuned)


@pytest.mark.parametrize("whole", [True, False])
def test_projector_that_brings_rows_for_the_image_marks(tmp_path, tensors, tower, whole):
    full = tiny_llava.with_rows(tensors, VOCAB + 3)
    base = tiny_llava.write_base(tmp_path / "base", tensors)
    folder = write_projector(tmp_path / "p", tensors, tower, mm_use_im_start_end=True, mm_use_im_patch_token=True)
    rows = full["model.embed_tokens.weight"]
    saved = {name: value for name, value in tensors.items() if "mm_projector" in name}
    torch.save({**saved, "model.embed_tokens.weight": rows if whole else rows[-2:]}, folder / "mm_projector.bin")
    assert_same(load(folder, base=str(base)), full, marks=("<im_start>", "<im_end>"))


@pytest.mark.parametrize("on_llava", [True, False])
def test_lora_is_merged_into_its_base(tmp_path, tensors, tower, on_llava):
    pytest.importorskip("peft")
    folder, merged = tiny_llava.write_lora(tmp_path / "lora", tensors, tower)
    base = (
        write_original(tmp_path / "base", tensors, tower)
        if on_llava
        else tiny_llava.write_base(tmp_path / "base", tensors)
    )
    loaded = load(folder, base=str(base))
    assert loaded.layout == "original, LoRA on a base"
    assert_same(loaded, merged)


# what comes with the weights


def test_dtype_and_attention(tmp_path, tensors, tower):
    folder = write_original(tmp_path / "m", tensors, tower)
    assert load(folder).dtype == torch.float32
    half = load(folder, dtype="bfloat16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert half.model.config.text_config._attn_implementation == "eager"
    record = collect(half, IMAGES[0], QUERY)
    assert record.dtype == record.meta["dtype"] == "bfloat16"
    assert (record.tensor().float() - expect(tensors, IMAGES[0])[1]).abs().max() < 0.05
    use_attention(half.model, "fused")
    assert half.model.config.vision_config._attn_implementation == TOWER  # see lab.attention.blocks
    assert (collect(half, IMAGES[0], QUERY).tensor().float() - expect(tensors, IMAGES[0])[1]).abs().max() < 0.05


def test_loading_from_a_config_keeps_its_name(tmp_path, tensors):
    folder = write_transformers(tmp_path / "m", tensors)
    config = ModelConfig(name="owner/llava-v1.5-tiny", image_aspect_ratio="crop", dtype="float16")
    loaded = load_from_config(config, name=str(folder), device="cpu")
    assert (loaded.name, loaded.geometry.pad, loaded.dtype) == ("owner/llava-v1.5-tiny", False, torch.float16)


def test_command_line_prints_what_was_found(tmp_path, tensors, tower, capsys):
    folder = write_original(tmp_path / "llava-v1.5-tiny", tensors, tower, mm_vision_select_feature=None)
    main([str(folder), "--device", "cpu"])
    out = capsys.readouterr().out
    for part in (
        "original",
        "3 layers x 4 heads",
        "4 x 4 of 16",
        "float32 on cpu",
        "vicuna_v1",
        "note: config.json has no mm_vision_select_feature",
    ):
        assert part in out


def test_command_line_fails_in_one_line(tmp_path, capsys):
    with pytest.raises(UserError, match=r"^No such checkpoint") as wrong:
        main([str(tmp_path / "nothing")])
    assert capsys.readouterr().out == ""
    assert "\n" not in str(wrong.value)
