"""What a study needs to know beside the records and the truth."""

from dataclasses import dataclass
from typing import Any

from conf.schema import LogicConfig, StudyConfig
from lab.heads.choice import HeadChoice


@dataclass(frozen=True)
class Settings:
    """The rules, what is compared, and how chance is drawn.

    `config` is all of the configuration, to be written down.
    """

    logic: LogicConfig
    choice: HeadChoice
    study: StudyConfig
    data_file: str | None
    model: str
    draws: int = 20  # random sets of heads of the same layers
    resamples: int = 1000  # of the bootstrap intervals
    seed: int = 0
    inclusive: bool = False  # the older convention of boxes
    workers: int | None = None
    config: dict[str, Any] | None = None
