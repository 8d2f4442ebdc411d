"""Prints how fast one GPU asks a model of a real shape, as a table and as JSON, in so many seconds.

python -m lab.bench.gpu                              # LLaVA-1.5-7B's shape, then Qwen2.5-VL-7B's, seven minutes
python -m lab.bench.gpu --shape llava15-1/8 --seconds 60 --device cpu --json gpu.json
"""

import argparse
import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from conf.schema import configuration
from lab.base.arguments import Parser
from lab.base.console import exit_in_one_line, table
from lab.base.errors import UserError
from lab.bench import collecting
from lab.bench.gpu.shapes import SHAPES, build
from lab.bench.gpu.ways import WAYS, Budget, Forward, ceiling, forwards, to_files
from lab.bench.machine import describe
from lab.bench.options import new_file, seconds

FOR_FILES = 0.3  # of the budget
PICTURES = {"cuda": 128, "cpu": 2}


def main() -> None:
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no GPU here: --device cpu tries the script, with --shape llava15-1/8")
    report = {}
    for shape in options.shape:
        with tempfile.TemporaryDirectory() as folder:
            each = options.seconds / len(options.shape)
            report[shape] = bench(shape, torch.device(options.device), each, Path(folder))
            print()
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = Parser(prog="python -m lab.bench.gpu", description="How fast one GPU asks a model.")
    large = ["llava15-7b", "qwen2.5-vl-7b"]
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=large, help="of the models; weights are random")
    parser.add_argument("--seconds", type=seconds, default=420, help="after which nothing new is begun (default: 420)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="file for the numbers")
    return parser.parse_args()


def bench(shape: str, device: torch.device, seconds: float, folder: Path) -> dict[str, Any]:
    """Everything that fits into so many seconds, printed and returned."""
    all_of_it, part = Budget(seconds), Budget((1 - FOR_FILES) * seconds)
    loaded = build(SHAPES[shape], device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    rate = ceiling(loaded)
    dtype = str(loaded.dtype).removeprefix("torch.")
    images = collecting.write_images(folder, PICTURES[device.type])
    found = sorted(forwards(loaded, images[0], part), key=lambda one: (one.expressions, WAYS.index(one.way)))
    rate = max(rate, ceiling(loaded))  # what else runs on the machine slows either
    print(f"{describe(device)}\n{shape}, {dtype}, random weights; matrix products: {rate / 1e12:.3g} TFLOP/s\n")
    print(table(("way", "expressions", "pictures", "samples/s", "peak, MB", "of the ceiling, %"), _rows(found, rate)))
    config = configuration([f"data.output_dir={folder}", "logic.heads=null"])
    speeds = [one.samples_per_second for one in found if one.expressions == 1 and one.way != "stock"]
    least = len(images) / max(speeds) if speeds else 0.0
    files = {case.name: speed for case, speed in to_files(loaded, config, images, folder, all_of_it, least=least)}
    print(f"\n{table(('to records on disk, way, images x expressions', 'samples/s'), _speeds(files))}")
    if part.short or all_of_it.short:
        print(f"\nwhat is not in the tables was not begun: {seconds:g} seconds would not have sufficed")
    return {
        "device": describe(device),
        "shape": shape,
        "matmul operations per second": rate,
        "forwards": [asdict(one) | {"share": one.operations_per_second / rate} for one in found],
        "to files": files,
    }


def _rows(found: list[Forward], rate: float) -> list[tuple[object, ...]]:
    return [
        (
            one.way,
            one.expressions,
            one.pictures,
            f"{one.samples_per_second:.2f}",
            "-" if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.0f}",
            f"{100 * one.operations_per_second / rate:.1f}",
        )
        for one in found
    ]


def _speeds(files: dict[str, float]) -> list[tuple[object, ...]]:
    return [(name, f"{speed:.2f}") for name, speed in files.items()]


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    with exit_in_one_line():
        main()
