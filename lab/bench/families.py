"""How fast families of three kinds are read, on checkpoints of an eighth of a 7B model's width and half its depth.

    python -m lab.bench --size families

Weights are random, float32. What is timed begins with a prepared picture of 640 x 480 pixels and ends with the rows.
`stock` keeps every layer's full map by `output_attentions=True` and asks one expression after the other, so that its
time for each does not depend on how many there are. All ways take turns in one process.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from collector import Question, ask, ask_one_by_one, prepare
from conf.schema import ModelConfig
from lab.attention.capture import use_attention
from lab.base.console import progress
from lab.base.files import write_atomic
from lab.bench.collecting import EXPRESSIONS, SIZE, stock_row
from lab.bench.machine import peak_memory
from lab.picturebook.make import samples
from lab.picturebook.model import make_tokenizer
from llava.family import LoadedModel
from llava.model.builder import load_model

ANSWER = 8  # tokens that are generated and read
SQUARE = (480, 480)  # another picture, of fewer image tokens
STOCK = "stock"
QWEN = {  # Qwen2.5-7B
    "hidden_size": 448, "intermediate_size": 2368, "num_hidden_layers": 14, "num_attention_heads": 7,
    "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 32064, "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}  # fmt: skip
MISTRAL = {
    "model_type": "mistral", "hidden_size": 512, "intermediate_size": 1792, "num_hidden_layers": 16,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 32064,
    "max_position_embeddings": 8192, "sliding_window": None, "tie_word_embeddings": False,
}  # fmt: skip
NORMAL = {
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "do_rescale": True, "do_normalize": True,
    "do_convert_rgb": True, "resample": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What the files of a checkpoint hold; token ids stand as the tokens."""

    config: Mapping[str, Any]
    images: Mapping[str, Any]
    processor: Mapping[str, Any]
    tokens: Mapping[str, str]  # name in the tokenizer's configuration -> token


ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
KINDS = {
    "Qwen2.5-VL": Kind(
        {
            "model_type": "qwen2_5_vl", "text_config": QWEN | ROPE, "tie_word_embeddings": False,
            "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
            "vision_config": {
                "depth": 8, "hidden_size": 256, "out_hidden_size": 448, "num_heads": 4, "intermediate_size": 684,
                "fullatt_block_indexes": [3, 7],
            },
        },
        {
            **NORMAL, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
            "size": {"shortest_edge": 56 * 56, "longest_edge": 12845056},
            "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
        },
        {"processor_class": "Qwen2_5_VLProcessor"},
        {
            "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start": "<|vision_start|>",
            "vision_end": "<|vision_end|>",
        },
    ),
    "InternVL3, 6 tiles": Kind(
        {
            "model_type": "internvl", "text_config": QWEN | {"model_type": "qwen2"}, "image_token_id": "<IMG_CONTEXT>",
            "vision_config": {
                "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
                "image_size": [448, 448], "patch_size": [14, 14],
            },
            "image_seq_length": 256, "downsample_ratio": 0.5, "tie_word_embeddings": False,
        },
        {
            **NORMAL, "size": {"height": 448, "width": 448}, "crop_to_patches": True, "min_patches": 1,
            "max_patches": 6, "image_processor_type": "GotOcr2ImageProcessor", "processor_class": "InternVLProcessor",
        },
        {"processor_class": "InternVLProcessor", "image_seq_length": 256},
        {
            "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "LLaVA-NeXT": Kind(
        {
            "model_type": "llava_next", "text_config": MISTRAL, "image_token_index": "<image>",
            "vision_config": {
                "model_type": "clip_vision_model", "hidden_size": 256, "intermediate_size": 1024,
                "num_hidden_layers": 6, "num_attention_heads": 4, "image_size": 336, "patch_size": 14,
            },
            "image_grid_pinpoints": PINPOINTS, "vision_feature_layer": -2, "image_seq_length": 576,
            "vision_feature_select_strategy": "default", "tie_word_embeddings": False,
        },
        {
            **NORMAL, "size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336},
            "do_center_crop": True, "do_pad": True, "image_grid_pinpoints": PINPOINTS,
            "image_processor_type": "LlavaNextImageProcessor", "processor_class": "LlavaNextProcessor",
        },
        {"processor_class": "LlavaNextProcessor", "patch_size": 14, "vision_feature_select_strategy": "default"},
        {"image_token": "<image>"},
    ),
}  # fmt: skip


def write_checkpoint(folder: Path, kind: Kind) -> None:
    """A checkpoint with random weights, in transformers' layout."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(kind.tokens.values())})
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write_json(folder / "tokenizer_config.json", settings | {"extra_special_tokens": dict(kind.tokens)})
    _write_json(folder / "preprocessor_config.json", kind.images)
    _write_json(folder / "processor_config.json", kind.processor)
    ids = {
        key: tokenizer.convert_tokens_to_ids(value)
        for key, value in kind.config.items()
        if key.endswith(("_token_id", "_token_index"))
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**kind.config, **ids})
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)


@dataclass(frozen=True)
class Read:
    """Medians of one way."""

    seconds: float  # per expression
    peak_bytes: int  # of tensors, above the weights


def measure(folder: Path, kind: Kind, repeats: int) -> tuple[int, dict[str, Read]]:
    """Image tokens of the picture, and every way by name."""
    write_checkpoint(folder, kind)
    loaded = load_model(str(folder), device="cpu")
    scene = next(iter(samples(1, 0)))
    image = scene.image.resize(SIZE, Image.Resampling.BICUBIC)
    one, seven = (prepare(loaded, image, EXPRESSIONS[:number]) for number in (1, len(EXPRESSIONS)))
    ways = _ways(loaded, one, seven, prepare(loaded, image.resize(SQUARE), EXPRESSIONS[:1]))
    for run, _ in ways.values():
        run()  # what happens only once has happened
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in progress(range(repeats), "measure"):
        for name, (run, number) in ways.items():
            began = time.perf_counter()
            run()
            rounds[name].append((time.perf_counter() - began) / number)
    peaks = {name: peak_memory(run, torch.device("cpu"))[0] for name, (run, _) in ways.items()}
    return one.picture.tokens, {name: Read(statistics.median(rounds[name]), peaks[name]) for name in ways}


def _ways(
    loaded: LoadedModel, one: Question, seven: Question, smaller: Question
) -> dict[str, tuple[Callable[[], object], int]]:
    """What is run, and how many expressions it asks."""
    answer = ModelConfig(read="answer", max_new_tokens=ANSWER)

    def stock() -> None:
        use_attention(loaded.model, "eager")
        stock_row(loaded, one)

    def ours(attention: str, *questions: Question) -> None:
        use_attention(loaded.model, attention)
        ask(loaded, questions).of(0)

    def answered() -> None:
        use_attention(loaded.model, "fused")
        ask_one_by_one(loaded, one, answer).of(0)

    def after_another() -> None:
        for question in (one, smaller):
            ours("fused", question)

    return {
        STOCK: (stock, 1),
        "eager, 1": (partial(ours, "eager", one), 1),
        "fused, 1": (partial(ours, "fused", one), 1),
        f"eager, {len(EXPRESSIONS)}": (partial(ours, "eager", seven), len(EXPRESSIONS)),
        f"fused, {len(EXPRESSIONS)}": (partial(ours, "fused", seven), len(EXPRESSIONS)),
        "fused, 1, then that of a smaller picture": (after_another, 2),
        "fused, both in one forward": (partial(ours, "fused", one, smaller), 2),
        f"fused, 1, {ANSWER} answer tokens": (answered, 1),
    }


def rows(found: Mapping[str, Read]) -> list[tuple[str, ...]]:
    """Lines of a table: milliseconds an expression, how many times as fast as stock, peak, and its share of stock's."""
    lines: list[tuple[str, ...]] = []
    base = found[STOCK]
    for name, one in found.items():
        faster, share = base.seconds / one.seconds, one.peak_bytes / base.peak_bytes
        peak = f"{one.peak_bytes / 1e6:.0f}"
        lines.append((name, f"{1000 * one.seconds:.0f}", f"{faster:.1f}", peak, f"{share:.3f}"))
    return lines


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(content))
