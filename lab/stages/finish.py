"""What a run makes of each record, new or found: its ranking and, if asked for, mask, box and figures."""

import json
import threading
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from analyze import HeadScore, rank_heads
from bbox import Localization, localize_record
from conf.schema import SHARDS, Config, LogicConfig, Refine, RefineConfig, SaveAttention
from lab.base.errors import UserError
from lab.base.files import read_json
from lab.heads.choice import HeadChoice
from lab.records.folder import REFINED, sibling
from lab.records.record import Record
from lab.stages.results import (
    FigureOptions,
    asked_with,
    box_json,
    remove_localization,
    write_localization,
    write_ranking,
)

RANKING = ("grids", "token", "threshold", "entropy", "ties", "filter")  # what of `logic` decides a ranking
LOCATING = ("top_k", "heads", "contrast", "weights", "smoothing", "mask", "box", "presence")  # and a mask and a box
DRAWING = threading.Lock()  # matplotlib is not made for threads


@dataclass(frozen=True)
class NothingBeside:
    """Leaves a record alone: nothing is written beside those in shards."""

    rules: str = ""
    locate: bool = False

    def __call__(self, path: Path, record: Record, *, fresh: bool) -> list[Path]:
        """The record's file."""
        return [path]


@dataclass(frozen=True)
class Finish:
    """Writes the results of one record beside it. It can be sent to worker processes."""

    logic: LogicConfig
    choice: HeadChoice
    figures: FigureOptions
    locate: bool  # mask and box too, and the figures that are wanted
    refine: RefineConfig | None = None  # the sharp masks that follow, with which the figures are drawn

    @classmethod
    def of(cls, config: Config, choice: HeadChoice) -> "Finish | NothingBeside":
        """As a configuration says."""
        if config.data.record_format == SHARDS:
            return NothingBeside()
        data, figures = config.data, replace(FigureOptions.of(config), image_file=None)  # every sample names its own
        if not data.visualize_batch:
            figures = replace(figures, save=False, show=False)
        masks = data.save_masks and data.save_attention != SaveAttention.none
        locate = masks or data.visualize_batch
        asked = replace(config.refine.of(config.model.name), keep=None)  # changes no mask
        refine = asked if locate and config.logic.refine != Refine.none else None
        return cls(config.logic, choice, figures, locate, refine)

    @property
    def rules(self) -> str:
        """All settings that decide what the files hold, and whether masks and boxes of an earlier run may stay."""
        drawn = (self.choice, self.figures) if self.locate else (self.choice,)
        sharp = () if self.refine is None else (self.refine,)
        return repr(([getattr(self.logic, name) for name in (*RANKING, *LOCATING)], drawn, *sharp))

    def __call__(self, path: Path, record: Record, *, fresh: bool) -> list[Path]:
        """Ranks, and localizes if asked to. The files of the sample.

        Masks, boxes and figures of a record that is not `fresh` are kept if they still tell its box; of an earlier run
        without any by this one's rules, removed.
        """
        ranking = rank_heads(record, self.logic)
        files = [path, *write_ranking(path, ranking, record.left_out)]
        if not self.locate:
            if not self._still_right(path, record, ranking):
                remove_localization(path)
            return files
        result = localize_record(record, ranking, self.logic, self.choice)
        if self.refine is not None and not fresh and self._refined(path, record, result, self.refine):
            return [*files, *self._located(path, result), sibling(path, REFINED), *self._figures(path, result)]
        if fresh or not self._drawn(path, record, result):
            figures = self.figures if self.refine is None else replace(self.figures, save=False, show=False)
            with DRAWING if figures.save or figures.show else nullcontext():
                write_localization(path, record, result, self.logic, figures)
        return [*files, *self._located(path, result)]

    def _located(self, path: Path, result: Localization) -> list[Path]:
        box, mask = sibling(path, "_bbox.json"), sibling(path, "_mask.png")
        return [box, mask, *(self._figures(path, result) if self.refine is None else [])]

    def _figures(self, path: Path, result: Localization) -> list[Path]:
        return self.figures.files(path, result) if self.figures.save else []

    def _refined(self, path: Path, record: Record, result: Localization, config: RefineConfig) -> bool:
        """Whether a run that was ended has made the sharp mask, by the same settings."""
        wanted = [*self._located(path, result), sibling(path, REFINED), *self._figures(path, result)]
        if not all(file.exists() for file in wanted):
            return False
        try:
            told = json.loads(wanted[0].read_text())
        except ValueError:  # damaged
            return False
        sharp = told.pop("refine", None) if isinstance(told, dict) else None
        asked = isinstance(sharp, dict) and all(sharp.get(name) == value for name, value in asked_with(config).items())
        return asked and told == json.loads(box_json(record, result))

    def _still_right(self, path: Path, record: Record, ranking: list[HeadScore]) -> bool:
        """Whether the box that an earlier run wrote, if there is one, is that of today's rules."""
        box = sibling(path, "_bbox.json")
        if not box.exists():
            return True
        try:
            told = read_json(box)
            told.pop("refine", None)
            now = box_json(record, localize_record(record, ranking, self.logic, self.choice))
        except (UserError, OSError, ValueError, AttributeError):  # without maps, or damaged
            return False
        return bool(told == json.loads(now))

    def _drawn(self, path: Path, record: Record, result: Localization) -> bool:
        wanted = self._located(path, result)
        return all(file.exists() for file in wanted) and wanted[0].read_text() == box_json(record, result)
