"""Any LLaVA checkpoint -> transformers' LlavaForConditionalGeneration, ready to be asked where it looks.

    python -m llava.model.builder liuhaotian/llava-v1.5-7b
    python -m llava.model.builder my-lora-folder --base liuhaotian/llava-v1.5-7b --device cuda:1

loads a checkpoint and prints what was found. Three layouts are understood:

    transformers  config.json with vision_config and text_config (llava-hf/llava-1.5-7b-hf)
    original      config.json with mm_vision_tower (liuhaotian/llava-v1.5-7b)
    on a base     the original layout with only the projector (mm_projector.bin) or a LoRA adapter in it
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import LlavaConfig

from lab.base.errors import UserError
from llava.model.files import fetch, fetch_weights, read_json
from llava.model.loaded import LoadedModel, finish, image_geometry, load_image_processor, load_tokenizer
from llava.model.original import LANGUAGE_MODELS, Request, load_original
from llava.model.weights import Placement, load_weights, one_line_errors, place

if TYPE_CHECKING:
    from conf.schema import ModelConfig

__all__ = ["LoadedModel", "load_from_config", "load_llava"]

log = logging.getLogger(__name__)

ASPECT_RATIOS = ("pad", "crop")


def load_llava(
    name: str,
    *,
    base: str | None = None,
    cache_dir: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    image_aspect_ratio: str | None = None,
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
) -> LoadedModel:
    """Loads a LLaVA checkpoint of any layout, with eager attention.

    Args:
        name: folder or hub name.
        base: folder or hub name of the language model (or LLaVA) under a projector-only or LoRA checkpoint.
        cache_dir: where downloads go; None: HF_HUB_CACHE or HF_HOME.
        dtype: auto, float32, float16 or bfloat16; see `weights.place`.
        device: auto, cpu, cuda or cuda:N.
        image_aspect_ratio: pad (to a square) or crop (its middle). None: as an original config.json says; pad for the
            transformers layout, whose processors mostly say crop although LLaVA-1.5 was trained on padded pictures, and
            a crop would hide everything near the ends of the longer side.
        load_in_4bit, load_in_8bit: weights of the language model in fewer bits; needs bitsandbytes.

    Raises:
        UserError: anything wrong with the names, the files or the machine, in one line.
    """
    if image_aspect_ratio not in (None, *ASPECT_RATIOS):
        raise UserError(
            f"Unknown image_aspect_ratio {image_aspect_ratio!r}; choose {' or '.join(ASPECT_RATIOS)}, or null for the checkpoint's own"
        )
    placement = place(device, dtype, load_in_4bit=load_in_4bit, load_in_8bit=load_in_8bit)
    pad = None if image_aspect_ratio is None else image_aspect_ratio == "pad"
    folder = fetch(name, cache_dir)
    raw = read_json(folder / "config.json")
    if _is_transformers_layout(name, raw):
        if base is not None:
            raise UserError(f"{name} is a whole model: model.base={base} has no use here, leave it out")
        loaded = _load_transformers(name, folder, cache_dir, placement, pad)
    else:
        loaded = load_original(Request(name, base, cache_dir, placement, pad), folder, raw)
    for note in loaded.notes:
        log.info("%s: %s", name, note)
    return loaded


def load_from_config(config: "ModelConfig", *, name: str | None = None, device: str = "auto") -> LoadedModel:
    """`load_llava` with the values of a `model` config group; `name` says where it is found if not under its own name."""
    loaded = load_llava(
        name or config.name,
        base=config.base,
        cache_dir=config.cache_dir,
        dtype=config.dtype,
        device=device,
        image_aspect_ratio=config.image_aspect_ratio,
        load_in_4bit=config.load_in_4bit,
        load_in_8bit=config.load_in_8bit,
    )
    return replace(loaded, name=config.name)


def _is_transformers_layout(name: str, raw: dict[str, Any]) -> bool:
    """Otherwise it is the original's. Raises UserError if it is neither."""
    kind = raw.get("model_type")
    if kind == "llava" and "vision_config" in raw and "text_config" in raw:
        return True
    if kind not in LANGUAGE_MODELS:
        raise UserError(
            f"{name} is no LLaVA checkpoint known here: its config.json says model_type {kind!r}; known are {', '.join(LANGUAGE_MODELS)}"
        )
    if not raw.get("mm_vision_tower"):
        raise UserError(
            f"{name}: config.json names no vision tower; expected mm_vision_tower (original layout) or vision_config (transformers layout)"
        )
    return False


def _load_transformers(
    name: str, folder: Path, cache_dir: str | None, placement: Placement, pad: bool | None
) -> LoadedModel:
    with one_line_errors(folder):
        config = LlavaConfig.from_pretrained(folder)
    tower = config.vision_config.model_type
    if tower != "clip_vision_model":
        raise UserError(
            f"{name} has a vision tower of the kind {tower}; only CLIP towers (clip_vision_model) are supported"
        )
    tokenizer = load_tokenizer(folder)
    processor = load_image_processor(folder, pad=pad is not False)
    geometry = image_geometry(config, processor, folder)
    model, _ = load_weights(fetch_weights(name, cache_dir), config, placement)
    return finish(name, "transformers", model, tokenizer, processor, geometry, image_token_id=config.image_token_id)


def describe(loaded: LoadedModel) -> str:
    """What was found, as a table of a few lines."""
    config, geometry = loaded.model.config, loaded.geometry
    aspect = "padded to a square" if geometry.pad else "its middle cropped to a square"
    rows = {
        "checkpoint": loaded.name,
        "layout": loaded.layout,
        "language model": f"{config.text_config.model_type}, {loaded.num_layers} layers x {loaded.num_heads} heads",
        "context": f"{loaded.context} tokens",
        "vision tower": f"{config.vision_config.num_hidden_layers} layers are read, features from layer {config.vision_feature_layer}",
        "image": f"{aspect}, {geometry.crop_to} pixels",
        "grid": f"{geometry.side} x {geometry.side} of {geometry.tokens} image tokens, the first at {geometry.start}",
        "dtype": f"{str(loaded.dtype).removeprefix('torch.')} on {loaded.device}",
        "memory": f"{loaded.model.get_memory_footprint() / 1e9:.2f} GB",
        "chat template": loaded.conv_mode or "not known from the name",
    }
    lines = [f"{key:<15} {value}" for key, value in rows.items()]
    return "\n".join([*lines, *(f"note: {note}" for note in loaded.notes)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Loads the checkpoint that the command line names, and prints what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m llava.model.builder", description="Loads a LLaVA checkpoint and prints what was found."
    )
    parser.add_argument("name", help="folder or hub name")
    parser.add_argument("--base", help="base of a projector-only or LoRA checkpoint")
    parser.add_argument("--cache-dir", help="where downloads go")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    chosen = parser.parse_args(arguments)
    try:
        print(
            describe(
                load_llava(
                    chosen.name, base=chosen.base, cache_dir=chosen.cache_dir, dtype=chosen.dtype, device=chosen.device
                )
            )
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
