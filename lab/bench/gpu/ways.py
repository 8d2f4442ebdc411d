"""Every way to ask, in forwards of more and more pictures until memory ends, and from picture files to records."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from collector import Question, ask, prepare
from conf.schema import Config
from lab.attention.capture import use_attention
from lab.base.images import open_image
from lab.bench import collecting
from lab.bench.ceiling import operations
from lab.bench.collecting import EXPRESSIONS, Case
from lab.bench.machine import matmul_rate, synchronize
from llava.family import LoadedModel

LEAST = 0.3  # seconds that one way is measured for
MOST_PICTURES = 1024  # in a forward


class Budget:
    """So many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        return time.monotonic() > self._end


@dataclass(frozen=True)
class Forward:
    """One way to ask, measured."""

    way: str  # stock | eager | fused
    expressions: int  # on each picture
    pictures: int  # in one forward; stock asks one expression after the other
    samples_per_second: float
    peak_bytes: int | None  # above the weights; None where the device does not count
    share: float  # of the rate of matrix products


def ceiling(loaded: LoadedModel) -> float:
    """Operations a second of plain matrix products in the model's own shapes."""
    text = loaded.text_config
    shapes = [(8192, text.hidden_size, text.hidden_size), (8192, text.hidden_size, text.intermediate_size)]
    if loaded.device.type == "cpu":
        shapes = [(256, n, k) for _, n, k in shapes]
    return matmul_rate(loaded.device, loaded.dtype, shapes)


def forwards(loaded: LoadedModel, picture: Path, rate: float, budget: Budget) -> Iterator[Forward]:
    """stock, eager and fused at one and at seven expressions; stops where the budget ends."""
    for expressions in (1, len(EXPRESSIONS)):
        question = prepare(loaded, open_image(picture), EXPRESSIONS[:expressions])
        alone = [prepare(loaded, open_image(picture), [text]) for text in EXPRESSIONS[:expressions]]
        for way in ("fused", "stock", "eager"):
            pictures = 1
            while pictures <= MOST_PICTURES and not budget.over:
                asked = alone if way == "stock" else [question] * pictures
                use_attention(loaded.model, "eager" if way == "stock" else way)
                measured = _measured(loaded, asker(loaded, way, asked))
                if measured is None:
                    break
                seconds, peak, needed = measured
                number = expressions * pictures
                yield Forward(way, expressions, pictures, number / seconds, peak, needed / seconds / rate)
                if way == "stock":
                    break
                pictures *= 2


def asker(loaded: LoadedModel, way: str, asked: Sequence[Question]) -> Callable[[], object]:
    """What one forward does or, of stock, one for each expression; the rows arrive where records are made."""
    if way == "stock":
        return lambda: [collecting.stock_row(loaded, question) for question in asked]
    return lambda: ask(loaded, asked).of(0)


def _measured(loaded: LoadedModel, run: Callable[[], object]) -> tuple[float, int | None, float] | None:
    """Seconds, bytes and operations of one run; None if memory does not suffice."""
    on_gpu = loaded.device.type == "cuda"
    try:
        needed = operations(run)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(loaded.device)
            before = torch.cuda.memory_allocated(loaded.device)
        seconds: list[float] = []
        while sum(seconds) < LEAST or len(seconds) < 3:
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
    loaded: LoadedModel, config: Config, images: Sequence[Path], folder: Path, budget: Budget
) -> Iterator[tuple[Case, float]]:
    """Samples a second from picture files to records and rankings, as stage=batch works."""
    for expressions in (1, len(EXPRESSIONS)):
        for way in ("fused", "eager"):
            if budget.over:
                return
            case = Case(way, None, expressions)
            collecting.warm(loaded, config, case, list(images), folder)
            seconds, _ = collecting.seconds(loaded, config, case, list(images), folder)
            yield case, len(images) * expressions / seconds
