"""stage=evaluate: how good the boxes and masks are, and whether it is these heads that make them good.

Records are read in worker processes, of which only numbers come back: memory does not grow with their size.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from conf.schema import BoxConvention, Config, DataConfig, LogicConfig, Ties, as_dict
from lab.base.console import markdown, table
from lab.base.errors import UserError
from lab.base.files import write_atomic, write_parts
from lab.base.paths import find
from lab.datasets import Sample, need_truth, read_jsonl
from lab.heads.choice import HeadChoice
from lab.heads.reading import by_name
from lab.measure.absent import WithoutTarget, without_target
from lab.measure.coco import CATEGORY
from lab.measure.controls import Setting, check_controls, is_draw, merge_draws
from lab.measure.intervals import Estimate, metric_names, summarize
from lab.measure.metrics import misses
from lab.measure.overview import Overview, rank_correlation, record_files, shape_of
from lab.measure.samples import LINES, Measured, Rules, measure
from lab.measure.spreadsheet import HEADER
from lab.stages.batch import collect_first
from lab.stages.common import check_results, make_results_folder, print_written, records_folder
from lab.stages.refining import refiner_of
from lab.stages.results import remove_formats
from lab.stages.sharp_table import SharpTable

FILES = ("metrics.json", "metrics.md", "samples.csv", "predictions.coco.json", "truth.coco.json")
COLUMNS = metric_names()
SHORT = [name.replace("@0.", "@.").replace("pointing", "point") for name in COLUMNS]  # on screen


def run(config: Config, choice: HeadChoice) -> int:
    """Measures the records of a data file's samples, prints the table, writes metrics and predictions.

    Returns 1 if a sample could not be collected, or a record not be read.
    """
    check_controls(config.evaluate.controls)
    samples, refiner = samples_with_truth(config.data), refiner_of(config)
    failed = collect_first(config, choice)
    files = record_files(records_folder(config), samples)
    check_results(config, *FILES, figures=["head_iou"])
    shape = shape_of(files.values(), choice)
    rng = np.random.default_rng(config.seed)
    setting = Setting(shape, config.logic, choice.fixed(shape), config.evaluate.draws, rng)
    rules = Rules(config.logic, config.metrics.box == BoxConvention.inclusive, "oracle" in config.evaluate.controls)
    with ExitStack() as stack:
        lines = {name: stack.enter_context(tempfile.TemporaryFile()) for name in LINES}
        found = measure(samples, files, config.evaluate.controls, setting, rules, lines, config.data.workers)
        rows = estimates(found, config.evaluate.resamples, config.seed)
        beside = without_target(found.told, resamples=config.evaluate.resamples, seed=config.seed)
        sharp = SharpTable.of(refiner, config, choice, samples, files)
        written = _write(make_results_folder(config), config, choice, found, rows, beside, lines, sharp)
    print(table(("heads", *SHORT), [(name, *_cells(estimates)) for name, estimates in rows.items()]))
    if beside.figures:
        print("".join(f"\n{part}\n" for part in beside.tables()))
    print(f"\n{ties_in_words(found.view, config.logic)}")
    if sharp is not None:
        print(f"\n{sharp.on_screen()}")
    if missed := misses(found.chosen):
        count = f"{len(missed)} of {len(found.chosen)} samples"
        print(f"\n{count} have no usable prediction and count as misses (metrics.json lists them)")
    print_written(written)
    return 1 if failed or found.view.unreadable else 0


def estimates(found: Measured, resamples: int, seed: int) -> dict[str, list[Estimate]]:
    """The figures of each row; the sets of random heads as one row, whose interval needs none of each set's own."""
    rows = {}
    for name, columns in found.rows.items():
        drawn = 0 if is_draw(name) else resamples
        rows[name] = summarize(found.chosen, others=columns, resamples=drawn, seed=seed)
    return merge_draws(rows)


def samples_with_truth(data: DataConfig) -> list[Sample]:
    """The data file's samples. Raises UserError, naming the keys, unless each has a box or a mask, or no target."""
    if data.data_file is None:
        raise UserError("no data file with the truth: set data.data_file=samples.jsonl")
    samples = read_jsonl(find(data.data_file))
    need_truth(samples, data.data_file)
    return samples


def ties_in_words(view: Overview, logic: LogicConfig) -> str:
    """In how many samples entropy does not decide which heads are the best, and what does."""
    by = "the larger sum" if logic.ties == Ties.sum else "the lower layer and number"
    share = f"{100 * view.tied / view.samples:.1f} % of {view.samples} samples"
    return f"heads {logic.top_k} and {logic.top_k + 1} tie in entropy in {share}: {by} decides"


# results


def _cells(estimates: Sequence[Estimate], *, group: str = "all", interval: bool = False) -> list[str]:
    values = {one.metric: one for one in estimates if one.group == group}
    cells = []
    for name in COLUMNS:
        one = values.get(name)
        text = "" if one is None else f"{100 * one.value:.1f}"
        cells.append(f"{text} ({100 * one.low:.1f} to {100 * one.high:.1f})" if one and interval else text)
    return cells


def _write(
    folder: Path,
    config: Config,
    choice: HeadChoice,
    found: Measured,
    rows: dict[str, list[Estimate]],
    beside: WithoutTarget,
    lines: Mapping[str, IO[bytes]],
    sharp: SharpTable | None = None,
) -> list[Path]:
    """FILES and, unless save_fig=false, the map of each head's own boxes."""
    view = found.view
    rho, selected_heads = rank_correlation(view)
    mean_iou = view.head_iou / view.samples
    content = {
        "data_file": config.data.data_file,
        "model": config.model.name,
        "metrics": {name: [asdict(one) for one in estimates] for name, estimates in rows.items()},
        "without_target": beside.to_json() if beside.figures else None,
        "misses": dict(misses(found.chosen)),
        "ties_at_cut": view.tied / view.samples,
        "unreadable": by_name(view.unreadable),
        "head_mean_iou": None if np.isnan(mean_iou).any() else mean_iou.round(4).tolist(),
        "selection_counts": view.selected.astype(int).tolist(),
        "spearman_selection_iou": {"rho": rho, "heads": selected_heads},
        "config": as_dict(config),
    }
    text = report(rows, view, config.logic, beside)
    if sharp is not None:
        content |= sharp.to_json()
        text += f"\n{sharp.markdown()}\n"
    write_atomic(folder / "metrics.json", json.dumps(content, indent=1))
    write_atomic(folder / "metrics.md", text)
    write_parts(folder / "samples.csv", chain([HEADER], _lines(lines["table"])))
    write_parts(folder / "predictions.coco.json", _json_list(lines["predictions"]))
    write_parts(folder / "truth.coco.json", _data_set(lines["images"], lines["annotations"]))
    written = [folder / name for name in FILES]
    remove_formats(folder / "head_iou")
    if config.save_fig and not np.isnan(mean_iou).any():
        import viz

        written.append(folder / f"head_iou.{config.save_format}")
        chosen = choice.fixed(view.shape) or ()
        viz.save_figure(viz.head_quality_figure(mean_iou, view.selected / view.samples, rho, chosen), written[-1])
    return written


def _data_set(images: IO[bytes], annotations: IO[bytes]) -> Iterator[bytes]:
    """A data set of COCO."""
    yield b'{"info": {}, "categories": ' + json.dumps([CATEGORY]).encode() + b', "images": '
    yield from _json_list(images)
    yield b', "annotations": '
    yield from _json_list(annotations)
    yield b"}"


def _lines(file: IO[bytes]) -> IO[bytes]:
    """The file, to be read from its beginning."""
    file.seek(0)
    return file


def _json_list(lines: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file as json.dumps writes a list of them."""
    yield b"["
    for i, line in enumerate(_lines(lines)):
        yield (b", " if i else b"") + line.rstrip(b"\n")
    yield b"]"


def report(rows: dict[str, list[Estimate]], view: Overview, logic: LogicConfig, beside: WithoutTarget) -> str:
    """The tables as Markdown: every row with its intervals, then the chosen heads by split and size of object, then
    beside samples without target, if there are any.
    """
    chosen = rows["chosen"]
    groups = {one.group: max(e.n for e in chosen if e.group == one.group) for one in chosen}
    rho, heads = rank_correlation(view)
    notes = (
        "In %; behind the figures 95 % bootstrap intervals, drawn by picture (of random heads: the range of 95 % of "
    )
    notes += f"the sets). {view.samples} records. {ties_in_words(view, logic).capitalize()}."
    if rho is not None:
        notes += " Spearman's rho between how often a head is selected and the mean IoU of its own boxes: "
        notes += f"{rho:.2f} over {heads} heads."
    parts = [
        markdown(("heads", *COLUMNS), [(name, *_cells(estimates, interval=True)) for name, estimates in rows.items()]),
        markdown(
            ("chosen heads on", "samples", *COLUMNS), [(g, n, *_cells(chosen, group=g)) for g, n in groups.items()]
        ),
        *beside.tables(markdown, interval=True),
        notes,
    ]
    return "\n\n".join(parts) + "\n"
