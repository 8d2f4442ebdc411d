"""Prints how fast this machine collects and ranks, as a table and as JSON.

python -m lab.bench                                            # all but shards, processes and killed, in small
python -m lab.bench --size 7b --batch 1 8 auto --limit         # a GPU: LLaVA-1.5-7B's shapes, random weights
python -m lab.bench --size 1/8 --images 8 --json bench.json
"""

import argparse
import json
import logging
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from lab.base.arguments import Parser
from lab.base.console import exit_in_one_line, table
from lab.bench import ceiling, collecting, families, folders, lanes, precision, processes, ranking, refining, shards
from lab.bench.machine import describe
from lab.bench.options import count, count_or_auto, new_file
from lab.smoke import SIZES, write_checkpoint
from llava.checkpoint.weights import pick_device

RANKING, PICTUREBOOK, FOLDERS, REFINE = "ranking", "picturebook", "folders", "refine"
FAMILIES, PRECISION = "families", "precision"
SHARDS, PROCESSES, KILLED = "shards", "processes", "killed"
MILLION = 1_000_000


def main() -> None:
    options = _options()
    pick_device(options.device)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    report: dict[str, Any] = {}
    for size in options.size:
        if size == RANKING:
            report[size] = ranking.measure()
            print(table(("what", "median"), [(name, _seconds(s)) for name, s in report[size].items()]), end="\n\n")
            continue
        if size == REFINE:
            report[size] = bench_refining(options)
            continue
        with tempfile.TemporaryDirectory() as folder:
            own = {
                FOLDERS: bench_folders,
                SHARDS: bench_shards,
                PROCESSES: bench_processes,
                KILLED: bench_killed,
                FAMILIES: bench_families,
                PRECISION: bench_precision,
            }
            measure = own.get(size) or partial(bench, size)
            report[size] = measure(Path(folder), options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    print(describe(torch.device("cpu")))


def _options() -> argparse.Namespace:
    parser = Parser(prog="python -m lab.bench", description="How fast this machine collects and ranks.")
    choices = (RANKING, FOLDERS, SHARDS, PROCESSES, KILLED, FAMILIES, PRECISION, REFINE, PICTUREBOOK, *SIZES)
    parser.add_argument(
        "--size",
        nargs="+",
        choices=choices,
        default=["1/8", PICTUREBOOK, RANKING, REFINE, FOLDERS, FAMILIES, PRECISION],
        help="what is measured",
    )
    parser.add_argument("--images", type=count, help="images in each run (default: 4; on a GPU 128)")
    parser.add_argument("--samples", type=count, default=200, help="samples of the folders (default: 200)")
    parser.add_argument("--scenes", type=count, default=200, help="scenes for what half precision loses (default: 200)")
    batches = "images in one forward, or auto (default: 1 auto)"
    parser.add_argument("--batch", nargs="+", type=count_or_auto, default=[1, None], metavar="N", help=batches)
    parser.add_argument("--repeats", type=count, default=3, help="runs of which the median counts (default: 3)")
    parser.add_argument(
        "--limit", action="store_true", help="also measure the rate of matrix products, and the share that is reached"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="file for the numbers")
    return parser.parse_args()


def bench(size: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All cases on one model, printed and returned."""
    overrides = [f"data.output_dir={folder}", f"device={options.device}"]
    if size != PICTUREBOOK:
        write_checkpoint(folder / "model", size)
        overrides += ["model=llava15_7b_hf", f"model.name={folder / 'model'}"]
    number = options.images or (128 if options.device != "cpu" and torch.cuda.is_available() else 4)
    images = collecting.write_images(folder, number)
    with lanes.open_lanes(overrides) as ways:
        found = dict(lanes.measure(ways, collecting.cases(options.batch), images, folder, options.repeats))
        about = ways["fused"].run(ceiling.about)
        limit = ways["fused"].run(ceiling.limit, options.repeats, images[0]) if options.limit else {}
    print(f"{size}: {about['model']}")
    print(
        table(("way, images x expressions", "samples/s", "x stock", "peak, MB", "x stock", "RSS, MB"), _rows(found)),
        end="\n\n",
    )
    print(table(("ms per sample", *PARTS, "waited"), _part_rows(found)), end="\n\n")
    if limit:
        header = ("fused", *(f"{number} per image" for number in limit))
        print(table(header, _limit_rows(limit, found)), end="\n\n")
    return {**about, **{case.name: asdict(measured) for case, measured in found.items()}, "limit": limit}


def bench_folders(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The stages over many samples, and one sample of a large model, printed and returned."""
    found = dict(folders.stages(folder, options.samples))
    header = ("what", "seconds", "of processors", "main, MB", "all, MB")
    rows = [
        (name, f"{one.wall:.1f}", f"{one.cpu:.1f}", f"{one.own / 1e6:.0f}", f"{one.tree / 1e6:.0f}")
        for name, one in found.items()
    ]
    print(table(header, rows), end="\n\n", flush=True)
    large = folders.large(folder)
    print(table(("what", "of one processor"), [(name, _seconds(s)) for name, s in large.items()]), end="\n\n")
    return {name: asdict(one) for name, one in found.items()} | large


def bench_shards(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A folder of very many samples in shards, and what a million would take in proportion, printed and returned."""
    figures, found = shards.measure(folder, options.samples)
    more = MILLION / options.samples
    print(
        table((f"{options.samples:,} samples", "value"), [(name, f"{value:,.2f}") for name, value in figures.items()])
    )
    rows = [
        (
            name,
            f"{one.wall:.1f}",
            f"{one.cpu:.1f}",
            f"{one.own / 1e6:.0f}",
            f"{one.tree / 1e6:.0f}",
            f"{one.cpu * more / 60:.0f}",
        )
        for name, one in found.items()
    ]
    print(
        f"\n{table(('command', 'seconds', 'of processors', 'main, MB', 'all, MB', 'minutes for a million'), rows)}",
        end="\n\n",
    )
    return figures | {name: asdict(one) for name, one in found.items()}


def bench_processes(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One batch in several numbers of processes, printed and returned."""
    report: dict[str, Any] = {}
    for number, one in processes.runs(folder, processes.uneven(folder, options.samples)):
        row = (number, f"{one.wall:.0f}", f"{one.cpu:.0f}", f"{100 * one.idle:.1f}", "yes" if one.same else "no")
        header = ("processes", "seconds", "of processors", "idle, %", "the same files")
        print(table(header, [row]), end="\n\n", flush=True)
        report[str(number)] = asdict(one)
    return report


def bench_killed(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What killing one of two processes costs, printed and returned."""
    report: dict[str, Any] = {}
    for name, one in processes.killed(folder, processes.uneven(folder, options.samples), options.samples):
        header = ("one is killed", "records there then", "asked again", "seconds")
        print(table(header, [(name, one.there, one.again, f"{one.seconds:.0f}")]), end="\n\n", flush=True)
        report[name] = asdict(one)
    return report


def bench_refining(options: argparse.Namespace) -> dict[str, Any]:
    """Sharp masks by the SAM in miniature, and whether embeddings should be kept, printed and returned."""
    found = refining.measure(device=options.device)
    print(table(("SAM in miniature", "median"), [(what, f"{value:.3g}") for what, value in found.items()]), end="\n\n")
    kept = {"miniature": refining.keeping(refining.miniature()), "ViT-B": refining.keeping(refining.vit_b(), times=1)}
    rows = [(name, *(f"{value:.3g}" for value in one.values())) for name, one in kept.items()]
    print(table(("on the CPU, a picture", *kept["ViT-B"]), rows), end="\n\n")
    return {**found, "keeping": kept}


def bench_families(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Families of three kinds, printed and returned."""
    report: dict[str, Any] = {}
    for number, (name, kind) in enumerate(families.KINDS.items()):
        tokens, found = families.measure(folder / str(number), kind, options.repeats)
        print(f"{name}: {tokens} image tokens")
        header = ("way, expressions", "ms each", "x stock", "peak, MB", "of stock")
        print(table(header, families.rows(found)), end="\n\n", flush=True)
        report[name] = {"tokens": tokens, **{way: asdict(one) for way, one in found.items()}}
    return report


def bench_precision(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Half precision against float32, printed and returned."""
    speed, loss = precision.speeds(folder, options.repeats), precision.losses(options.scenes)
    speed_header = ("ms, 1", "each of 7", "10^9/s", "plain", "share", "products alone")
    header = ("dtype", *speed_header, "Acc@.5, %", "less float32's", "rho")
    rows = precision.rows(speed, loss)
    for columns in (slice(1, 7), slice(7, None)):  # how fast, how right: a line each would be too long for a terminal
        print(table((header[0], *header[columns]), [(row[0], *row[columns]) for row in rows]), end="\n\n")
    return {
        dtype: {
            **{str(number): asdict(one) for number, one in speed[dtype].items()},
            "accuracy": loss[dtype].accuracy.tolist(),
            "gain": loss[dtype].gain.tolist(),
            "rank_correlation": loss[dtype].rank_correlation,
        }
        for dtype in speed
    }


PARTS = ("decode", "tower", "LM", "capture", "copy", "analyze", "mask", "write")


def _rows(found: dict[collecting.Case, collecting.Measured]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for case, one in found.items():
        base = found[collecting.Case("stock", 1, case.expressions)]
        speed, memory = one.samples_per_second / base.samples_per_second, one.peak_bytes / base.peak_bytes
        peak, resident = (f"{number / 1e6:.0f}" for number in (one.peak_bytes, one.resident_bytes))
        rows.append((case.name, f"{one.samples_per_second:.2f}", f"{speed:.2f}", peak, f"{memory:.3f}", resident))
    return rows


def _limit_rows(
    limit: dict[int, dict[str, float]], found: dict[collecting.Case, collecting.Measured]
) -> list[tuple[object, ...]]:
    """A line for each figure, a column for each number of expressions."""

    def line(name: str, key: str, form: str, factor: float = 1.0) -> tuple[object, ...]:
        return name, *(form.format(factor * one[key]) for one in limit.values())

    def beside_stock(key: str) -> tuple[object, ...]:
        stock = [found[collecting.Case("stock", 1, number)].samples_per_second for number in limit]
        return "  x stock", *(f"{one[key] / by:.2f}" for one, by in zip(limit.values(), stock, strict=True))

    return [
        line("10^9 operations/s in a forward", "rate", "{:.0f}", 1e-9),
        line("in plain products", "plain", "{:.0f}", 1e-9),
        line("share, %", "share", "{:.0f}", 100),
        line("of its time, its own products by themselves, %", "alone", "{:.0f}", 100),
        line(f"{ceiling.AT_MOST}, as plain products", ceiling.AT_MOST, "{:.2f}"),
        beside_stock(ceiling.AT_MOST),
        line(f"{ceiling.BY_PRODUCTS} alone", ceiling.BY_PRODUCTS, "{:.2f}"),
        beside_stock(ceiling.BY_PRODUCTS),
    ]


def _part_rows(found: dict[collecting.Case, collecting.Measured]) -> list[tuple[object, ...]]:
    return [
        (case.name, *(f"{1000 * one.seconds.get(part, 0):.1f}" for part in (*PARTS, "waited")))
        for case, one in found.items()
    ]


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    with exit_in_one_line():
        main()
