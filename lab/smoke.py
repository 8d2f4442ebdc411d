"""Loads a LLaVA of a real shape with random weights through the real loader, and collects a few samples with it.

    python -m lab.smoke size=1/8            # 16 layers x 512, 576 image tokens: any machine
    python -m lab.smoke size=7b device=cuda # LLaVA-1.5-7B's shape: 14 GB on disk, a GPU with 16 GB

Prints load time, memory and seconds per sample. The weights mean nothing, so neither does what the heads look at.
"""

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from collector import collect
from conf.schema import ModelConfig
from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line, table
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.base.paths import PROJECT
from lab.picturebook.model import IMAGE_TOKEN, make_processor, make_tokenizer
from llava.family import LoadedModel
from llava.model.builder import load_llava


@dataclass
class SmokeConfig:
    """What is built and where it runs."""

    size: str = "1/8"
    device: str = "auto"
    samples: int = 5  # counted, after one that is not


SIZES: dict[str, tuple[dict[str, int], dict[str, int]]] = {  # language model, vision tower
    "1/8": (
        {
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 16,
            "num_attention_heads": 8,
            "vocab_size": 32064,
        },
        {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4},
    ),
    "7b": (
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32064,
        },
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    ),
}


def llava_config(size: str) -> LlavaConfig:
    """LLaVA-1.5's geometry: 336 pixels, patches of 14."""
    text, vision = SIZES[size]
    return LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=336, patch_size=14, projection_dim=768, **vision),
        text_config=LlamaConfig(max_position_embeddings=4096, rms_norm_eps=1e-5, **text),
        image_token_id=make_tokenizer().convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-2,
        image_seq_length=576,
    )


def write_checkpoint(folder: Path, size: str) -> None:
    """A transformers-layout checkpoint of LLaVA-1.5's geometry in float16."""
    if size not in SIZES:
        raise UserError(f"size={size}: choose from {', '.join(SIZES)}")
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        LlavaForConditionalGeneration(llava_config(size)).save_pretrained(folder)
    finally:
        torch.set_default_dtype(dtype)
    make_processor(make_tokenizer(), image_size=336, patch_size=14).save_pretrained(folder)


def smoke(config: SmokeConfig) -> list[tuple[str, str]]:
    """Rows of the printed table."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), config.size)
        began = time.perf_counter()
        loaded = load_llava(folder, device=config.device)
        loading = time.perf_counter() - began
        image = open_image(PROJECT / "examples/images/bird.png")
        seconds = []
        for _ in range(config.samples + 1):
            began = time.perf_counter()
            record = collect(loaded, image, "the bird on the branch", ModelConfig(name=folder))
            seconds.append(time.perf_counter() - began)
        return [
            ("record", str(list(record.attn.shape))),
            (
                "weights",
                f"{loaded.model.get_memory_footprint() / 1e9:.2f} GB, {str(loaded.dtype).removeprefix('torch.')} "
                f"on {loaded.device}",
            ),
            ("loading", f"{loading:.1f} s"),
            ("one sample, median", f"{sorted(seconds[1:])[config.samples // 2]:.3f} s"),
            ("peak memory", _peak(loaded)),
        ]


def _peak(loaded: LoadedModel) -> str:
    if loaded.device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(loaded.device) / 1e9:.2f} GB on the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB of the process"


if __name__ == "__main__":
    with exit_in_one_line():
        options = typed_options(SmokeConfig, sys.argv[1:])
        print(table((f"LLaVA, size {options.size}", "random weights"), smoke(options)))
