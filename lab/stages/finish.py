"""What a run makes of each record, new or found: its ranking and, if asked for, mask, box and figures."""

import threading
from dataclasses import dataclass
from pathlib import Path

from analyze import rank_heads
from bbox import Localization, localize_record
from conf.schema import Config, LogicConfig
from lab.heads.choice import HeadChoice
from lab.records.record import Record
from lab.stages.common import choice_of
from lab.stages.results import (
    FigureOptions,
    box_json,
    sibling,
    write_localization,
    write_ranking,
)

RANKING = ("grids", "threshold", "entropy", "ties", "filter")  # what of `logic` decides a ranking
LOCATING = ("top_k", "heads", "contrast", "smoothing", "mask", "box")  # and a mask and a box
DRAWING = threading.Lock()  # matplotlib is not made for threads


@dataclass(frozen=True)
class Finish:
    """Writes the results of one record beside it. It can be sent to worker processes."""

    logic: LogicConfig
    choice: HeadChoice
    figures: FigureOptions
    visualize: bool  # masks, boxes and figures too

    @classmethod
    def of(cls, config: Config) -> "Finish":
        """As a configuration says."""
        return cls(config.logic, choice_of(config), FigureOptions.of(config), config.data.visualize_batch)

    @property
    def rules(self) -> str:
        """All settings that decide what the files hold; the ranking's alone if there are no others."""
        names = (*RANKING, *LOCATING) if self.visualize else RANKING
        drawn = (self.choice, self.figures) if self.visualize else None
        return repr(([getattr(self.logic, name) for name in names], drawn))

    def __call__(self, path: Path, record: Record, *, fresh: bool) -> list[Path]:
        """Ranks, and localizes if asked to. The files of the sample.

        Masks, boxes and figures of a record that is not `fresh` are kept if they still tell its box.
        """
        ranking = rank_heads(record, self.logic)
        files = [path, *write_ranking(path, ranking)]
        if not self.visualize:
            return files
        result = localize_record(record, ranking, self.logic, self.choice)
        if fresh or not self._drawn(path, record, result):
            with DRAWING:
                write_localization(path, record, result, self.logic, self.figures)
        return [*files, *self._located(path, result)]

    def _located(self, path: Path, result: Localization) -> list[Path]:
        box, mask = sibling(path, "_bbox.json"), sibling(path, "_mask.png")
        return [box, mask, *(self.figures.files(path, result) if self.figures.save else [])]

    def _drawn(self, path: Path, record: Record, result: Localization) -> bool:
        wanted = self._located(path, result)
        return all(file.exists() for file in wanted) and wanted[0].read_text() == box_json(record, result)
