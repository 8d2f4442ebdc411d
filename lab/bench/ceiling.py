"""What share of the machine's rate of matrix products a forward reaches."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
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
    `seconds` reaches; also the samples a second that this rate would allow, with one and with seven expressions.
    """
    use_attention(loaded.model, "fused")
    needed = {}
    for number in (1, len(collecting.EXPRESSIONS)):
        question = prepare(loaded, open_image(image), collecting.EXPRESSIONS[:number])
        needed[number] = operations(partial(ask, loaded, [question]))
    text = loaded.model.config.text_config
    tokens = 8 * len(question.prompts[0].ids)
    shapes = [(tokens, text.hidden_size, text.hidden_size), (tokens, text.hidden_size, text.intermediate_size)]
    rate = max(matmul_rate(loaded.device, loaded.dtype, shapes) for _ in range(3))  # others may use the machine too
    per_second = needed[1] / seconds
    found = {"matmul operations per second": rate, "in a forward": per_second, "share": per_second / rate}
    return found | {allowed(number): number * rate / each for number, each in needed.items()}


def operations(run: Callable[[], object]) -> float:
    """Floating point operations of a run's matrix products, attention among them: of causal attention the half that it
    needs.

    torch's counter leaves out its fused attention on CPUs, and counts all of it elsewhere.
    """
    fused = {getattr(torch.ops.aten, name): partial(_of_attention, causal) for name, causal in FUSED.items()}
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        run()
    return float(counter.get_total_flops())


FUSED = {  # torch's fused attention, and which of its arguments says that it is causal
    "_scaled_dot_product_flash_attention_for_cpu": 4,
    "_scaled_dot_product_flash_attention": 4,
    "_scaled_dot_product_efficient_attention": 6,
    "_scaled_dot_product_cudnn_attention": 6,
}


def _of_attention(causal: int, *arguments: Any, **_: Any) -> int:
    """From the shapes [B, H, Q, D], [B, H, S, D] and [B, H, S, E] that it begins with."""
    (batch, heads, queries, width), key, value = arguments[:3]
    half = len(arguments) > causal and arguments[causal]
    return 2 * batch * heads * queries * key[2] * (width + value[3]) // (2 if half else 1)


def allowed(number: int) -> str:
    """What `limit` calls the samples a second with so many expressions about a picture."""
    return f"samples/s at most, {number} per image"
