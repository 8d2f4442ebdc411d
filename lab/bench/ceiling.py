"""What share of the machine's rate of matrix products a forward reaches."""

from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from collector import ask, prepare
from lab.attention.capture import use_attention
from lab.base.images import open_image
from lab.bench import collecting
from lab.bench.machine import describe, matmul_rate
from llava.family import LoadedModel


def about(loaded: LoadedModel, _cfg: Any) -> dict[str, str]:
    """The machine and the model in words."""
    dtype = str(loaded.dtype).removeprefix("torch.")
    shape = f"{loaded.num_layers} layers x {loaded.num_heads} heads, {loaded.geometry.tokens} image tokens, {dtype}"
    return {"device": describe(loaded.device), "model": shape}


def limit(loaded: LoadedModel, _cfg: Any, seconds: float, image: Path) -> dict[str, float]:
    """The rate of plain matrix products in the model's own shapes, and its share that a forward of fused attention in
    `seconds` reaches.
    """
    use_attention(loaded.model, "fused")
    question = prepare(loaded, open_image(image), collecting.EXPRESSIONS[:1])
    with FlopCounterMode(display=False) as counter:
        ask(loaded, [question])
    text = loaded.model.config.text_config
    tokens = 8 * len(question.prompts[0].ids)
    shapes = [(tokens, text.hidden_size, text.hidden_size), (tokens, text.hidden_size, text.intermediate_size)]
    rate = matmul_rate(loaded.device, loaded.dtype, shapes)
    per_second = counter.get_total_flops() / seconds
    return {"matmul operations per second": rate, "in a forward": per_second, "share": per_second / rate}
