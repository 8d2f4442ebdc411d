"""stage=select: the heads that are selected again and again over the samples of a folder."""

import csv
import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from analyze import Head
from conf.schema import Config, SelectConfig
from lab.base.console import table
from lab.base.errors import UserError
from lab.base.files import write_atomic
from lab.base.paths import find
from lab.heads.files import NAME
from lab.heads.reading import picks_of_analyses, picks_of_records
from lab.heads.selection import Picks, Selection, count_selections
from lab.records.folder import list_samples
from lab.stages.batch import read_samples, run_batch
from lab.stages.common import model_folder, print_written

log = logging.getLogger(__name__)


def run_select(cfg: Config) -> int:
    """Counts, writes the heads, the frequencies and their figure, and shows the best.

    Returns 1 if a sample could not be collected.
    """
    failed, names = _collected(cfg)
    folder = find(cfg.data.attention_dir) if cfg.data.attention_dir is not None else model_folder(cfg)
    listed = list_samples(folder)
    source, files = chosen_files(folder, listed, names, cfg.logic.select)
    if source == "records":
        picks = picks_of_records(files, cfg)
    else:
        picks = picks_of_analyses(files, cfg.logic.select.top_n, list(listed["records"].values())[:1])
    selection = count_selections(picks, cfg.logic.select, cfg.seed)
    written = _write(folder, picks, selection, source, cfg)
    print(selection_table(selection, max(10, cfg.logic.top_k)))
    print_written(written)
    print(f"\nuse them: logic.heads={folder / NAME}")
    return 1 if failed else 0


def _collected(cfg: Config) -> tuple[bool, set[str] | None]:
    """With `data.process_all`: collects what the data file asks for.

    Whether a sample failed, and the names of those to be counted.
    """
    if not cfg.data.process_all:
        return False, None
    if cfg.data.attention_dir is not None:
        raise UserError(
            "data.attention_dir names a folder to read, data.process_all=true a data file to collect: give one of the two"
        )
    if cfg.data.data_file is None:
        raise UserError("data.process_all=true, but no data file: set data.data_file=samples.jsonl")
    names = {sample.id for sample in read_samples(find(cfg.data.data_file))}
    _check_number(len(names), str(cfg.data.data_file), cfg.logic.select)
    if not run_batch(cfg):
        return False, names
    errors = (model_folder(cfg) / "errors.jsonl").read_text().splitlines()
    return True, names - {json.loads(line)["id"] for line in errors}


def _check_number(found: int, where: str, config: SelectConfig) -> None:
    if config.samples is not None and config.samples > found:
        raise UserError(
            f"{where} has {found} samples, but logic.select.samples={config.samples}: "
            f"collect more, or set logic.select.samples={found} or null (all of them, once)"
        )


# which files


def chosen_files(
    folder: Path, listed: dict[str, dict[str, Path]], names: set[str] | None, config: SelectConfig
) -> tuple[str, list[Path]]:
    """What to count, "records" or "analyses", and the files of it that belong to the samples `names` (None: to any).

    Raises UserError if there are none or fewer than `config.samples`, or if the results could not be written beside
    them.
    """
    source = config.source or ("records" if listed["records"] else "analyses")
    files = [path for name, path in listed[source].items() if names is None or name in names]
    if not files:
        what = "records or rankings" if config.source is None else f"{source} (logic.select.source)"
        raise UserError(
            f"no {what} in {folder}: set data.attention_dir, or make them with stage=batch or data.process_all=true"
        )
    if source == "analyses" and config.threshold == "dataset":
        raise UserError(
            f"logic.select.threshold=dataset needs records, but of {folder} only the rankings are read: set it to sample"
        )
    _check_number(len(files), str(folder), config)
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write into {folder}, where the results would go: copy it, or make it writable")
    if source == "records" and (alone := len(listed["analyses"].keys() - listed["records"].keys())):
        log.warning("%d rankings in %s have no record and are not counted", alone, folder)
    return source, files


# results


def _write(folder: Path, picks: Picks, selection: Selection, source: str, cfg: Config) -> list[Path]:
    """The files of the stage; the heads last, so that they never stand beside older frequencies."""
    written = [folder / "selection_frequency.csv"]
    write_atomic(written[0], frequency_csv(selection))
    model = picks.model or (cfg.model.name if cfg.data.attention_dir is None else None)
    if cfg.save_fig or cfg.show_plot:
        written += _draw(folder / f"selection_frequency.{cfg.save_format}", selection, model, cfg)
    heads = heads_json(picks, selection, source, model, cfg)
    write_atomic(folder / NAME, json.dumps(heads, indent=1))
    return [folder / NAME, *written]


def heads_json(picks: Picks, selection: Selection, source: str, model: str | None, cfg: Config) -> dict[str, Any]:
    """The content of localization_heads.json: every head that was ever selected, the most frequent first, and how they
    were counted.

    num_layers and num_heads are None where only rankings were read, which do not tell them.
    """
    layers, heads = picks.shape or (None, None)
    return {
        "model": model,
        "num_layers": layers,
        "num_heads": heads,
        "heads": [_row(selection, head) for head in selection.ranked() if selection.count[head]],
        "samples": selection.samples,
        "samples_with_fewer_heads": int(np.count_nonzero(picks.heads[:, -1, 0] < 0)),
        "top_n": cfg.logic.select.top_n,
        "trials": selection.trials,
        "samples_per_trial": selection.samples_per_trial,
        "seed": cfg.seed,
        "source": source,
        "config": OmegaConf.to_container(cfg, resolve=True),
    }


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
    rows = [
        (
            i + 1,
            *head,
            selection.count[head],
            f"{100 * selection.frequency[head]:.1f}",
            f"{100 * selection.std[head]:.1f}",
        )
        for i, head in enumerate(selection.ranked()[:best])
        if selection.count[head]
    ]
    title = f"{selection.samples} samples; frequency in {selection.trials} draws of {selection.samples_per_trial}"
    return f"{title}\n\n{table(('rank', 'layer', 'head', 'count', 'frequency, %', '± std, %'), rows)}"


def _draw(path: Path, selection: Selection, model: str | None, cfg: Config) -> list[Path]:
    import viz  # matplotlib, only where a figure is wanted

    title = f"{model or path.parent.name}: heads among the {cfg.logic.select.top_n} best of a sample, {selection.samples} samples"
    figure = viz.selection_figure(selection.frequency, selection.std, selection.ranked(), cfg.logic.top_k, title)
    if cfg.save_fig:
        viz.save_figure(figure, path)
    if cfg.show_plot:
        viz.show(figure)
    return [path] if cfg.save_fig else []
