"""What a bulk run asks, and what becomes of the answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conf.schema import DataConfig, LogicConfig, ModelConfig
from lab.heads.choice import HeadChoice


@dataclass(frozen=True)
class BatchJob:
    """All that a bulk run needs to know beside its samples. It can be sent to worker processes.

    `finish(path, record, fresh=...)` writes the results of a record beside it, new (`fresh`) or found. `windows`: it
    opens windows, which only the main thread of a process can do.
    """

    folder: Path
    model: ModelConfig
    data: DataConfig
    logic: LogicConfig
    choice: HeadChoice
    finish: Callable[..., None]
    generic: bool = False  # records hold the generic prompt's attention too
    windows: bool = False
