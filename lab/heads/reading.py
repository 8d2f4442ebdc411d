"""Records and rankings of a folder, read a few at a time.

The best heads of each sample, and the model they belong to.
"""

import logging
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Int

from analyze import Head, attention_sums, passes_threshold, rank_heads
from conf.schema import LogicConfig, ThresholdOver
from lab.base.checkpoints import same_model
from lab.base.console import progress
from lab.base.errors import UserError, in_words
from lab.base.pickles import load_plain
from lab.base.workers import in_workers
from lab.heads.selection import Picks
from lab.records.files import load_or_why
from lab.records.record import Record

log = logging.getLogger(__name__)

Result = TypeVar("Result")


MAX_LAYERS = MAX_HEADS_OF_LAYER = 1024  # no model has more; bounds what a wrong ranking can ask for


# the best heads of each sample


def picks_of_records(files: Collection[Path], logic: LogicConfig, workers: int | None = None) -> Picks:
    """Ranks every record by `logic`; with one threshold over the data set, reads them twice.

    Those that cannot be read are left out, which is told.

    Raises UserError, naming two files, if they are of different models.
    """
    passes = None
    if logic.select.threshold == ThresholdOver.dataset:
        passes = passes_on_average(files, logic, workers)
    heads = _no_heads(len(files), logic.select.top_n)
    model, number = ModelOfRecords(), 0
    best = partial(_best_of_record, top_n=heads.shape[1], logic=logic, passes=passes)
    for number, found in enumerate(model.read(best, files, "select", workers), start=1):
        heads[number - 1, : len(found)] = np.reshape(found, (-1, 2))
    tell_unreadable(model.unreadable, len(files))
    return Picks(heads[:number], model.shape, model.name, model.unreadable)


def _best_of_record(record: Record, top_n: int, logic: LogicConfig, passes: np.ndarray | None) -> list[Head]:
    return [(score.layer, score.head) for score in rank_heads(record.under(logic), logic, passes)[:top_n]]


def _sums_of_record(record: Record, logic: LogicConfig) -> np.ndarray:
    return attention_sums(record.under(logic), logic.entropy.digits)


def passes_on_average(
    files: Collection[Path], logic: LogicConfig, workers: int | None = None
) -> Bool[np.ndarray, "layers heads"]:
    """Which heads look at the image enough on average over all samples."""
    total: Any = 0.0
    model = ModelOfRecords()
    for sums in model.read(partial(_sums_of_record, logic=logic), files, "threshold", workers):
        total = total + sums
    readable = len(files) - len(model.unreadable)
    if not readable:
        tell_unreadable(model.unreadable, len(files))
    return passes_threshold(total / readable, logic.threshold)


def _no_heads(samples: int, top_n: int) -> Int[np.ndarray, "samples top_n 2"]:
    return np.full((samples, min(top_n, MAX_LAYERS * MAX_HEADS_OF_LAYER), 2), -1, np.int16)


class ModelOfRecords:
    """Reads records, a few at a time, and keeps what they say of their model, so that a folder of two models is
    refused.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.shape: tuple[int, int] | None = None
        self.unreadable: dict[Path, str] = {}  # records that were left out, and why
        self._named_by = self._shaped_by = Path()

    def read(
        self, function: Callable[[Record], Result], files: Collection[Path], title: str, workers: int | None = None
    ) -> Iterator[Result]:
        """What the function makes of the records that can be read, behind a progress bar.

        Raises UserError naming two files of different models.
        """
        read = in_workers(partial(_of_record, function=function), files, workers)
        for path, seen in progress(read, title, total=len(files)):
            if isinstance(seen, str):
                self.unreadable[path] = seen
                continue
            result, name, shape = seen
            self.compare(path, name, shape)
            yield result

    def compare(self, path: Path, name: Any, shape: tuple[int, int]) -> None:
        """Raises UserError naming two files if the record's model, by name and by (layers, heads), is not that of those
        before it.
        """
        if self.shape is None:
            self.shape, self._shaped_by = shape, path
        if self.name is None and name is not None:
            self.name, self._named_by = str(name), path
        hint = "set data.attention_dir to a folder of one model"
        if shape != self.shape:
            (layers, heads), (others, their_heads) = self.shape, shape
            raise UserError(
                f"{self._shaped_by} has {layers} layers x {heads} heads, {path} {others} x {their_heads}: {hint}"
            )
        if name is not None and not same_model(str(name), self.name or ""):
            raise UserError(f"{self._named_by} is of model {self.name}, {path} of {name}: {hint}")


def _of_record(path: Path, function: Callable[[Record], Result]) -> tuple[Result, Any, tuple[int, int]] | str:
    record = load_or_why(path)
    if isinstance(record, str):
        return record
    return function(record), record.made_by, (record.num_layers, record.num_heads)


def tell_unreadable(unreadable: Mapping[Path, str], files: int) -> None:
    """Warns in one line of files that were left out. Raises UserError if none of the `files` is left."""
    if not unreadable:
        return
    first, why = next(iter(unreadable.items()))
    if len(unreadable) == files:
        raise UserError(f"none of {files} files in {first.parent} can be read; the first: {why}")
    names = ", ".join(path.name for path in list(unreadable)[:3]) + (", ..." if len(unreadable) > 3 else "")
    missing = f"{len(unreadable)} of {files} files cannot be read and count as missing, so the exit code will be 1"
    log.warning("%s: %s; the first: %s", missing, names, why)


def by_name(unreadable: Mapping[Path, str]) -> dict[str, str]:
    """The same for a results file: the names of the files, and why."""
    return {path.name: why for path, why in unreadable.items()}


def picks_of_analyses(files: Collection[Path], top_n: int, records: Collection[Path] = ()) -> Picks:
    """The first heads of saved rankings.

    `records` may name a record of the same model, to tell what the rankings do not: its shape.

    Raises UserError naming the file if one is no ranking or is of another model than the record.
    """
    model = ModelOfRecords()
    for _ in model.read(_nothing, records, "model"):
        pass
    heads, number = _no_heads(len(files), top_n), 0
    limits = model.shape or (MAX_LAYERS, MAX_HEADS_OF_LAYER)
    unreadable: dict[Path, str] = {}
    for path in progress(files, "select"):
        try:
            ranking = load_plain(path)
        except UserError as error:
            unreadable[path] = str(error)
            continue
        best = _best_of_ranking(ranking, path, heads.shape[1], limits)
        heads[number, : len(best)] = np.reshape(best, (-1, 2))
        number += 1
    tell_unreadable(unreadable, len(files))
    return Picks(heads[:number], model.shape, model.name, unreadable)


def _nothing(record: Record) -> None:
    """For what the model of a record alone is wanted."""


def _best_of_ranking(ranking: Any, path: Path, top_n: int, limits: tuple[int, int]) -> list[Head]:
    expected = (
        f"expected a list of {{layer, head, ...}}, best first, each head once, layer < {limits[0]} and "
        f"head < {limits[1]}"
    )
    try:
        if not isinstance(ranking, list | tuple):
            raise ValueError(f"found a {type(ranking).__name__}")
        best = [(operator.index(score["layer"]), operator.index(score["head"])) for score in ranking[:top_n]]
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a ranking ({in_words(error)}); {expected}") from None
    wrong = [head for head in best if not (0 <= head[0] < limits[0] and 0 <= head[1] < limits[1])]
    if wrong or len(set(best)) < len(best):
        raise UserError(
            f"{path}: {f'{wrong[0]} is not a head of this model' if wrong else 'a head is there twice'}; {expected}"
        )
    return best
