"""What half precision gains on this processor, and what it loses.

    python -m lab.bench --size precision --repeats 9 --scenes 1000

Speed is that of fused attention on a LLaVA of an eighth of the size with random weights, from a prepared picture to
its rows, against the two ceilings of `lab.bench.ceiling`. All dtypes take turns in one process. Loss is measured on
the shipped model and drawn scenes: Acc@0.5 of its three heads, each scene compared with itself in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from analyze import score_heads
from bbox import localize
from collector import collect
from conf.schema import Config, ModelConfig, configuration
from lab.attention.capture import use_attention
from lab.base.console import progress
from lab.bench.ceiling import Forward, Reached, measure
from lab.bench.collecting import EXPRESSIONS, SIZE
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
class Loss:
    """One dtype against float32, with 95 % intervals."""

    accuracy: np.ndarray  # Acc@0.5, 0 to 1: value, low, high
    gain: np.ndarray  # of it, over float32: the same
    rank_correlation: float  # Spearman's, of the heads' attention sums in a scene; mean over scenes


def speeds(folder: Path, repeats: int, size: str = "1/8") -> dict[str, dict[int, Reached]]:
    """By dtype, and by how many expressions there are about the picture."""
    write_checkpoint(folder, size)
    image = next(iter(samples(1, 0))).image.resize(SIZE, Image.Resampling.BICUBIC)
    models = {dtype: load_model(str(folder), device="cpu", dtype=dtype) for dtype in DTYPES}
    forwards = {
        (dtype, number): Forward.of(loaded, image, EXPRESSIONS[:number])
        for dtype, loaded in models.items()
        for number in (1, len(EXPRESSIONS))
    }
    reached = dict(zip(forwards, measure(list(forwards.values()), repeats), strict=True))
    return {dtype: {number: one for (of, number), one in reached.items() if of == dtype} for dtype in DTYPES}


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


def rows(speed: dict[str, dict[int, Reached]], loss: dict[str, Loss]) -> list[tuple[str, ...]]:
    """Lines of the table, one for each dtype."""
    lines: list[tuple[str, ...]] = []
    for dtype, by_number in speed.items():
        lost, one = loss[dtype], by_number[1]
        took = [f"{1000 * reached.seconds / number:.0f}" for number, reached in by_number.items()]
        rates = [f"{value / 1e9:.0f}" for value in (one.rate, one.plain)]
        shares = [f"{100 * value:.0f} %" for value in (one.share, one.alone)]
        accuracy = "{:.1f} ({:.1f} to {:.1f})".format(*100 * lost.accuracy)
        gain = "{:+.1f} ({:+.1f} to {:+.1f})".format(*100 * lost.gain)
        lines.append((dtype, *took, *rates, *shares, accuracy, gain, f"{lost.rank_correlation:.4f}"))
    return lines
