"""Checkpoints that cannot be loaded: one line that says what is wrong and where."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from lab.base.errors import UserError
from llava.checkpoint import files, weights
from llava.checkpoint.weights import place
from llava.families import original
from llava.model.builder import load_llava
from tests.llava import tiny_llava
from tests.llava.tiny_llava import (
    write_base,
    write_json,
    write_lora,
    write_original,
    write_projector,
    write_transformers,
)


def refuse(folder, *reasons: str, **options) -> None:
    with pytest.raises(UserError) as error:
        load_llava(str(folder), **{"device": "cpu", **options})
    message = str(error.value)
    for reason in reasons:
        assert reason in message
    assert "\n" not in message
    assert len(message) < 700


def edit(folder: Path, name: str = "config.json", **values: object) -> None:
    content = {**json.loads((folder / name).read_text()), **values}
    write_json(folder / name, {key: value for key, value in content.items() if value is not None})


# config


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        ({"mm_vision_tower": None}, ["names no vision tower"]),
        ({"mm_vision_tower": "nowhere/at/all"}, ["mm_vision_tower", "nowhere/at/all"]),
        ({"mm_projector_type": "mlp3x_gelu"}, ["mlp3x_gelu", "known are linear, mlp2x_gelu, mlp2x_gelu_Norm"]),
        ({"mm_vision_select_feature": "cls"}, ["'cls'", "known are patch, cls_patch"]),
        ({"image_aspect_ratio": "anyres"}, ["'anyres'", "tiles"]),
        ({"mm_hidden_size": 1024}, ["takes 1024 features", "gives 16"]),
        ({"model_type": "llava_mpt"}, ["'llava_mpt'", "Known are aya_vision"]),
        ({"model_type": "qwen2"}, ["no family here reads that"]),
        ({"max_position_embeddings": 16}, ["image takes 16 tokens", "reads only 16"]),
        ({"tokenizer_model_max_length": 10}, ["reads only 10"]),
        ({"hidden_size": "wide"}, ["config.json", "hidden_size"]),
        ({"num_hidden_layers": 4}, ["lack 9 tensors", "layers.3.", "and 4 more"]),
        ({"num_hidden_layers": 2}, ["9 tensors that the model has no place for", "layers.2."]),
        ({"intermediate_size": 40}, ["do not fit its config", "[48, 32] instead of [40, 32]"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_config(tmp_path, tensors, tower, values, reasons):
    folder = write_original(tmp_path / "m", tensors, tower)
    edit(folder, **values)
    refuse(folder, *reasons)


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "cannot be read as JSON"), ("[1]", "holds a list"), ("", "cannot be read as JSON")]
)
def test_broken_config(tmp_path, tensors, tower, text, reason):
    folder = write_original(tmp_path / "m", tensors, tower)
    (folder / "config.json").write_text(text)
    refuse(folder, "config.json", reason)


def test_folder_without_config(tmp_path):
    refuse(tmp_path, "has no config.json")


def test_transformers_layout_with_another_tower(tmp_path, tensors):
    folder = write_transformers(tmp_path / "m", tensors, vision_config={"model_type": "siglip_vision_model"})
    refuse(folder, "siglip_vision_model", "only CLIP")


def test_other_models_of_the_transformers_layout(tmp_path, tensors):
    refuse(write_transformers(tmp_path / "m", tensors, model_type="llava_next"), "llava_next")


def test_processor_that_does_not_fit_the_tower(tmp_path, tensors):
    folder = write_transformers(tmp_path / "m", tensors)
    edit(folder, "preprocessor_config.json", crop_size={"height": 56, "width": 56})
    refuse(folder, "sees 28 x 28 pixels")


@pytest.mark.parametrize(("step", "pad"), [("do_resize", "pad"), ("do_resize", "crop"), ("do_center_crop", "crop")])
def test_processor_that_leaves_out_a_step_by_which_the_geometry_goes(tmp_path, tensors, step, pad):
    folder = write_transformers(tmp_path / "m", tensors)
    edit(folder, "preprocessor_config.json", **{step: False})
    with pytest.raises(UserError, match=rf"its image processor says {step}: false"):
        load_llava(str(folder), device="cpu", image_aspect_ratio=pad)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "config.json"])
def test_tower_with_a_file_missing(tmp_path, tensors, name):
    tower = tiny_llava.write_tower(tmp_path / "clip", tensors)
    (tower / name).unlink()
    refuse(write_original(tmp_path / "m", tensors, tower), f"has no {name}")


def test_tower_of_another_kind(tmp_path, tensors):
    tower = tiny_llava.write_tower(tmp_path / "clip", tensors)
    edit(tower, model_type="siglip")
    refuse(write_original(tmp_path / "m", tensors, tower), "of the kind siglip")


# weights


def test_missing_projector(tmp_path, tensors, tower):
    fewer = {name: value for name, value in tensors.items() if "mm_projector" not in name}
    refuse(write_original(tmp_path / "m", fewer, tower), "lack 4 tensors", "multi_modal_projector.linear_1.bias")


def test_unexpected_keys_are_named_up_to_five(tmp_path, tensors, tower):
    more = {**tensors, **{f"model.extra.{i}": torch.ones(1) for i in range(7)}}
    refuse(write_original(tmp_path / "m", more, tower), "7 tensors", "model.extra.4", "and 2 more")


def test_projector_of_another_width(tmp_path, tensors, tower):
    wide = {**tensors, "model.mm_projector.0.weight": torch.ones(32, 24)}
    refuse(write_original(tmp_path / "m", wide, tower), "linear_1.weight [32, 24] instead of [32, 16]")


def test_tower_of_another_width(tmp_path, tensors):
    name = tiny_llava.TOWER + "vision_model.post_layernorm.weight"
    tower = tiny_llava.write_tower(tmp_path / "clip", {**tensors, name: torch.ones(24)})
    refuse(write_original(tmp_path / "m", tensors, tower), str(tower), "[24] instead of [16]")


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize("shards", [1, 3])
def test_truncated_weights(tmp_path, tensors, tower, kind, shards):
    folder = write_original(tmp_path / "m", tensors, tower, kind=kind, shards=shards)
    path = max(folder.glob(f"*.{kind}"))
    path.write_bytes(path.read_bytes()[:-1000])
    refuse(folder, path.name, "truncated")


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_missing_shard(tmp_path, tensors, tower, kind):
    folder = write_original(tmp_path / "m", tensors, tower, kind=kind, shards=3)
    path = max(folder.glob(f"*.{kind}"))
    path.unlink()
    refuse(folder, "lacks weight files", path.name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_git_lfs_pointer_in_place_of_a_small_file(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refuse(tmp_path, rf"{name} is a git-lfs pointer, not the file itself: run `git lfs pull` in its folder")


def test_git_lfs_pointer(tmp_path, tensors, tower):
    folder = write_original(tmp_path / "m", tensors, tower)
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refuse(folder, "git lfs pull")


def test_no_weights(tmp_path, tensors, tower):
    folder = write_original(tmp_path / "m", tensors, tower)
    (folder / "pytorch_model.bin").unlink()
    refuse(folder, "holds no weights", "model.base")


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("wrapped", [True, False])
def test_weights_that_would_run_code_are_not_opened(tmp_path, tensors, tower, wrapped):
    folder, trace = write_original(tmp_path / "m", tensors, tower), tmp_path / "trace"
    content = {"model.norm.weight": Touch(trace)}
    if wrapped:
        torch.save(content, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content) + b" " * 64)
    refuse(folder, str(folder))
    assert not trace.exists()


@pytest.mark.parametrize("place", ["transformers", "tower", "projector", "adapter", "non_lora_trainables"])
def test_no_other_file_of_weights_runs_code_either(tmp_path, tensors, tower, place):
    if place in ("adapter", "non_lora_trainables"):
        pytest.importorskip("peft")
    base, trace = str(write_base(tmp_path / "base", tensors)), tmp_path / "trace"
    if place == "transformers":
        folder, options = write_transformers(tmp_path / "m", tensors, kind="bin"), {}
        bad = folder / "pytorch_model.bin"
    elif place == "tower":
        tower = shutil.copytree(tower, tmp_path / "tower")
        (tower / "model.safetensors").unlink(missing_ok=True)
        folder, options, bad = write_original(tmp_path / "m", tensors, tower), {}, tower / "pytorch_model.bin"
    elif place == "projector":
        folder, options = write_projector(tmp_path / "m", tensors, tower), {"base": base}
        bad = folder / "mm_projector.bin"
    else:
        folder, options = write_lora(tmp_path / "m", tensors, tower)[0], {"base": base}
        bad = folder / ("adapter_model.bin" if place == "adapter" else "non_lora_trainables.bin")
    torch.save({"model.norm.weight": Touch(trace)}, bad)
    refuse(folder, str(bad.parent), **options)
    assert not trace.exists()


# tokenizer


@pytest.mark.parametrize("layout", ["original", "transformers"])
def test_missing_tokenizer(tmp_path, tensors, tower, layout):
    folder = (
        write_original(tmp_path / "m", tensors, tower)
        if layout == "original"
        else write_transformers(tmp_path / "m", tensors)
    )
    for path in folder.glob("tokenizer.*"):
        path.unlink()
    refuse(folder, "has no tokenizer", "tokenizer.model")


def test_broken_tokenizer(tmp_path, tensors, tower):
    folder = write_original(tmp_path / "m", tensors, tower)
    (folder / "tokenizer.model").write_bytes(b"nothing")
    refuse(folder, "tokenizer.model", "cannot be loaded")


# on a base


def test_projector_or_adapter_without_base(tmp_path, tensors, tower):
    refuse(write_projector(tmp_path / "p", tensors, tower), "holds no weights", "model.base")
    refuse(write_lora(tmp_path / "l", tensors, tower)[0], "LoRA adapter", "set model.base")


def test_base_that_has_no_use(tmp_path, tensors, tower):
    base = str(write_base(tmp_path / "base", tensors))
    refuse(write_original(tmp_path / "m", tensors, tower), "is a whole model", base=base)
    refuse(write_transformers(tmp_path / "t", tensors), "is a whole model", base=base)


def test_base_in_the_transformers_layout(tmp_path, tensors, tower):
    base = str(write_transformers(tmp_path / "t", tensors))
    refuse(write_projector(tmp_path / "p", tensors, tower), "is in the transformers layout", base=base)


def test_incomplete_projector_file(tmp_path, tensors, tower):
    base, folder = str(write_base(tmp_path / "base", tensors)), write_projector(tmp_path / "p", tensors, tower)
    held = torch.load(folder / "mm_projector.bin")
    torch.save({name: value for name, value in held.items() if ".2." not in name}, folder / "mm_projector.bin")
    refuse(folder, "lacks 2 tensors", "linear_2.bias", base=base)
    torch.save({**held, "model.mm_projector.6.weight": torch.ones(2)}, folder / "mm_projector.bin")
    refuse(folder, "no place for", "mm_projector.6.weight", base=base)
    torch.save({**held, "model.mm_projector.0.bias": torch.ones(2)}, folder / "mm_projector.bin")
    refuse(folder, "linear_1.bias [2] instead of [32]", base=base)
    torch.save([1, 2], folder / "mm_projector.bin")
    refuse(folder, "something else than named tensors", base=base)
    (folder / "mm_projector.bin").unlink()
    refuse(folder, "has no mm_projector.bin", base=base)


def test_adapter_without_peft(tmp_path, tensors, tower, monkeypatch):
    base = str(write_base(tmp_path / "base", tensors))
    monkeypatch.setattr(original, "find_spec", lambda name: None)
    refuse(write_lora(tmp_path / "l", tensors, tower)[0], "pip install peft", base=base)


def test_adapter_that_does_not_fit_its_base(tmp_path, tensors, tower):
    pytest.importorskip("peft")
    base, folder = str(write_base(tmp_path / "base", tensors)), write_lora(tmp_path / "l", tensors, tower)[0]
    adapter = torch.load(folder / "adapter_model.bin")
    torch.save(
        {name.replace("layers.2.", "layers.7."): value for name, value in adapter.items()}, folder / "adapter_model.bin"
    )
    refuse(folder, "does not fit its base", "layers.7.", base=base)


# names, devices and settings


def test_names_that_are_nothing(tmp_path):
    refuse(tmp_path / "nothing", "neither a folder nor a hub name")
    refuse("three/part/name", "neither a folder nor a hub name")


def test_offline_says_what_to_download_and_where_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(files.constants, "HF_HUB_OFFLINE", True)
    refuse(
        "owner/llava",
        "not a folder here",
        str(tmp_path),
        f"hf download owner/llava --cache-dir {tmp_path}",
        cache_dir=str(tmp_path),
    )


def cached(cache: Path, name: str) -> Path:
    """The folder of a snapshot, laid out as the hub's cache is."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return repository / "snapshots" / ("0" * 40)


def test_cache_is_used_without_a_connection(tmp_path, tensors, monkeypatch):
    monkeypatch.setattr(files.constants, "HF_HUB_OFFLINE", True)
    tiny_llava.write_tower(cached(tmp_path, "owner/clip"), tensors)
    folder = write_original(cached(tmp_path, "owner/llava"), tensors, "owner/clip")
    assert load_llava("owner/llava", device="cpu", cache_dir=str(tmp_path)).layout == "original"
    (folder / "pytorch_model.bin").unlink()
    refuse(
        "owner/llava", "holds no weights", f"hf download owner/llava --cache-dir {tmp_path}", cache_dir=str(tmp_path)
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [(files.GatedRepoError, "hf auth login"), (files.RepositoryNotFoundError, "No such checkpoint: owner/llava")],
)
def test_gated_and_misspelled_names(monkeypatch, error, reason):
    def raise_error(*args, **kwargs):
        raise error.__new__(error)

    monkeypatch.setattr(files, "snapshot_download", raise_error)
    refuse("owner/llava", reason)


def test_only_one_format_of_the_weights_is_downloaded(tmp_path, monkeypatch, tensors, tower):
    folder, asked = write_original(tmp_path / "m", tensors, tower), []

    def snapshot(name, *, cache_dir, allow_patterns):
        asked.append((cache_dir, tuple(allow_patterns)))
        return str(folder)

    monkeypatch.setattr(files, "snapshot_download", snapshot)
    load_llava("owner/llava", device="cpu", cache_dir="there")
    assert {cache for cache, _ in asked} == {"there"}
    assert asked[-1][1][-1] == "pytorch_model*.bin"
    asked.clear()
    tiny_llava.write_weights(folder, tensors, kind="safetensors")
    files.fetch_weights("owner/llava")
    assert not any("pytorch_model*.bin" in patterns for _, patterns in asked)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "gpu"}, "choose auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "No device cuda:99"),
        ({"dtype": "int8"}, "choose auto, float32, float16, bfloat16"),
        ({"image_aspect_ratio": "stretch"}, "choose pad or crop"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "exclude each other"),
    ],
)
def test_settings(tmp_path, tensors, tower, options, reason):
    refuse(write_original(tmp_path / "m", tensors, tower), reason, **options)


def test_fewer_bits_need_their_package(monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        place("cpu", load_in_4bit=True)


@pytest.mark.parametrize(("bf16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_placement_on_gpus(monkeypatch, bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    assert place("auto").device_map == "auto"
    assert place("cuda").device_map == {"": torch.device("cuda", 0)}
    assert place("cuda:1").dtype == expected
    assert place("cpu").dtype == torch.float32
    with pytest.raises(UserError, match="there are 2 GPUs, cuda:0 to cuda:1"):
        place("cuda:2")


@pytest.mark.parametrize(
    ("capabilities", "told"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "unknown"}, False),
    ],
)
def test_bfloat16_on_a_processor_without_it_is_told(monkeypatch, caplog, capabilities, told):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert place("cpu", "bfloat16").dtype == torch.bfloat16
    assert place("cpu", "float16").dtype == torch.float16
    assert ("float32 is faster here" in caplog.text) == told
