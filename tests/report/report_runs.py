"""Runs to report on: a few scenes collected by the shipped model, copied under as many ids as a test wants."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from collector import collect
from lab.base.images import open_image
from lab.datasets import Sample, read_jsonl
from lab.picturebook.make import make
from lab.records.files import save_record
from lab.records.record import Record
from lab.stages.results import write_ranking
from tests.conftest import configuration

SCRIPT = "<script>alert(1)</script>"
ARABIC = "القطة الصغيرة على اليسار"
LONG = "the dog " + "that is very, very far away and " * 60 + "red"
MODEL = "examples-models-picturebook"


@dataclass(frozen=True)
class Scenes:
    """Collected scenes: the samples with their truth, and their records."""

    samples: list[Sample]
    records: list[Record]


def collect_scenes(folder: Path, picturebook, n: int = 6) -> Scenes:
    samples = read_jsonl(make(folder, n, 3))
    config = configuration().model
    records = [
        collect(picturebook, open_image(s.image_file), s.query, config, image_file=str(s.image_file)) for s in samples
    ]
    return Scenes(samples, records)


def write_run(out: Path, scenes: Scenes, n: int) -> tuple[Path, Path]:
    """A run of `n` samples s0000, s0001, ..., each a copy of a scene: the data file and the folder of records.

    The first samples are awkward: hostile, right-to-left and endless expressions, a picture that is gone.
    """
    folder = out / MODEL
    folder.mkdir(parents=True)
    rows = []
    for i in range(n):
        sample, record = scenes.samples[i % len(scenes.samples)], scenes.records[i % len(scenes.records)]
        query = {0: SCRIPT, 1: ARABIC, 2: LONG}.get(i, f"{sample.query} number {i}")
        picture = str(out / "gone.png") if i == 3 else str(sample.image_file)
        save_record(
            folder / f"s{i:04d}.pkl", replace(record, meta={**record.meta, "query": query, "image_file": picture})
        )
        x0, y0, x1, y1 = sample.box_xyxy
        rows.append({"id": f"s{i:04d}", "prompt": query, "image_path": picture, "bbox": [x0, y0, x1 - x0, y1 - y0]})
        if i != 3:
            rows[-1]["mask_path"] = str(sample.mask_source)
    data = out / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data, folder


def spoil(data: Path, folder: Path) -> None:
    """Leaves s0004 only its ranking, damages s0005, makes s0006 a failure; s0007 was never collected."""
    from analyze import rank_heads
    from lab.records.files import load_record

    write_ranking(folder / "s0004.pkl", rank_heads(load_record(folder / "s0004.pkl"), configuration().logic))
    for name in ("s0004", "s0006", "s0007"):
        (folder / f"{name}.pkl").unlink()
    (folder / "s0005.pkl").write_bytes((folder / "s0005.pkl").read_bytes()[:1000])
    (folder / "errors.jsonl").write_text(
        json.dumps({"id": "s0006", "line": 7, "error": "No such image: <b>x</b>.png"}) + "\n"
    )
    summary = {"data_file": str(data), "model": "m", "samples": 8, "done": 7, "skipped": 2, "failed": 1, "seconds": 2.0}
    (folder / "summary.json").write_text(json.dumps(summary))
