"""stage=select: the heads that are selected again and again over the samples of a folder.

Of each sample only its best (layer, head) pairs stay in memory. Records are ranked in worker processes, a few at a time, rankings read
one by one: 10,000 of 32 x 32 heads take 3 to 5 s and 275 MB, start-up included; a record of LLaVA-1.5-7B takes 4 to 5 ms of one core.
"""

import csv
import io
import json
import logging
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from omegaconf import OmegaConf

from analyze import Head, attention_sums, passes_threshold, rank_heads, selection_trials
from conf.schema import Config, LogicConfig, SelectConfig
from lab.batch import read_samples, run_batch
from lab.cli import find, progress, table
from lab.errors import UserError
from lab.heads import NAME, same_model
from lab.pickles import load_plain
from lab.records import Record, load_record, write_atomic
from lab.stages import model_folder, print_written
from lab.storage import list_samples
from lab.workers import in_workers

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MOST_LAYERS = MOST_HEADS = 1024  # no model has more; bounds what a wrong ranking can ask for


@dataclass(frozen=True, eq=False)
class Picks:
    """The best heads of every sample, and the model that they belong to as far as the files tell."""

    heads: Int[np.ndarray, "samples top_n 2"]  # (layer, head), best first; -1 where a sample has fewer
    shape: tuple[int, int] | None = None  # (layers, heads) of the model
    model: str | None = None

    @property
    def seen_shape(self) -> tuple[int, int]:
        """The model's shape or, where it is not known, the smallest that holds every head."""
        layers, heads = self.shape or (self.heads.reshape(-1, 2).max(0) + 1).tolist()
        return layers, heads


@dataclass(frozen=True, eq=False)
class Selection:
    """How often each head is selected."""

    count: Int[np.ndarray, "layers heads"]  # of all samples
    frequency: Float[np.ndarray, "layers heads"]  # share of the samples of a trial, mean over the trials
    std: Float[np.ndarray, "layers heads"]  # its standard deviation over the trials (0 for one trial)
    samples: int  # in all
    trials: int
    samples_per_trial: int

    def ranked(self) -> list[Head]:
        """Every head, the most frequent first; ties by count, then in (layer, head) order."""
        order = np.lexsort((-self.count.ravel(), -self.frequency.ravel()))
        return [divmod(index, self.count.shape[1]) for index in order.tolist()]


def run_select(cfg: Config) -> int:
    """Counts, writes the heads, the frequencies and their figure, and shows the best. Returns 1 if a sample could not be collected."""
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
    """With `data.process_all`: collects what the data file asks for. Whether a sample failed, and the names of those to be counted."""
    if not cfg.data.process_all:
        return False, None
    if cfg.data.attention_dir is not None:
        raise UserError("data.attention_dir names a folder to read, data.process_all=true a data file to collect: give one of the two")
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


def chosen_files(folder: Path, listed: dict[str, dict[str, Path]], names: set[str] | None, config: SelectConfig) -> tuple[str, list[Path]]:
    """What to count, "records" or "analyses", and the files of it that belong to the samples `names` (None: to any).

    Raises UserError if there are none or fewer than `config.samples`, or if the results could not be written beside them.
    """
    source = config.source or ("records" if listed["records"] else "analyses")
    files = [path for name, path in listed[source].items() if names is None or name in names]
    if not files:
        what = "records or rankings" if config.source is None else f"{source} (logic.select.source)"
        raise UserError(f"no {what} in {folder}: set data.attention_dir, or make them with stage=batch or data.process_all=true")
    if source == "analyses" and config.threshold == "dataset":
        raise UserError(f"logic.select.threshold=dataset needs records, but of {folder} only the rankings are read: set it to sample")
    _check_number(len(files), str(folder), config)
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write into {folder}, where the results would go: copy it, or make it writable")
    if source == "records" and (alone := len(listed["analyses"].keys() - listed["records"].keys())):
        log.warning("%d rankings in %s have no record and are not counted", alone, folder)
    return source, files


# the best heads of each sample


def picks_of_records(files: Sequence[Path], cfg: Config) -> Picks:
    """Ranks every record by `cfg.logic`; with one threshold over the data set, reads them twice.

    Raises UserError, naming two files, if they are of different models.
    """
    logic: Any = OmegaConf.to_object(cfg.logic)  # plain attributes: a fifth of the time of one ranking
    passes = passes_on_average(files, cfg) if cfg.logic.select.threshold == "dataset" else None
    heads = _no_heads(len(files), cfg.logic.select.top_n)
    model = ModelOfRecords()
    best = partial(_best_of_record, top_n=heads.shape[1], logic=logic, passes=passes)
    for row, found in zip(heads, model.read(best, files, "select", cfg.data.workers), strict=True):
        row[: len(found)] = np.reshape(found, (-1, 2))
    return Picks(heads, model.shape, model.name)


def _best_of_record(record: Record, top_n: int, logic: LogicConfig, passes: np.ndarray | None) -> list[Head]:
    return [(score.layer, score.head) for score in rank_heads(record, logic, passes)[:top_n]]


def passes_on_average(files: Sequence[Path], cfg: Config) -> Bool[np.ndarray, "layers heads"]:
    """Which heads look at the image enough on average over all samples."""
    total: Any = 0.0
    for sums in ModelOfRecords().read(attention_sums, files, "threshold", cfg.data.workers):
        total = total + sums
    return passes_threshold(total / len(files), cfg.logic.threshold)


def _no_heads(samples: int, top_n: int) -> Int[np.ndarray, "samples top_n 2"]:
    return np.full((samples, min(top_n, MOST_LAYERS * MOST_HEADS), 2), -1, np.int16)


class ModelOfRecords:
    """Reads records, a few at a time, and keeps what they say of their model, so that a folder of two models is refused."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.shape: tuple[int, int] | None = None
        self._named_by = self._shaped_by = Path()

    def read(self, function: Callable[[Record], Result], files: Sequence[Path], title: str, workers: int | None = None) -> Iterator[Result]:
        """What the function makes of the records, behind a progress bar. Raises UserError naming two files of different models."""
        read = in_workers(partial(_of_record, function=function), files, workers)
        for path, (result, name, shape) in progress(read, title, total=len(files)):
            self.compare(path, name, shape)
            yield result

    def compare(self, path: Path, name: Any, shape: tuple[int, int]) -> None:
        """Raises UserError naming two files if the record's model, by name and by (layers, heads), is not that of those before it."""
        if self.shape is None:
            self.shape, self._shaped_by = shape, path
        if self.name is None and name is not None:
            self.name, self._named_by = str(name), path
        hint = "set data.attention_dir to a folder of one model"
        if shape != self.shape:
            (layers, heads), (others, their_heads) = self.shape, shape
            raise UserError(f"{self._shaped_by} has {layers} layers x {heads} heads, {path} {others} x {their_heads}: {hint}")
        if name is not None and not same_model(str(name), self.name or ""):
            raise UserError(f"{self._named_by} is of model {self.name}, {path} of {name}: {hint}")


def _of_record(path: Path, function: Callable[[Record], Result]) -> tuple[Result, Any, tuple[int, int]]:
    record = load_record(path)
    return function(record), record.meta.get("model_name"), (record.num_layers, record.num_heads)


def picks_of_analyses(files: Sequence[Path], top_n: int, records: Sequence[Path] = ()) -> Picks:
    """The first heads of saved rankings. `records` may name a record of the same model, to tell what the rankings do not: its shape.

    Raises UserError naming the file if one is no ranking or is of another model than the record.
    """
    model = ModelOfRecords()
    for _ in model.read(attention_sums, records, "model"):
        pass
    heads = _no_heads(len(files), top_n)
    limits = model.shape or (MOST_LAYERS, MOST_HEADS)
    for row, path in zip(heads, progress(files, "select"), strict=True):
        best = _best_of_ranking(path, len(row), limits)
        row[: len(best)] = np.reshape(best, (-1, 2))
    return Picks(heads, model.shape, model.name)


def _best_of_ranking(path: Path, top_n: int, limits: tuple[int, int]) -> list[Head]:
    ranking = load_plain(path)
    expected = f"expected a list of {{layer, head, ...}}, best first, each head once, layer < {limits[0]} and head < {limits[1]}"
    try:
        if not isinstance(ranking, list | tuple):
            raise TypeError(f"found a {type(ranking).__name__}")
        best = [(operator.index(score["layer"]), operator.index(score["head"])) for score in ranking[:top_n]]
    except (LookupError, TypeError) as error:
        raise UserError(f"{path}: not a ranking ({type(error).__name__}: {error}); {expected}") from None
    wrong = [head for head in best if not (0 <= head[0] < limits[0] and 0 <= head[1] < limits[1])]
    if wrong or len(set(best)) < len(best):
        raise UserError(f"{path}: {f'{wrong[0]} is not a head of this model' if wrong else 'a head is there twice'}; {expected}")
    return best


# counting


def count_selections(picks: Picks, config: SelectConfig, seed: int) -> Selection:
    """How often each head is among the best, over random subsets of the samples. Raises UserError if none ever is."""
    if not np.any(picks.heads >= 0):
        raise UserError("no head was selected in any sample: loosen logic.threshold, logic.entropy or logic.filter")
    total = len(picks.heads)
    trials, samples = (1, total) if config.samples is None else (config.trials, config.samples)
    shape = picks.seen_shape
    share = selection_trials(picks.heads, shape, trials, samples, seed) / samples
    count = selection_trials(picks.heads, shape, 1, total, seed)[0]
    return Selection(count, share.mean(0), share.std(0), total, trials, samples)


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
    """The content of localization_heads.json: every head that was ever selected, the most frequent first, and how they were counted.

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
        (i + 1, *head, selection.count[head], f"{100 * selection.frequency[head]:.1f}", f"{100 * selection.std[head]:.1f}")
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
