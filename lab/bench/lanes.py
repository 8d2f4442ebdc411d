"""A process of its own for each way to collect, with its own copy of the model.

They take turns, so that whatever slows the machine for a while slows all of them, and what one leaves in memory hides
nothing of another's.
"""

import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from conf.schema import configuration
from lab.base.console import progress
from lab.base.errors import UserError
from lab.bench import collecting
from lab.bench.collecting import Case, Measured
from lab.stages.common import load_model
from llava.family import LoadedModel

Result = TypeVar("Result")


class Lane:
    """One process that has loaded the model of a configuration, given as its overrides."""

    def __init__(self, overrides: list[str]) -> None:
        self._overrides = overrides
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What `function(loaded, configuration, *arguments)` returns there; both must be fit to be pickled.

        Raises UserError if the process is killed.
        """
        try:
            return self._pool.submit(_run, function, tuple(self._overrides), arguments).result()
        except BrokenProcessPool as error:
            raise UserError(
                "the process that measures was killed, perhaps for want of memory: choose a smaller --size"
            ) from error

    def __enter__(self) -> "Lane":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def open_lanes(overrides: list[str]) -> Iterator[dict[str, Lane]]:
    """A lane for each way: stock, eager, fused."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Lane(overrides))
            for name in dict.fromkeys(case.attention for case in collecting.cases())
        }


def measure(
    lanes: dict[str, Lane], cases: list[Case], images: list[Path], folder: Path, repeats: int
) -> Iterator[tuple[Case, Measured]]:
    """Every case: the medians of `repeats` rounds in which each case runs once, then its memory and its parts in a run
    for each.
    """

    def each(function: Callable[..., Result]) -> list[Result]:
        return [lanes[case.attention].run(function, case, images, folder) for case in cases]

    each(collecting.warm)
    rounds = [each(collecting.seconds) for _ in progress(range(repeats), "measure")]
    memory, parts = each(collecting.memory), each(collecting.parts)
    for case, runs, peaks, part in zip(cases, zip(*rounds, strict=True), memory, parts, strict=True):
        read = len(case.images(images))
        took, waited = (statistics.median(run) for run in zip(*runs, strict=True))
        number = read * case.expressions
        seconds = {name: total / number for name, total in (part | {"waited": waited}).items()}
        yield case, Measured(number / took, read / took, *peaks, seconds)


def _begin() -> None:
    """In a lane: its own worker processes start as a user's run starts them, not as the lane itself was started."""
    multiprocessing.set_start_method(None, force=True)


@cache
def _model(overrides: tuple[str, ...]) -> tuple[LoadedModel, Any]:
    cfg = configuration(list(overrides))
    return load_model(cfg), cfg


def _run(function: Callable[..., Result], overrides: tuple[str, ...], arguments: tuple[Any, ...]) -> Result:
    return function(*_model(overrides), *arguments)
