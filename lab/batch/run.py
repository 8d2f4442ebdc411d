"""The bulk run of one process: images read ahead, expressions on one image asked together, records written behind.

Images are read in worker processes, and records are written while the model goes on, by a thread or, beside a GPU, by
processes. Batches are planned from all samples before anything runs, so that a record does not depend on the number of
processes.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lab.base.console import progress
from lab.base.errors import DiskFull, NotWritten
from lab.base.memory import keep_freed_memory
from lab.base.processes import Processes
from lab.base.shards import LOCK, Shard
from lab.base.workers import cores, done_elsewhere
from lab.batch.finished import Entry, Result, attempt, entry
from lab.batch.job import BatchJob
from lab.batch.outcome import Outcome
from lab.batch.shelf import Shelf
from lab.batch.storage import as_stored
from lab.batch.writer import Writer
from lab.datasets import Sample
from lab.records.folder import pack_record, packed_records, write_record

if TYPE_CHECKING:
    from collector import PendingRecords
    from lab.batch.batcher import AdaptiveBatcher
    from lab.batch.plan import Row, Rows
    from lab.batch.rows import ReadyRow
    from lab.records.record import Record
    from llava.family import LoadedModel

    Written = tuple[Row, Sequence[Record]]  # samples and their records
    Packed = Result | bytes  # what became of a sample, or its record for a shard
    Write = Callable[[Written], list[Packed]]
    Take = Callable[[Sample, Packed], None]

log = logging.getLogger(__name__)

BLOCK = 8  # rows of samples that one process takes at a time; automatic batches are parts of it
AHEAD = 8  # rows that may wait for the writers
MOST_WORKERS, MOST_WRITERS = 8, 4  # processes that read images, that write records


def collect_rows(job: BatchJob, loaded: "LoadedModel", rows: "Rows", run: Processes, outcome: Outcome) -> None:
    """Collects, ranks and writes the samples of some rows; `outcome` takes what fails and what the model waited for."""
    from lab.batch.batcher import AdaptiveBatcher, automatic_size  # torch: a run that finds everything done needs none
    from lab.batch.rows import RowDataset, feed

    data = job.data
    size = data.batch_size or min(BLOCK, automatic_size(loaded))
    apart = job.model.answers or (size == 1 and not data.share_image)
    batcher = AdaptiveBatcher(loaded, job.model, size=1 if apart else size, grows=data.batch_size is None, apart=apart)
    accelerated = loaded.device.type != "cpu"
    if not accelerated:
        keep_freed_memory()
    mine = max(1, cores() // run.local_world)
    workers = data.workers if data.workers is not None else min(MOST_WORKERS, mine - 1) if accelerated else 0
    dataset = RowDataset(rows, loaded, job.model, generic=job.generic)
    waiting = Waiting(feed(dataset, workers=workers, pin=accelerated))
    threads, elsewhere = writers(data.workers, mine, accelerated=accelerated, windows=job.windows)
    check = partial(_check_there, _guard(job.folder, Shard.read(job.data.shard)))
    with (
        _takes(job, outcome, check) as take,
        done_elsewhere(partial(write_row, job=job), elsewhere) as write,
        Writer(threads=threads, ahead=AHEAD) as writer,
    ):
        answered = _answered(batcher, waiting, partial(_guarded, write, check), take, writer, outcome)
        for _ in progress(answered, "collect", total=len(rows.numbers)) if run.main else answered:
            pass
    outcome.waited = {"images": round(waiting.seconds, 2), "writer": round(writer.waited, 2)}


@contextmanager
def _takes(job: BatchJob, outcome: Outcome, check: "Callable[[], None]") -> "Iterator[Take]":
    """What takes the results: the outcome or, where records go to shards, a shelf, which is cleared at the end."""
    if not job.in_shards:
        yield outcome.take_new  # type: ignore[misc]  # nothing is packed
        return
    shelf = Shelf(job, outcome, packed_records(job.folder).generation + 1, check)
    try:
        yield shelf.take
    finally:
        shelf.flush()


class Waiting:
    """Rows that are ready, and the seconds that were spent waiting for them."""

    def __init__(self, rows: "Iterator[ReadyRow]") -> None:
        self.rows, self.seconds = rows, 0.0

    def __iter__(self) -> "Waiting":
        return self

    def __next__(self) -> "ReadyRow":
        began = time.perf_counter()
        try:
            return next(self.rows)
        finally:
            self.seconds += time.perf_counter() - began


def writers(workers: int | None, cores: int, *, accelerated: bool, windows: bool) -> tuple[int, int]:
    """How many threads hand answers over, and how many processes rank and write them; with 0 the threads do it.

    A GPU can answer more in a second than one process can rank and write; a CPU cannot.
    """
    if windows:  # they can be opened from the main thread only
        return 0, 0
    most = MOST_WRITERS if workers is None else min(MOST_WRITERS, workers)
    processes = min(most, cores // 4) if accelerated and most > 1 else 0
    return max(1, processes), processes


def _answered(
    batcher: "AdaptiveBatcher",
    prepared: "Iterator[ReadyRow]",
    write: "Write",
    take: "Take",
    writer: Writer,
    outcome: Outcome,
) -> Iterator[Sample]:
    """The samples, one after the other, as they are answered and handed to the writer, or have failed."""
    for row, answers, number in batcher.answers(prepared):
        for sample, why in row.failed:
            outcome.fail(sample, why)
            yield sample
        if answers is not None:
            writer.put(partial(_hand_over, write, take, row.samples, answers, number))
            yield from row.samples


def _hand_over(write: "Write", take: "Take", samples: "Row", answers: "PendingRecords", number: int) -> None:
    """Waits for the answers of one row and has them written; runs in a writer's thread.

    Raises NotWritten if no more can be.
    """
    results = write((samples, answers.of(number)))  # fewer than samples if the disk is full
    for sample, result in zip(samples, results, strict=False):
        if isinstance(result, DiskFull):
            raise result
        take(sample, result)


def _guard(folder: Path, shard: Shard) -> Path:
    """What is there as long as the folder is the one that the run began in: a new one of the same name has no lock."""
    lock = folder / shard.name(LOCK)
    return lock if lock.exists() else folder


def _guarded(write: "Write", check: "Callable[[], None]", written: "Written") -> "list[Packed]":
    """Writes what may be written.

    Raises NotWritten if the folder was removed before or meanwhile, as files would appear in a new one.
    """
    check()
    results = write(written)
    check()
    return results


def _check_there(guard: Path) -> None:
    if not guard.exists():
        folder = guard.parent if guard.suffix == Path(LOCK).suffix else guard
        raise NotWritten(f"{folder} is not there any more: it was removed or renamed while the run was writing to it")


def write_row(written: "Written", job: BatchJob) -> "list[Packed]":
    """Ranks the records of some samples and writes their files; for each sample its entry, or why it failed.

    Where records go to shards, each is only packed.

    A full disk ends the list.
    """
    results: list[Packed] = []
    for sample, record in zip(*written, strict=True):
        try:
            results.append(attempt(partial(_write, job, sample, record)))
        except DiskFull as error:
            return [*results, error]
    return results


def _write(job: BatchJob, sample: Sample, record: "Record") -> Entry | bytes:
    kept = as_stored(record, job.data, job.logic, job.choice)
    if job.in_shards:
        return pack_record(kept, sample.id)
    path = write_record(job.folder, sample.id, kept, job.data.record_format)
    return entry(job, sample, job.finish(path, kept, fresh=True))
