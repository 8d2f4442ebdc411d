"""What share of the machine's rate of matrix products a forward reaches, and what share of its time they take alone.

    one = Forward.of(loaded, image, expressions)
    (reached,) = measure([one], repeats=9)
    reached.share, reached.alone

Two ceilings. `share` is against large plain products. Those of a forward are of other shapes, attention's above all,
and slower; `alone` is what these very products take, one after the other and nothing between them.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from collector import ask, prepare
from lab.attention.capture import use_attention
from lab.base.console import progress
from lab.base.images import open_image
from lab.bench import collecting
from lab.bench.machine import describe, matmul_rate, seconds_of, synchronize
from llava.family import LoadedModel

AT_MOST, BY_PRODUCTS = "samples/s at most", "samples/s by its products"
RATE_SECONDS = 0.2  # that plain products are timed for, in each round
TIMES = 2  # that each of a forward's own products runs, in each round


class Product(NamedTuple):
    """A matrix product [batch, rows, inner] x [batch, inner, cols]."""

    batch: int
    rows: int
    inner: int
    cols: int

    @property
    def operations(self) -> int:
        """Floating point operations: a multiplication and an addition each."""
        return 2 * math.prod(self)


Products = dict[Product, float]  # and how many of each; of causal attention half of what full attention has


@dataclass(frozen=True, eq=False)
class Forward:
    """A forward of fused attention, from a prepared picture to its rows."""

    run: Callable[[], object]
    loaded: LoadedModel
    operations: float  # floating point operations of its products
    products: Products

    @classmethod
    def of(cls, loaded: LoadedModel, image: Image.Image, expressions: Sequence[str]) -> "Forward":
        """Some expressions about one picture."""
        use_attention(loaded.model, "fused")
        run = partial(ask, loaded, [prepare(loaded, image, expressions)])
        return cls(run, loaded, *counted(run))


@dataclass(frozen=True)
class Reached:
    """Medians over rounds."""

    seconds: float  # of a forward
    rate: float  # operations a second in it
    plain: float  # the same in large plain products of the model's widths
    alone: float  # seconds that its own products take by themselves, as share of a forward

    @property
    def share(self) -> float:
        """Of the rate of plain products."""
        return self.rate / self.plain


def measure(forwards: Sequence[Forward], repeats: int) -> list[Reached]:
    """Rounds in which every forward and both of its ceilings take turns, as the machine may be faster now than then."""
    rounds = [[_turn(one) for one in forwards] for _ in progress(range(repeats), "measure")]
    of_each = zip(*rounds, strict=True)
    return [median_of(turns, one.operations) for one, turns in zip(forwards, of_each, strict=True)]


def _turn(one: Forward) -> tuple[float, float, float]:
    """Seconds of a forward, the rate of plain products, and the seconds of the forward's own ones."""
    device, dtype = one.loaded.device, one.loaded.dtype
    synchronize(device)
    began = time.perf_counter()
    one.run()
    synchronize(device)
    took = time.perf_counter() - began
    text = one.loaded.text_config
    tokens = max(product.rows for product in one.products)
    shapes = [(tokens, text.hidden_size, width) for width in (text.hidden_size, text.intermediate_size)]
    return took, matmul_rate(device, dtype, shapes, RATE_SECONDS), seconds_alone(one.products, device, dtype)


def median_of(turns: Sequence[tuple[float, float, float]], operations: float) -> Reached:
    """From rounds of (seconds of a forward, rate of plain products, seconds of its own ones)."""
    took, rates, alone = zip(*turns, strict=True)
    seconds = statistics.median(took)
    part = statistics.median(of / whole for of, whole in zip(alone, took, strict=True))
    return Reached(seconds, operations / seconds, statistics.median(rates), part)


def seconds_alone(wanted: Products, device: torch.device, dtype: torch.dtype) -> float:
    """What these products take one after the other, the second factor of each in the order in which weights lie."""
    total = 0.0
    for (batch, rows, inner, cols), times in wanted.items():
        left = torch.randn(batch, rows, inner, device=device, dtype=dtype)
        right = torch.randn(batch, cols, inner, device=device, dtype=dtype).transpose(1, 2)
        one = partial(torch.matmul, left[0], right[0]) if batch == 1 else partial(torch.bmm, left, right)
        total += times * seconds_of(one, device, TIMES)
    return total


def counted(run: Callable[[], object]) -> tuple[float, Products]:
    """Floating point operations of a run's matrix products, and the products, attention's among them: of causal
    attention the half that it needs.

    torch's counter leaves out its fused attention on CPUs, and counts all of it elsewhere.
    """
    found: Products = {}

    def count(of: Callable[..., list[tuple[Product, float]]], *shapes: Any, **more: Any) -> int:
        made = of(*shapes, **more)
        for product, times in made:
            found[product] = found.get(product, 0) + times
        return int(sum(times * product.operations for product, times in made))

    aten = torch.ops.aten
    mapping = {getattr(aten, name): partial(count, of) for name, of in PRODUCTS.items()}
    mapping |= {getattr(aten, name): partial(count, partial(_of_attention, at)) for name, at in FUSED.items()}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return float(counter.get_total_flops()), found  # products of other kinds are in the former alone


Shape = Sequence[int]


def _of_two(left: Shape, right: Shape, **_: Any) -> list[tuple[Product, float]]:
    """From [rows, inner] and [inner, cols], or the same with a batch in front."""
    batch = left[0] if len(left) > 2 else 1
    return [(Product(batch, left[-2], left[-1], right[-1]), 1.0)]


def _of_sum(_: Shape, left: Shape, right: Shape, **__: Any) -> list[tuple[Product, float]]:
    return _of_two(left, right)


def _of_convolution(_: Shape, kernel: Shape, *__: Any, out_shape: Shape, **___: Any) -> list[tuple[Product, float]]:
    """From the kernel [cols, channels, ...] and what comes out [batch, cols, ...]: patches times kernels."""
    rows = out_shape[0] * math.prod(out_shape[2:])
    return [(Product(1, rows, math.prod(kernel[1:]), kernel[0]), 1.0)]


def _of_attention(causal: int, *arguments: Any, **_: Any) -> list[tuple[Product, float]]:
    """From the shapes [B, H, Q, D], [B, H, S, D] and [B, H, S, E] that it begins with."""
    (batch, heads, queries, width), key, value = arguments[:3]
    times = 0.5 if len(arguments) > causal and arguments[causal] else 1.0
    pairs = Product(batch * heads, queries, width, key[2]), Product(batch * heads, queries, key[2], value[3])
    return [(product, times) for product in pairs]


PRODUCTS: dict[str, Callable[..., list[tuple[Product, float]]]] = {
    "mm": _of_two, "bmm": _of_two, "addmm": _of_sum, "baddbmm": _of_sum, "convolution": _of_convolution,
}  # fmt: skip
FUSED = {  # torch's fused attention, and which of its arguments says that it is causal
    "_scaled_dot_product_flash_attention_for_cpu": 4,
    "_scaled_dot_product_flash_attention": 4,
    "_scaled_dot_product_efficient_attention": 6,
    "_scaled_dot_product_cudnn_attention": 6,
}


def about(loaded: LoadedModel, _cfg: Any) -> dict[str, str]:
    """The machine and the model in words."""
    dtype = str(loaded.dtype).removeprefix("torch.")
    shape = f"{loaded.num_layers} layers x {loaded.num_heads} heads, {loaded.geometry.tokens} image tokens, {dtype}"
    return {"device": describe(loaded.device), "model": shape}


def limit(loaded: LoadedModel, _cfg: Any, repeats: int, image: Path) -> dict[int, dict[str, float]]:
    """What a forward of one and of seven expressions reaches, by their number, and the samples a second that each
    ceiling would allow: `at most` and, if it were nothing but its own products, `by its products`.
    """
    picture, numbers = open_image(image), (1, len(collecting.EXPRESSIONS))
    forwards = [Forward.of(loaded, picture, collecting.EXPRESSIONS[:number]) for number in numbers]
    found = {}
    for number, one, reached in zip(numbers, forwards, measure(forwards, repeats), strict=True):
        at_most, by_products = number * reached.plain / one.operations, number / (reached.alone * reached.seconds)
        found[number] = {**asdict(reached), "share": reached.share, AT_MOST: at_most, BY_PRODUCTS: by_products}
    return found
