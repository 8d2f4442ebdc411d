"""Every way to ask, in forwards of more and more pictures until memory ends, and from picture files to records."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from collector import Question, ask, prepare
from conf.schema import Config
from lab.attention.capture import use_attention
from lab.base.images import open_image
from lab.bench import collecting
from lab.bench.ceiling import counted
from lab.bench.collecting import EXPRESSIONS, Case
from lab.bench.machine import matmul_rate, synchronize
from llava.family import LoadedModel

LEAST = 0.3  # seconds that one way is measured for
MOST_PICTURES = 1024  # in a forward
WAYS = ("stock", "fused", "eager")
NUMBERS = (1, len(EXPRESSIONS))  # of expressions on a picture


class Budget:
    """So many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.short = False  # whether something did not fit

    @property
    def over(self) -> bool:
        return time.monotonic() > self._end

    def fits(self, seconds: float) -> bool:
        """Whether what will take so many seconds, as far as that is known, may begin."""
        fits = time.monotonic() + seconds <= self._end
        self.short = self.short or not fits
        return fits


@dataclass(frozen=True)
class Forward:
    """One way to ask, measured."""

    way: str  # stock | eager | fused
    expressions: int  # on each picture
    pictures: int  # in one forward; stock asks one expression after the other
    samples_per_second: float
    peak_bytes: int | None  # above the weights; None where the device does not count
    operations_per_second: float  # of matrix products


def ceiling(loaded: LoadedModel) -> float:
    """Operations a second of plain matrix products in the model's own shapes, the best of three measurements: what else
    runs on the machine only slows them.
    """
    text = loaded.text_config
    shapes = [(8192, text.hidden_size, text.hidden_size), (8192, text.hidden_size, text.intermediate_size)]
    if loaded.device.type == "cpu":
        shapes = [(256, n, k) for _, n, k in shapes]
    return max(matmul_rate(loaded.device, loaded.dtype, shapes) for _ in range(3))


def forwards(loaded: LoadedModel, picture: Path, budget: Budget) -> Iterator[Forward]:
    """stock, eager and fused at one and at seven expressions, each at one picture and then, in turn, at twice as many.

    A way ends where memory does, and where the budget does not hold what its next measurement will take: twice the
    last, or for seven expressions seven times that of one.
    """
    took: dict[tuple[str, int], float] = {}
    questions = {number: _questions(loaded, picture, number) for number in NUMBERS}
    left, pictures = [(way, number) for number in NUMBERS for way in WAYS], 1
    while left and pictures <= MOST_PICTURES:
        for way, number in tuple(left):
            expected = 2 * took[way, number] if (way, number) in took else number * took.get((way, 1), 0.0)
            began = time.monotonic()
            one = _forward(loaded, way, number, pictures, questions, budget) if budget.fits(expected) else None
            took[way, number] = time.monotonic() - began
            if one:
                yield one
            if way == "stock" or not one:
                left.remove((way, number))
        pictures *= 2


def _questions(loaded: LoadedModel, picture: Path, number: int) -> tuple[Question, list[Question]]:
    """So many expressions about a picture in one question, and each in its own."""
    texts = EXPRESSIONS[:number]
    return prepare(loaded, open_image(picture), texts), [prepare(loaded, open_image(picture), [one]) for one in texts]


def _forward(
    loaded: LoadedModel,
    way: str,
    number: int,
    pictures: int,
    questions: Mapping[int, tuple[Question, list[Question]]],
    budget: Budget,
) -> Forward | None:
    """One way, measured; None if memory does not suffice."""
    together, alone = questions[number]
    use_attention(loaded.model, "eager" if way == "stock" else way)
    measured = _measured(loaded, asker(loaded, way, alone if way == "stock" else [together] * pictures), budget)
    if measured is None:
        return None
    seconds, peak, needed = measured
    return Forward(way, number, pictures, number * pictures / seconds, peak, needed / seconds)


def asker(loaded: LoadedModel, way: str, asked: Sequence[Question]) -> Callable[[], object]:
    """What one forward does or, of stock, one for each expression; the rows arrive where records are made."""
    if way == "stock":
        return lambda: [collecting.stock_row(loaded, question) for question in asked]
    return lambda: ask(loaded, asked).of(0)


def _measured(loaded: LoadedModel, run: Callable[[], object], budget: Budget) -> tuple[float, int | None, float] | None:
    """Seconds, bytes and operations of one run: the median of three or more, of fewer if the budget ends. None if
    memory does not suffice.
    """
    on_gpu = loaded.device.type == "cuda"
    try:
        needed, _ = counted(run)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(loaded.device)
            before = torch.cuda.memory_allocated(loaded.device)
        seconds: list[float] = []
        while not seconds or ((sum(seconds) < LEAST or len(seconds) < 3) and not budget.over):
            began = time.perf_counter()
            run()
            synchronize(loaded.device)
            seconds.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated(loaded.device) - before if on_gpu else None
        return statistics.median(seconds), peak, needed
    except torch.OutOfMemoryError:
        return None
    finally:
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()


def to_files(
    loaded: LoadedModel, config: Config, images: Sequence[Path], folder: Path, budget: Budget, *, least: float = 0.0
) -> Iterator[tuple[Case, float]]:
    """Samples a second from picture files to records and rankings, as stage=batch works.

    `least`: the seconds that the forwards of one expression on each picture take, as far as is known.
    """
    took: dict[str, float] = {}  # of each way with one expression, warming up included
    for expressions in NUMBERS:
        for way in ("fused", "eager"):
            if not budget.fits(expressions * took.get(way, took.get("fused", least))):
                continue
            case, began = Case(way, None, expressions), time.monotonic()
            collecting.warm(loaded, config, case, list(images), folder)
            seconds, _ = collecting.seconds(loaded, config, case, list(images), folder)
            took.setdefault(way, time.monotonic() - began)
            yield case, len(images) * expressions / seconds
