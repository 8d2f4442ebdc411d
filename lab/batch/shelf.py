"""Records gathered into shards as they are answered, for `data.record_format=shards`."""

import threading
from collections.abc import Callable

from lab.base.errors import DiskFull, NotWritten
from lab.batch.finished import IN_SHARD, Result, digest
from lab.batch.job import BatchJob
from lab.batch.outcome import Outcome
from lab.datasets import Sample
from lab.records.folder import write_records
from lab.records.shards import BYTES, RECORDS


class Shelf:
    """Takes packed records from any thread, and writes them as a shard when it holds so many, or so many bytes.

    A sample is done when its shard is there: what waits when a run is killed is asked again. `check` raises NotWritten
    where nothing may be written any more.
    """

    def __init__(self, job: BatchJob, outcome: Outcome, generation: int, check: Callable[[], None]) -> None:
        self.job, self.outcome, self.generation, self.check = job, outcome, generation, check
        self._waiting: list[tuple[Sample, bytes]] = []
        self._lock = threading.Lock()

    def take(self, sample: Sample, result: Result | bytes) -> None:
        """Keeps a record, or passes on why there is none. Raises NotWritten if no more can be written."""
        with self._lock:
            if not isinstance(result, bytes):
                self.outcome.take_new(sample, result)
                return
            self._waiting.append((sample, result))
            if len(self._waiting) >= RECORDS or sum(len(data) for _, data in self._waiting) >= BYTES:
                self._write()

    def flush(self) -> None:
        """Writes what waits."""
        with self._lock:
            if self._waiting:
                self._write()

    def _write(self) -> None:
        some, self._waiting = self._waiting, []
        self.check()
        result: Result = IN_SHARD
        try:
            rules = [digest(self.job, sample) for sample, _ in some]
            write_records(self.job.folder, {sample.id: data for sample, data in some}, rules, self.generation)
        except DiskFull:
            raise
        except NotWritten as error:
            result = error
        for sample, _ in some:
            self.outcome.take_new(sample, result)
