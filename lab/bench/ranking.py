"""Ranking one record against literal loops, and the commands as a user starts them, from nothing to the end.

The loops are the rules that the tests hold the vectorised code to.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import analyze
import viz
from bbox import localize
from conf.schema import configuration
from lab.base.images import open_image
from lab.base.paths import PROJECT
from lab.bench import reference_rules
from lab.records.files import save_record
from lab.records.record import Record
from llava.grid import Grid

LAYERS, HEADS, SIDE = 32, 32, 24  # LLaVA-1.5-7B


def record() -> Record:
    """Attention like a real model's: most heads look at the image little, a fifth look at one to four places."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    maps = rng.gamma(0.3, 1.0, (LAYERS * HEADS, SIDE, SIDE))
    for index in rng.permutation(LAYERS * HEADS)[: LAYERS * HEADS // 5]:
        for row, col, width in zip(rng.uniform(2, 20, 4), rng.uniform(2, 22, 4), rng.uniform(1, 3, 4), strict=True):
            if rng.random() < 0.6:
                maps[index] += rng.uniform(20, 200) * np.exp(-((y - row) ** 2 + (x - col) ** 2) / (2 * width**2))
    maps *= (rng.beta(1, 4, LAYERS * HEADS) / maps.sum((1, 2)))[:, None, None]
    attn = maps.reshape(LAYERS, HEADS, 1, SIDE * SIDE).astype(np.float32)
    return Record(attn, {"image_size": [640, 480], "grids": [Grid.padded_square(SIDE, (640, 480)).to_dict()]})


def median_seconds(run: Callable[[], object], times: int) -> float:
    """The median of `times` runs, after one that is not counted."""
    run()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def command(*arguments: str) -> Callable[[], object]:
    """`python pipeline.py` with these arguments, as a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return lambda: subprocess.run(
        [sys.executable, "pipeline.py", *arguments], cwd=PROJECT, env=environment, check=True, capture_output=True
    )


def draw(sample: Record, path: Path) -> Callable[[], object]:
    """One figure of three heads over a picture, into a file."""
    logic = configuration(["model=llava15_7b"]).logic
    scores = analyze.rank_heads(sample, logic)[:3]
    heads = [(score.layer, score.head) for score in scores]
    maps, result = sample.maps[[s.layer for s in scores], [s.head for s in scores]], localize(sample, heads, logic)
    picture = open_image(PROJECT / "examples/images/bird.png")  # 640 x 480, as the record says
    return lambda: viz.save_figure(viz.top_heads_figure(picture, "the bird", maps, scores, result, sample.grid), path)


def measure() -> dict[str, float]:
    """Name of each measurement and its median in seconds."""
    logic = configuration(["model=llava15_7b"]).logic
    sample = record()
    tensor = sample.tensor()
    numbers = {
        "rank one [32, 32, 1, 576] record": median_seconds(lambda: analyze.rank_heads(sample, logic), 50),
        "the same by the literal rules, in loops": median_seconds(lambda: reference_rules.ranking(tensor), 3),
    }
    with tempfile.TemporaryDirectory() as folder:
        numbers["draw and save the figure of three heads"] = median_seconds(
            draw(sample, Path(folder) / "figure.png"), 10
        )
        path = Path(folder) / "record.pkl"
        save_record(path, sample)
        out = f"data.output_dir={folder}"
        numbers["python pipeline.py stage=analyze, one record, start-up included"] = median_seconds(
            command("stage=analyze", f"data.attention_file={path}", out), 3
        )
        numbers["python pipeline.py stage=pipeline (make demo after install)"] = median_seconds(
            command("stage=pipeline", out), 3
        )
    return numbers
