"""What one process of a bulk run did."""

import logging
from dataclasses import dataclass, field
from typing import Any

from lab.base.errors import InARow, NotWritten
from lab.batch.finished import IN_SHARD, Entry, Result
from lab.datasets import Sample

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What one process did."""

    samples: int = 0  # that it had to do
    new: list[str] = field(default_factory=list)  # ids of the samples collected; threads append to it
    packed: int = 0  # samples collected into shards, which tell of themselves
    before: int = 0  # samples whose record was there
    finished: dict[str, Entry] = field(default_factory=dict)  # the files of all but those in shards
    errors: list[dict[str, Any]] = field(default_factory=list)  # lines of errors.jsonl
    unwritten: InARow = field(default_factory=InARow)
    waited: dict[str, float] = field(default_factory=dict)  # seconds that the model stood still, and what for
    busy: float = 0.0  # seconds from its beginning to its last sample
    stopped: NotWritten | None = None  # why the run had to end early

    def fail(self, sample: Sample, why: str) -> None:
        log.error("%s: %s", sample.id, why)
        self.errors.append({"id": sample.id, "line": sample.line, "error": why})

    def take(self, sample: Sample, result: Result) -> bool:
        """Whether the sample is finished. Raises NotWritten if several in a row could not be written."""
        done = not isinstance(result, NotWritten | str)
        if isinstance(result, NotWritten | str):
            self.fail(sample, str(result))
        elif result != IN_SHARD:
            self.finished[sample.id] = result
        self.unwritten.count(result)
        return done

    def take_new(self, sample: Sample, result: Result) -> None:
        """The same of a sample that was collected now."""
        if not self.take(sample, result):
            return
        if result == IN_SHARD:
            self.packed += 1
        else:
            self.new.append(sample.id)

    def undo(self, sample: Sample, why: NotWritten | str) -> None:
        """Takes back that a sample is finished: something more that was to be made of it failed.

        Raises NotWritten if several in a row could not be written.
        """
        self.finished.pop(sample.id, None)
        if sample.id in self.new:
            self.new.remove(sample.id)
        else:
            self.before -= 1
        self.fail(sample, str(why))
        self.unwritten.count(why)
