"""What half precision gains on this processor, and what it loses.

    python -m lab.bench --size precision --repeats 9 --scenes 1000

Speed is that of fused attention on a LLaVA of an eighth of the size with random weights, from a prepared picture to
its rows, against the rate of plain matrix products of the same dtype. All dtypes take turns in one process. Loss is
measured on the shipped model and drawn scenes: Acc@0.5 of its three heads, each scene compared with itself in float32.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from analyze import score_heads
from bbox import localize
from collector import ask, collect, prepare
from conf.schema import Config, ModelConfig, configuration
from lab.attention.capture import use_attention
from lab.base.console import progress
from lab.bench import ceiling
from lab.bench.collecting import EXPRESSIONS, SIZE
from lab.bench.machine import matmul_rate
from lab.heads.choice import head_choice
from lab.measure.intervals import bootstrap
from lab.picturebook.evaluate import Scored
from lab.picturebook.make import samples
from lab.smoke import write_checkpoint
from llava.family import LoadedModel
from llava.model.builder import load_model

EXACT = "float32"
DTYPES = (EXACT, "bfloat16")
SEED = 51  # of the scenes


@dataclass(frozen=True)
class Speed:
    """Medians of one dtype."""

    seconds: dict[int, float]  # an expression's, by how many there are about the picture
    operations: float  # floating point operations a second in a forward
    ceiling: float  # the same of plain matrix products


@dataclass(frozen=True)
class Loss:
    """One dtype against float32, with 95 % intervals."""

    accuracy: np.ndarray  # Acc@0.5, 0 to 1: value, low, high
    gain: np.ndarray  # of it, over float32: the same
    rank_correlation: float  # Spearman's, of the heads' attention sums in a scene; mean over scenes


def speeds(folder: Path, repeats: int, size: str = "1/8") -> dict[str, Speed]:
    """By dtype."""
    write_checkpoint(folder, size)
    image = next(iter(samples(1, 0))).image.resize(SIZE, Image.Resampling.BICUBIC)
    models = {dtype: load_model(str(folder), device="cpu", dtype=dtype) for dtype in DTYPES}
    runs = {}
    for dtype, loaded in models.items():
        use_attention(loaded.model, "fused")
        for number in (1, len(EXPRESSIONS)):
            runs[dtype, number] = partial(ask, loaded, [prepare(loaded, image, EXPRESSIONS[:number])])
    operations = {dtype: ceiling.operations(runs[dtype, 1]) for dtype in DTYPES}  # every way has run once then
    rounds: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    rates: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for _ in progress(range(repeats), "measure"):
        for (dtype, number), run in runs.items():
            began = time.perf_counter()
            run().of(0)
            rounds[dtype, number].append((time.perf_counter() - began) / number)
        for dtype, loaded in models.items():
            rates[dtype].append(_ceiling(loaded))
    found = {}
    for dtype in DTYPES:
        took = {n: statistics.median(rounds[dtype, n]) for n in (1, len(EXPRESSIONS))}
        found[dtype] = Speed(took, operations[dtype] / took[1], statistics.median(rates[dtype]))
    return found


def _ceiling(loaded: LoadedModel) -> float:
    text = loaded.model.config.text_config
    tokens = loaded.geometry.tokens
    shapes = [(tokens, text.hidden_size, text.hidden_size), (tokens, text.hidden_size, text.intermediate_size)]
    return matmul_rate(loaded.device, loaded.dtype, shapes, 0.2)


def losses(scenes: int) -> dict[str, Loss]:
    """By dtype, of the shipped model, on drawn scenes."""
    base: Config = configuration([])
    heads = head_choice(base.logic, base.model).named or []
    right: dict[str, np.ndarray] = {}
    sums: dict[str, list[np.ndarray]] = {}
    for dtype in DTYPES:
        loaded = load_model(base.model.name, device="cpu", dtype=dtype)
        use_attention(loaded.model, "fused")
        scored = _collected(loaded, scenes, base.model, dtype)
        boxes = [localize(one.record, heads, base.logic).box_xyxy for one in scored]
        right[dtype] = np.array([one.box_iou(box) >= 0.5 for one, box in zip(scored, boxes, strict=True)], float)
        sums[dtype] = [score_heads(one.record, base.logic).attn_sum.ravel() for one in scored]
    return {dtype: _loss(right[dtype], right[EXACT], sums[dtype], sums[EXACT]) for dtype in DTYPES}


def _collected(loaded: LoadedModel, scenes: int, model: ModelConfig, dtype: str) -> list[Scored]:
    drawn = progress(samples(scenes, SEED), dtype, total=scenes)
    return [Scored(collect(loaded, one.image, one.expression.text, model), one.box_xyxy, "") for one in drawn]


def _loss(right: np.ndarray, exact: np.ndarray, sums: Sequence[np.ndarray], of: Sequence[np.ndarray]) -> Loss:
    both = np.stack([right, right - exact])
    accuracy, gain = np.stack(bootstrap(both, np.ones_like(both), np.arange(len(right))), axis=1)
    alike = np.mean([spearmanr(a, b).statistic for a, b in zip(sums, of, strict=True)])
    return Loss(accuracy, gain, float(alike))


def rows(speed: dict[str, Speed], loss: dict[str, Loss]) -> list[tuple[str, ...]]:
    """Lines of the table, one for each dtype."""
    lines: list[tuple[str, ...]] = []
    for dtype, one in speed.items():
        lost = loss[dtype]
        took = [f"{1000 * seconds:.0f}" for seconds in one.seconds.values()]
        rate, share = [f"{value / 1e9:.0f}" for value in (one.operations, one.ceiling)], one.operations / one.ceiling
        accuracy = "{:.1f} ({:.1f} to {:.1f})".format(*100 * lost.accuracy)
        gain = "{:+.1f} ({:+.1f} to {:+.1f})".format(*100 * lost.gain)
        lines.append((dtype, *took, *rate, f"{100 * share:.0f} %", accuracy, gain, f"{lost.rank_correlation:.4f}"))
    return lines
