"""Prints how fast this machine collects and ranks, as a table and as JSON.

python -m lab.bench                           # ranking and commands, then collecting at sizes picturebook and 1/8
python -m lab.bench --size 7b --limit         # a GPU: LLaVA-1.5-7B's shapes, random weights; also the share of its matmul rate
python -m lab.bench --size 1/8 --images 8 --json bench.json
"""

import argparse
import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from collector import ask, prepare
from lab.attention import use_attention
from lab.bench import collecting, ranking
from lab.bench.machine import describe, matmul_rate
from lab.cli import exit_in_one_line, progress, table
from lab.images import open_image
from lab.picturebook.evaluate import configuration
from lab.smoke import SIZES, write_checkpoint
from lab.stages import load_model
from llava.model.loaded import LoadedModel

RANKING, PICTUREBOOK = "ranking", "picturebook"


def main() -> None:
    options = _options()
    report: dict[str, Any] = {}
    for size in options.size:
        if size == RANKING:
            report[size] = ranking.measure()
            print(table(("what", "median"), [(name, _seconds(s)) for name, s in report[size].items()]), end="\n\n")
            continue
        with tempfile.TemporaryDirectory() as folder:
            report[size] = bench(size, Path(folder), options)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    print(describe(torch.device("cpu")))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.bench", description="How fast this machine collects and ranks.")
    choices = (RANKING, PICTUREBOOK, *SIZES)
    parser.add_argument("--size", nargs="+", choices=choices, default=["1/8", PICTUREBOOK, RANKING], help="what is measured")
    parser.add_argument("--images", type=int, default=4, help="images in each run (default: 4)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median counts (default: 3)")
    parser.add_argument("--limit", action="store_true", help="also measure the rate of matrix products, and the share that is reached")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", help="file for the numbers")
    return parser.parse_args()


def bench(size: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All cases on one model, printed and returned."""
    cfg = _configuration(size, folder, options.device)
    loaded = load_model(cfg)
    images = collecting.write_images(folder, options.images)
    found = {}
    for case in progress(collecting.cases(), size):
        found[case] = collecting.measure(case, loaded, cfg, images, folder, options.repeats)
    print(f"{size}: {loaded.num_layers} layers x {loaded.num_heads} heads, {loaded.geometry.tokens} image tokens, {_dtype(loaded)}")
    print(table(("way", "samples/s", "x stock", "peak, MB", "x stock"), _rows(found)), end="\n\n")
    print(table(("ms per sample", *PARTS), _part_rows(found)), end="\n\n")
    result: dict[str, Any] = {case.name: asdict(measured) for case, measured in found.items()}
    if options.limit:
        result["limit"] = limit(loaded, found, images)
        print(", ".join(f"{name}: {value:.3g}" for name, value in result["limit"].items()), end="\n\n")
    return {"device": describe(loaded.device), "dtype": _dtype(loaded), **result}


def _configuration(size: str, folder: Path, device: str) -> Any:
    paths = [f"data.output_dir={folder}", f"device={device}"]
    if size == PICTUREBOOK:
        return configuration(paths)
    write_checkpoint(folder / "model", size)
    return configuration(["model=llava15_7b_hf", f"model.name={folder / 'model'}", *paths])


def _dtype(loaded: LoadedModel) -> str:
    return str(loaded.dtype).removeprefix("torch.")


PARTS = ("decode", "tower", "language model", "capture", "copy", "analyze", "write")


def _rows(found: dict[collecting.Case, collecting.Measured]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for case, one in found.items():
        base = found[collecting.Case("stock", 1, case.expressions)]
        speed, memory = one.samples_per_second / base.samples_per_second, one.peak_bytes / base.peak_bytes
        rows.append((case.name, f"{one.samples_per_second:.2f}", f"{speed:.2f}", f"{one.peak_bytes / 1e6:.0f}", f"{memory:.3f}"))
    return rows


def _part_rows(found: dict[collecting.Case, collecting.Measured]) -> list[tuple[object, ...]]:
    return [(case.name, *(f"{1000 * one.seconds.get(part, 0):.1f}" for part in PARTS)) for case, one in found.items() if one.seconds]


def limit(loaded: LoadedModel, found: dict[collecting.Case, collecting.Measured], images: list[Path]) -> dict[str, float]:
    """The rate of plain matrix products in the model's own shapes, and what share of it the forwards of fused attention reach."""
    use_attention(loaded.model, "fused")
    question = prepare(loaded, open_image(images[0]), collecting.EXPRESSIONS[:1])
    with FlopCounterMode(display=False) as counter:
        ask(loaded, [question])
    text = loaded.model.config.text_config
    tokens = 8 * len(question.prompts[0].ids)
    shapes = [(tokens, text.hidden_size, text.hidden_size), (tokens, text.hidden_size, text.intermediate_size)]
    rate = matmul_rate(loaded.device, loaded.dtype, shapes)
    one = found[collecting.Case("fused", None, 1)]
    forward = one.seconds["tower"] + one.seconds["language model"] + one.seconds["capture"]
    per_second = counter.get_total_flops() / forward
    return {"matmul operations per second": rate, "in a forward": per_second, "share": per_second / rate}


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    with exit_in_one_line():
        main()
