"""Records and rankings of a folder, read a few at a time.

The best heads of each sample, and the model they belong to.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Int

from analyze import Head, attention_sums, passes_threshold, rank_heads
from conf.schema import LogicConfig, ThresholdOver
from lab.base.console import progress
from lab.base.errors import UserError
from lab.base.paths import same_model
from lab.base.pickles import load_plain
from lab.base.workers import in_workers
from lab.heads.selection import Picks
from lab.records.files import load_record
from lab.records.record import Record

Result = TypeVar("Result")


MAX_LAYERS = MAX_HEADS_OF_LAYER = 1024  # no model has more; bounds what a wrong ranking can ask for


# the best heads of each sample


def picks_of_records(files: Sequence[Path], logic: LogicConfig, workers: int | None = None) -> Picks:
    """Ranks every record by `logic`; with one threshold over the data set, reads them twice.

    Raises UserError, naming two files, if they are of different models.
    """
    passes = None
    if logic.select.threshold == ThresholdOver.dataset:
        passes = passes_on_average(files, logic, workers)
    heads = _no_heads(len(files), logic.select.top_n)
    model = ModelOfRecords()
    best = partial(_best_of_record, top_n=heads.shape[1], logic=logic, passes=passes)
    for row, found in zip(heads, model.read(best, files, "select", workers), strict=True):
        row[: len(found)] = np.reshape(found, (-1, 2))
    return Picks(heads, model.shape, model.name)


def _best_of_record(record: Record, top_n: int, logic: LogicConfig, passes: np.ndarray | None) -> list[Head]:
    return [(score.layer, score.head) for score in rank_heads(record.counting(logic.grids), logic, passes)[:top_n]]


def passes_on_average(
    files: Sequence[Path], logic: LogicConfig, workers: int | None = None
) -> Bool[np.ndarray, "layers heads"]:
    """Which heads look at the image enough on average over all samples."""
    total: Any = 0.0
    read = partial(attention_sums, digits=logic.entropy.digits)
    for sums in ModelOfRecords().read(read, files, "threshold", workers):
        total = total + sums
    return passes_threshold(total / len(files), logic.threshold)


def _no_heads(samples: int, top_n: int) -> Int[np.ndarray, "samples top_n 2"]:
    return np.full((samples, min(top_n, MAX_LAYERS * MAX_HEADS_OF_LAYER), 2), -1, np.int16)


class ModelOfRecords:
    """Reads records, a few at a time, and keeps what they say of their model, so that a folder of two models is
    refused.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.shape: tuple[int, int] | None = None
        self._named_by = self._shaped_by = Path()

    def read(
        self, function: Callable[[Record], Result], files: Sequence[Path], title: str, workers: int | None = None
    ) -> Iterator[Result]:
        """What the function makes of the records, behind a progress bar.

        Raises UserError naming two files of different models.
        """
        read = in_workers(partial(_of_record, function=function), files, workers)
        for path, (result, name, shape) in progress(read, title, total=len(files)):
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


def _of_record(path: Path, function: Callable[[Record], Result]) -> tuple[Result, Any, tuple[int, int]]:
    record = load_record(path)
    return function(record), record.meta.get("model_name"), (record.num_layers, record.num_heads)


def picks_of_analyses(files: Sequence[Path], top_n: int, records: Sequence[Path] = ()) -> Picks:
    """The first heads of saved rankings.

    `records` may name a record of the same model, to tell what the rankings do not: its shape.

    Raises UserError naming the file if one is no ranking or is of another model than the record.
    """
    model = ModelOfRecords()
    for _ in model.read(_nothing, records, "model"):
        pass
    heads = _no_heads(len(files), top_n)
    limits = model.shape or (MAX_LAYERS, MAX_HEADS_OF_LAYER)
    for row, path in zip(heads, progress(files, "select"), strict=True):
        best = _best_of_ranking(path, len(row), limits)
        row[: len(best)] = np.reshape(best, (-1, 2))
    return Picks(heads, model.shape, model.name)


def _nothing(record: Record) -> None:
    """For what the model of a record alone is wanted."""


def _best_of_ranking(path: Path, top_n: int, limits: tuple[int, int]) -> list[Head]:
    ranking = load_plain(path)
    expected = (
        f"expected a list of {{layer, head, ...}}, best first, each head once, layer < {limits[0]} and "
        f"head < {limits[1]}"
    )
    try:
        if not isinstance(ranking, list | tuple):
            raise TypeError(f"found a {type(ranking).__name__}")
        best = [(operator.index(score["layer"]), operator.index(score["head"])) for score in ranking[:top_n]]
    except (LookupError, TypeError) as error:
        raise UserError(f"{path}: not a ranking ({type(error).__name__}: {error}); {expected}") from None
    wrong = [head for head in best if not (0 <= head[0] < limits[0] and 0 <= head[1] < limits[1])]
    if wrong or len(set(best)) < len(best):
        raise UserError(
            f"{path}: {f'{wrong[0]} is not a head of this model' if wrong else 'a head is there twice'}; {expected}"
        )
    return best
