"""What a bulk run asks, and what becomes of the answers."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from conf.schema import SHARDS, DataConfig, LogicConfig, ModelConfig, SaveAttention
from lab.heads.choice import HeadChoice
from lab.records.record import Record
from llava.conversation import asked_with


class Finishing(Protocol):
    """Writes the results of a record beside it."""

    @property
    def rules(self) -> str:
        """All settings that decide what it writes, in a word of any length: equal for equal settings."""

    def __call__(self, path: Path, record: Record, *, fresh: bool) -> list[Path]:
        """The sample's files, the record among them.

        Unless `fresh`, those that an earlier run has left may be kept where they tell the same.
        """


@dataclass(frozen=True)
class BatchJob:
    """All that a bulk run needs to know beside its samples. It can be sent to worker processes.

    `windows`: `finish` opens windows, which only the main thread of a process can do.
    """

    folder: Path
    model: ModelConfig
    data: DataConfig
    logic: LogicConfig
    choice: HeadChoice
    finish: Finishing
    generic: bool = False  # records hold the generic prompt's attention too
    windows: bool = False

    @property
    def in_shards(self) -> bool:
        """Whether records go to files of many, and nothing is written beside them."""
        return self.data.record_format == SHARDS

    @cached_property
    def rules(self) -> str:
        """All settings that decide what a sample's files hold."""
        data, model = self.data, self.model
        maps = None if data.save_attention == SaveAttention.all else (self.choice, self.logic.entropy)
        asked = (
            model.conv_mode,
            asked_with(model),
            model.read,
            model.dtype,
            model.answers,
            self.generic,
        )
        return repr((asked, data.save_dtype, data.save_attention, maps, self.finish.rules))
