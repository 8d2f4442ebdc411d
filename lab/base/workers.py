"""The same work on many items, in worker processes.

    for path, outcome in in_workers(partial(analyze_file, logic=logic), paths, workers_of(cfg)):
        ...

Only a few items are under way at any time, so that memory does not grow with their number. The workers come from a
server process that has imported torch once and runs no threads: forking this one, whose libraries may, could hang.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from lab.base.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
_function: Callable[[Any], Any]  # of a worker of done_elsewhere

CHUNK = 16  # items that a worker gets at once: asking for one takes about as long as ranking one
KILLED = "one of {} worker processes was killed, perhaps for want of memory: set data.workers=1"
FEW = 64  # items that are not worth starting workers, which takes a second or two


def worker_count(workers: int | None, items: int) -> int:
    """How many processes: `workers` or, if None, one for each core that this process may use; one for a few items."""
    if workers is not None:
        return max(1, min(workers, items))
    return 1 if items < FEW else min(cores(), 1 + items // FEW)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_workers(
    function: Callable[[Item], Result], items: Collection[Item], workers: int | None = None
) -> Iterator[tuple[Item, Result]]:
    """Each item and what the function makes of it, in order; with one worker, in this process.

    The function and its results must be fit to be pickled. An exception of the function is raised here, and ends the
    work. Raises UserError if a worker is killed.
    """
    count = worker_count(workers, len(items))
    if count == 1:
        for item in items:
            yield item, function(item)
        return
    with ProcessPoolExecutor(count, _context(), _begin) as pool:
        try:
            for part, future in _ahead(pool, function, items, 2 * count):
                yield from zip(part, future.result(), strict=True)
        except BrokenProcessPool as error:
            raise UserError(KILLED.format(count)) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def done_elsewhere(function: Callable[[Item], Result], count: int) -> Iterator[Callable[[Item], Result]]:
    """The function, to be called from any thread: it runs in one of `count` worker processes, or with 0 in this one.

    For threads that would hold each other up, as only one of a process's can run Python. The function, its argument and
    its results must be fit to be pickled; the function is sent to each worker once. Raises UserError if a worker is
    killed.
    """
    if count == 0:
        yield function
        return
    with ProcessPoolExecutor(count, _context(), _begin_with, (function,)) as pool:

        def call(item: Item) -> Result:
            try:
                return pool.submit(_call, item).result()
            except BrokenProcessPool as error:
                raise UserError(KILLED.format(count)) from error

        yield call


def _begin_with(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    _begin()


def _call(item: Any) -> Any:
    return _function(item)


def _ahead(
    pool: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[tuple[Sequence[Item], "Future[list[Result]]"]]:
    """The chunks in order, with at most `most` of them under way."""
    waiting: deque[tuple[Sequence[Item], Future[list[Result]]]] = deque()
    remaining = iter(items)
    while part := list(islice(remaining, CHUNK)):
        waiting.append((part, pool.submit(_each, function, part)))
        if len(waiting) == most:
            yield waiting.popleft()
    yield from waiting


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _context() -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "analyze", "lab.batch.run"])
    return context


def _begin() -> None:
    """In a worker.

    One thread for each process, and no life of its own after an interrupt or when its parent is killed.
    """
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
