"""stage=select: the heads that are selected again and again over the samples of a folder."""

import csv
import io
import json
import logging
from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from analyze import Head
from conf.schema import Config, SelectConfig, Source, ThresholdOver, as_dict
from lab.base.console import table
from lab.base.errors import UserError
from lab.base.files import write_atomic
from lab.base.paths import find
from lab.datasets import read_samples
from lab.heads.choice import HeadChoice
from lab.heads.files import NAME
from lab.heads.reading import by_name, picks_of_analyses, picks_of_records
from lab.heads.selection import Picks, Selection, count_selections
from lab.records.folder import list_samples
from lab.stages import batch
from lab.stages.batch import refuse_two_sources
from lab.stages.common import check_results, make_results_folder, model_folder, print_written, records_folder
from lab.stages.results import remove_formats

log = logging.getLogger(__name__)


def run(config: Config, choice: HeadChoice) -> int:
    """Counts, writes the heads, the frequencies and their figure, and shows the best.

    Returns 1 if a sample could not be collected, or a record not be read.
    """
    failed, names = _collected(config, choice)
    folder = records_folder(config)
    listed = list_samples(folder)
    check_results(config, NAME, "selection_frequency.csv", figures=["selection_frequency"])
    source, files = chosen_files(folder, listed, names, config.logic.select)
    if source == Source.records:
        picks = picks_of_records(files, config.logic, config.data.workers)
    else:
        picks = picks_of_analyses(files, config.logic.select.top_n, list(islice(listed["records"].values(), 1)))
    if picks.unreadable:
        _check_number(len(picks.heads), f"what can be read in {folder}", config.logic.select)
    selection = count_selections(picks, config.logic.select, config.seed)
    target = make_results_folder(config)
    written = _write(target, picks, selection, source, config)
    print(selection_table(selection, max(10, config.logic.top_k)))
    print_written(written)
    print(f"\nuse them: logic.heads={target / NAME}")
    return 1 if failed or picks.unreadable else 0


def _collected(config: Config, choice: HeadChoice) -> tuple[bool, set[str] | None]:
    """With `data.process_all`: collects what the data file asks for.

    Whether a sample failed, and the names of those to be counted.
    """
    if not config.data.process_all:
        return False, None
    refuse_two_sources(config.data)
    if config.data.data_file is None:
        raise UserError("data.process_all=true, but no data file: set data.data_file=samples.jsonl")
    names = {sample.id for sample in read_samples(find(config.data.data_file))}
    _check_number(len(names), str(config.data.data_file), config.logic.select)
    if not batch.run(config, choice):
        return False, names
    errors = (model_folder(config) / "errors.jsonl").read_text().splitlines()
    return True, names - {json.loads(line)["id"] for line in errors}


def _check_number(found: int, where: str, config: SelectConfig) -> None:
    if config.samples is not None and config.samples > found:
        raise UserError(
            f"{where} has {found} samples, but logic.select.samples={config.samples}: "
            f"collect more, or set logic.select.samples={found} or null (all of them, once)"
        )


# which files


def chosen_files(
    folder: Path, listed: Mapping[str, Mapping[str, Path]], names: set[str] | None, config: SelectConfig
) -> tuple[Source, Collection[Path]]:
    """What to count, "records" or "analyses", and the files of it that belong to the samples `names` (None: to any).

    Raises UserError if there are none or fewer than `config.samples`.
    """
    source = config.source or (Source.records if listed["records"] else Source.analyses)
    there = listed[source]
    files = there.values() if names is None else [path for name, path in there.items() if name in names]
    if not files:
        what = "records or rankings" if config.source is None else f"{source} (logic.select.source)"
        raise UserError(
            f"no {what} in {folder}: set data.attention_dir, or make them with stage=batch or data.process_all=true"
        )
    if source == Source.analyses and config.threshold == ThresholdOver.dataset:
        raise UserError(
            f"logic.select.threshold=dataset needs records, but of {folder} only the rankings are read: "
            "set it to sample"
        )
    _check_number(len(files), str(folder), config)
    if source == Source.records and (alone := len(listed["analyses"].keys() - listed["records"].keys())):
        log.warning("%d rankings in %s have no record and are not counted", alone, folder)
    return source, files


# results


def _write(folder: Path, picks: Picks, selection: Selection, source: Source, config: Config) -> list[Path]:
    """The files of the stage; the heads last, so that they never stand beside older frequencies."""
    written = [folder / "selection_frequency.csv"]
    write_atomic(written[0], frequency_csv(selection))
    remove_formats(folder / "selection_frequency")
    model = picks.model or (config.model.name if config.data.attention_dir is None else None)
    if config.save_fig or config.show_plot:
        written += _draw(folder / f"selection_frequency.{config.save_format}", selection, model, config)
    heads = heads_json(picks, selection, source, model, config)
    write_atomic(folder / NAME, json.dumps(heads, indent=1))
    return [folder / NAME, *written]


def heads_json(picks: Picks, selection: Selection, source: Source, model: str | None, config: Config) -> dict[str, Any]:
    """The content of localization_heads.json.

    Every head ever selected, the most frequent first, and how they were counted.

    num_layers and num_heads are None where only rankings were read, which do not tell them.
    """
    layers, heads = picks.shape or (None, None)
    return {
        "model": model,
        "num_layers": layers,
        "num_heads": heads,
        "heads": [_row(selection, head) for head in selection.ranked() if selection.count[head]],
        "found": found_in_words(selection, config),
        "samples": selection.samples,
        "unreadable": by_name(picks.unreadable),
        "samples_with_fewer_heads": int(np.count_nonzero(picks.heads[:, -1, 0] < 0)),
        "top_n": config.logic.select.top_n,
        "trials": selection.trials,
        "samples_per_trial": selection.samples_per_trial,
        "seed": config.seed,
        "source": str(source),
        "config": as_dict(config),
    }


def found_in_words(selection: Selection, config: Config) -> str:
    """What was counted, how, and on what."""
    among = f"among the {config.logic.select.top_n} best of a sample most often"
    asked = config.data.data_file if config.data.process_all else records_folder(config)
    return f"{among}, over {selection.samples} samples of {asked}, without labels"


def _row(selection: Selection, head: Head) -> Mapping[str, Any]:
    return {
        "layer": head[0],
        "head": head[1],
        "frequency": round(float(selection.frequency[head]), 6),
        "frequency_std": round(float(selection.std[head]), 6),
        "count": int(selection.count[head]),
    }


def frequency_csv(selection: Selection) -> str:
    """`layer,head,count,frequency` of every head of the model, the most frequent first."""
    stream = io.StringIO()
    rows = csv.DictWriter(stream, ("layer", "head", "count", "frequency"), extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    rows.writerows(_row(selection, head) for head in selection.ranked())
    return stream.getvalue()


def selection_table(selection: Selection, best: int) -> str:
    """The most frequent heads, one per line."""
    several = selection.trials > 1  # one draw has no spread
    rows = [
        (
            i + 1,
            *head,
            selection.count[head],
            f"{100 * selection.frequency[head]:.1f}",
            *([f"{100 * selection.std[head]:.1f}"] if several else []),
        )
        for i, head in enumerate(selection.ranked()[:best])
        if selection.count[head]
    ]
    draws = f"in {selection.trials} draws of {selection.samples_per_trial}" if several else "among all of them"
    if not several and selection.samples_per_trial < selection.samples:
        draws = f"in one draw of {selection.samples_per_trial}"
    header = ("rank", "layer", "head", "count", "frequency, %", *(["± std, %"] if several else []))
    return f"{selection.samples} samples; frequency {draws}\n\n{table(header, rows)}"


def _draw(path: Path, selection: Selection, model: str | None, config: Config) -> list[Path]:
    import viz  # matplotlib, only where a figure is wanted

    among = f"heads among the {config.logic.select.top_n} best of a sample"
    title = f"{model or path.parent.name}: {among}, {selection.samples} samples"
    figure = viz.selection_figure(selection.frequency, selection.std, selection.ranked(), config.logic.top_k, title)
    if config.save_fig:
        viz.save_figure(figure, path)
    if config.show_plot:
        viz.show(figure)
    return [path] if config.save_fig else []
