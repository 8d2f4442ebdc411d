"""Any checkpoint of a known family -> a model of transformers, ready to be asked where it looks.

    python -m llava.model.builder liuhaotian/llava-v1.5-7b
    python -m llava.model.builder my-lora-folder --base liuhaotian/llava-v1.5-7b --device cuda:1
    python -m llava.model.builder Qwen/Qwen3-VL-4B-Instruct --image photo.jpg --query "the cup" --draw cells.png

loads a checkpoint, prints what was found and how it sees a picture, and draws its image tokens over the picture.
`llava.families.FAMILIES` lists the families; of LLaVA itself three layouts are understood:

    transformers  config.json with vision_config and text_config (llava-hf/llava-1.5-7b-hf)
    original      config.json with mm_vision_tower (liuhaotian/llava-v1.5-7b)
    on a base     the original layout with only the projector (mm_projector.bin) or a LoRA adapter in it
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from conf.schema import ModelConfig
from lab.base.arguments import Parser
from lab.base.console import exit_in_one_line
from lab.base.errors import UserError
from lab.base.files import write_atomic
from lab.base.images import open_image
from lab.base.paths import home
from llava.checkpoint.files import fetch, read_json
from llava.checkpoint.weights import place
from llava.families import family_of
from llava.families.llava import Llava
from llava.family import LoadedModel, Request
from llava.model.look import describe, in_colour, look

__all__ = ["LoadedModel", "load_from_config", "load_llava", "load_model"]

log = logging.getLogger(__name__)

ASPECT_RATIOS = ("pad", "crop")
BLANK = (640, 480)  # pixels of the picture that is looked at if none is named


def load_model(
    name: str,
    *,
    base: str | None = None,
    cache_dir: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    image_aspect_ratio: str | None = None,
    image_processor: Mapping[str, Any] | None = None,
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
) -> LoadedModel:
    """Loads a checkpoint of any known family, with eager attention.

    Args:
        name: folder or hub name.
        base: folder or hub name of the language model (or LLaVA) under a projector-only or LoRA checkpoint.
        cache_dir: where downloads go; None: HF_HUB_CACHE or HF_HOME.
        dtype: auto, float32, float16 or bfloat16; see `weights.place`.
        device: auto, cpu, cuda or cuda:N.
        image_aspect_ratio: of LLaVA, pad (to a square) or crop (its middle). None: as an original config.json says;
            pad for the transformers layout, whose processors mostly say crop although LLaVA-1.5 was trained on padded
            pictures, and a crop would hide everything near the ends of the longer side.
        image_processor: options of the checkpoint's image processor, in place of its own, for families that have one.
        load_in_4bit, load_in_8bit: weights of the language model in fewer bits; needs bitsandbytes.

    Raises:
        UserError: anything wrong with the names, the files or the machine, in one line.
    """
    if image_aspect_ratio not in (None, *ASPECT_RATIOS):
        raise UserError(
            f"Unknown image_aspect_ratio {image_aspect_ratio!r}; choose {' or '.join(ASPECT_RATIOS)}, "
            "or null for the checkpoint's own"
        )
    placement = place(device, dtype, load_in_4bit=load_in_4bit, load_in_8bit=load_in_8bit)
    pad = None if image_aspect_ratio is None else image_aspect_ratio == "pad"
    cache_dir = None if cache_dir is None else str(home(cache_dir))
    folder = fetch(name, cache_dir)
    raw = read_json(folder / "config.json")
    loaded = family_of(name, raw).load(
        Request(name, base, cache_dir, placement, pad, dict(image_processor or {})), folder, raw
    )
    for note in loaded.notes:
        log.info("%s: %s", name, note)
    return loaded


def load_llava(name: str, *, cache_dir: str | None = None, **options: Any) -> LoadedModel:
    """`load_model` for LLaVA itself. Raises UserError also for a checkpoint of another family."""
    raw = read_json(fetch(name, cache_dir) / "config.json")
    if family_of(name, raw) is not Llava:
        raise UserError(f"{name} is no LLaVA checkpoint but of model_type {raw['model_type']!r}; use load_model for it")
    return load_model(name, cache_dir=cache_dir, **options)


def load_from_config(config: ModelConfig, *, name: str | None = None, device: str = "auto") -> LoadedModel:
    """`load_model` with the values of a `model` config group; `name` says where it is if not under its own name."""
    loaded = load_model(
        name or config.name,
        base=config.base,
        cache_dir=config.cache_dir,
        dtype=config.dtype,
        device=device,
        image_aspect_ratio=config.image_aspect_ratio,
        image_processor=config.image_processor,
        load_in_4bit=config.load_in_4bit,
        load_in_8bit=config.load_in_8bit,
    )
    return replace(loaded, name=config.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Loads the checkpoint that the command line names, and prints what was found and how it sees a picture."""
    parser = Parser(prog="python -m llava.model.builder", description="Loads a checkpoint and prints what was found.")
    parser.add_argument("name", help="folder or hub name")
    parser.add_argument("--base", help="base of a projector-only or LoRA checkpoint")
    parser.add_argument("--cache-dir", help="where downloads go")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--image", help="the picture to look at; a blank one of 640 x 480 pixels if left out")
    parser.add_argument("--query", default="the cup", help="what the prompt asks for")
    parser.add_argument("--conv-mode", help="template of the prompt; the family's own if left out")
    parser.add_argument("--draw", help="file for the picture with its image tokens drawn over it: .png, .pdf or .svg")
    _print_all(parser.parse_args(arguments))


def _print_all(chosen: argparse.Namespace) -> None:
    from llava.model.cells import drawn, figure_kind  # matplotlib: loading a model does without

    kind = figure_kind(chosen.draw) if chosen.draw else None
    image = open_image(chosen.image) if chosen.image else Image.new("RGB", BLANK, "white")
    loaded = load_model(
        chosen.name, base=chosen.base, cache_dir=chosen.cache_dir, dtype=chosen.dtype, device=chosen.device
    )
    print(describe(loaded))
    picture = loaded.family.picture(image)
    prompt = loaded.family.prompt(chosen.query, picture, chosen.conv_mode)
    print(f"\n{look(loaded, image.size, picture, prompt, colour=in_colour())}")
    if kind:
        write_atomic(chosen.draw, drawn(image, picture, kind))
        print(f"\nwrote {chosen.draw}")


if __name__ == "__main__":
    with exit_in_one_line():
        main()
