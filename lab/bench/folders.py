"""What it takes to evaluate, study and report many samples, and to measure one sample of a large model.

The records are those of the shipped model over a few drawn scenes, under as many names as samples are wanted.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from conf.schema import configuration
from lab.base.paths import PROJECT
from lab.bench import ranking
from lab.bench.usage import Usage, usage
from lab.datasets import Sample
from lab.heads.choice import head_choice
from lab.measure.controls import KNOWN, Rows, Setting, chosen
from lab.measure.samples import Job, Rules, see, see_again
from lab.picturebook.make import make
from lab.records.files import save_record

SCENES = 40  # that are drawn and collected
STAGES = {  # and what is set
    "evaluate": (), "evaluate, boxes of whole cells": ("logic=cells",), "study": (), "report": (),
}  # fmt: skip
PRESETS = ("best", "cells", "paper", "selection_v1")
LARGE = "evaluate one of 32 x 32 heads, 24 x 24 cells"
TIMES = 10
HEADS: tuple[tuple[int, int], ...] = ((14, 24), (14, 13), (14, 26))  # LLaVA-1.5-7B's


def stages(folder: Path, number: int) -> Iterator[tuple[str, Usage]]:
    """Each stage as a command over so many samples, start-up included."""
    data, records = _samples(folder, number)
    paths = (f"data.data_file={data}", f"data.attention_dir={records}", f"data.output_dir={folder / 'out'}")
    for name, more in STAGES.items():
        stage = f"stage={name.partition(',')[0]}"
        command = [sys.executable, "pipeline.py", stage, *more, *paths, f"report.max_samples={number}"]
        yield f"{name}, {number} samples", usage(command, cwd=str(PROJECT))


def _samples(folder: Path, number: int) -> tuple[Path, Path]:
    """A data file, and the folder of its records."""
    scenes, drawn = make(folder / "scenes", SCENES, 40), folder / "drawn"
    outputs = (f"data.data_file={scenes}", f"data.output_dir={drawn}", "data.save_masks=false")
    usage([sys.executable, "pipeline.py", "stage=batch", *outputs], cwd=str(PROJECT))
    (collected,) = (path for path in drawn.iterdir() if path.is_dir())
    rows, lines, records = [json.loads(line) for line in scenes.read_text().splitlines()], [], folder / "records"
    records.mkdir()
    for i in range(number):
        row = rows[i % len(rows)]
        name = f"{row['id']}_{i}"
        os.link(collected / f"{row['id']}.pkl", records / f"{name}.pkl")
        lines.append(json.dumps(row | {"id": name}) + "\n")
    target = scenes.with_name("many.jsonl")
    target.write_text("".join(lines))
    return target, records


def large(folder: Path) -> dict[str, float]:
    """Seconds of the processor for one sample of LLaVA-1.5-7B's size, in every row, by each preset."""
    record = ranking.record()
    save_record(folder / "large.pkl", record)
    width, height = record.image_size or (1, 1)
    sample = Sample("large", "", folder / "large.png", (0.3 * width, 0.2 * height, 0.7 * width, 0.6 * height))
    return {f"{LARGE}, {name}": _seconds(Job(sample, folder / "large.pkl"), name) for name in PRESETS}


def _seconds(job: Job, preset: str) -> float:
    config = configuration(["model=llava15_7b", f"logic={preset}", f"logic.heads={[list(head) for head in HEADS]}"])
    shape = (ranking.LAYERS, ranking.HEADS)
    on = Setting(shape, config.logic, head_choice(config.logic, config.model).fixed(shape), config.evaluate.draws)
    controls = [KNOWN[name] for name in config.evaluate.controls if name in KNOWN]
    rows = chosen(on) | {name: heads for control in controls for name, heads in control(on).items()}
    late: Rows = {f"late {i}": HEADS for i in range(4)}
    rules = Rules(config.logic, inclusive=False, oracle=True)
    see(job, rows, rules)
    began = time.process_time()
    for _ in range(TIMES):
        see(job, rows, rules)
        see_again(job, late, rules)
    return (time.process_time() - began) / TIMES
