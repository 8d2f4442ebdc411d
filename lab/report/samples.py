"""Each sample of a run, read again from its record: its heads, their maps, mask and box, and how good they are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analyze import Head, HeadScore, rank_heads, scores_of
from bbox import Localization, head_maps, localize_record
from conf.schema import Contrast, LogicConfig
from lab.base.console import progress
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.base.paths import find, resolved
from lab.base.pickles import load_plain
from lab.base.workers import in_workers
from lab.datasets import Sample, Truth, read_truth
from lab.datasets.boxes import Box
from lab.heads.choice import HeadChoice
from lab.measure.metrics import Prediction, Score, box_iou, exclusive, mask_overlap, score
from lab.measure.predictions import prediction
from lab.records.files import load_record
from lab.records.folder import REFINED
from lab.records.record import Record
from lab.records.subset import NotKept
from lab.report.folder import SampleFiles, read_json_object
from lab.report.pictures import Outline, levels, outline, text_of, thumbnail


@dataclass(frozen=True)
class Rules:
    """How records are read: what is chosen and located, and the convention of boxes."""

    logic: LogicConfig
    choice: HeadChoice
    inclusive: bool
    refine: bool = False  # sharp masks that lie beside the records are shown


@dataclass(frozen=True, eq=False)
class Maps:
    """What the chosen heads look at, then the mean (or power mean: bbox.in_attention) of their smoothed maps."""

    levels: np.ndarray  # uint8 [heads + 1, rows, cols], see lab.report.pictures.levels
    highest: float  # attention of a cell at level 255
    extent_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Finding:
    """What one run says of one sample. Without a record only `why`, and what a saved ranking and the data file tell."""

    status: str  # done | ranked: a ranking, but no attention | unreadable: its file is damaged | missing
    why: str = ""  # it is not done
    query: str = ""
    image_file: str | None = None
    image_size: tuple[int, int] | None = None
    shape: tuple[int, int] | None = None  # (layers, heads) of the model
    best: tuple[Head, ...] = ()  # the `logic.select.top_n` first of the ranking
    heads: tuple[HeadScore, ...] = ()  # the chosen ones
    box_xyxy: Box | None = None  # edges exclusive
    no_box: str | None = None  # why there is none
    presence: float | None = None  # probability that the thing is there, if the heads are calibrated
    outline: tuple[float, str] = (1.0, "")
    maps: Maps | None = None
    score: Score | None = None  # if the truth is known
    meta: Mapping[str, Any] | None = None
    wrong: str | None = None  # what ends the work: the rules choose heads that the model does not have
    sharp_outline: Outline | None = None  # of the sharp mask, if it was made of the same box
    sharp_iou: float | None = None  # with the true mask
    sharp: np.ndarray | None = None  # bool [height, width], dropped as the answer is
    answer: Prediction | None = None  # dropped once it is scored: a mask is as large as its image


def find_sample(name: str, files: SampleFiles, known: Sample | None, rules: Rules) -> Finding:
    """Reads and localizes one sample. Damaged and absent records make a finding that says so.

    So do heads that the record's model does not have: whoever knows the other records may tell better what is wrong.
    """
    told = Finding("missing", query=known.query if known else "", image_file=str(known.image_file) if known else None)
    if files.record is None:
        return _without_record(files, told, rules.logic.select.top_n)
    try:
        record = load_record(files.record, rules.logic)
    except UserError as error:
        return replace(told, status="unreadable", why=str(error))
    meta = record.meta
    told = replace(
        told,
        query=str(meta.get("query") or told.query),
        image_file=str(meta["image_file"]) if meta.get("image_file") else told.image_file,
        shape=(record.num_layers, record.num_heads),
        meta={key: value for key, value in meta.items() if key != "query"},
    )
    try:
        sized = _with_size(record, told.image_file)
    except UserError as error:
        return replace(told, why=f"its image's size is unknown: {error}")
    try:
        return _with_sharp(_localized(name, sized, told, rules), files, rules)
    except UserError as error:
        return replace(told, wrong=str(error))


def _without_record(files: SampleFiles, told: Finding, top_n: int) -> Finding:
    if files.ranking is None:
        return replace(told, why=files.error or "not collected yet")
    try:
        rows = load_plain(files.ranking)
        best = tuple((int(row["layer"]), int(row["head"])) for row in rows[:top_n])
    except (UserError, LookupError, TypeError, ValueError) as error:
        return replace(told, status="unreadable", why=f"{files.ranking.name} is no ranking ({error})")
    return replace(told, status="ranked", why="no attention stored, only a ranking", best=best)


def _with_size(record: Record, image_file: str | None) -> Record:
    """Records of old do not know the size of their picture. Raises UserError if the picture is not there to tell."""
    if record.image_size:
        return record
    if image_file is None:
        raise UserError("the record names no picture")
    return record.with_image_size(open_image(find(image_file)).size)


def _localized(name: str, record: Record, told: Finding, rules: Rules) -> Finding:
    try:
        ranking = rank_heads(record, rules.logic)
    except NotKept as error:  # its scores were measured by other settings
        return replace(told, status="ranked", why=str(error))
    told = replace(
        told,
        image_size=record.image_size,
        best=tuple((row.layer, row.head) for row in ranking[: rules.logic.select.top_n]),
    )
    chosen = rules.choice.of((record.num_layers, record.num_heads), ranking)
    if not record.subset.holds(chosen):
        return replace(told, status="ranked", why="no attention of its heads stored, only every head's scores")
    found = localize_record(record, ranking, rules.logic, rules.choice)
    return replace(
        told,
        status="done",
        heads=tuple(scores_of(record, found.heads, rules.logic)),
        box_xyxy=None if found.box_xyxy is None else exclusive(found.box_xyxy),
        no_box=found.why_no_box if found.box_xyxy is None else None,
        presence=found.presence,
        outline=outline(found.mask),
        maps=_maps(record, found, rules.logic.contrast),
        answer=prediction(name, found, record.grid, inclusive=rules.inclusive),
    )


def _with_sharp(finding: Finding, files: SampleFiles, rules: Rules) -> Finding:
    """The finding with the sharp mask beside its record, unless that was made of another box or another picture."""
    if not rules.refine or finding.box_xyxy is None or files.sharp is None:
        return finding
    name = files.sharp.name.removesuffix(REFINED)
    told = read_json_object(files.sharp.with_name(f"{name}_bbox.json")) or {}
    of_this_box = told.get("bbox_xyxy") is not None and exclusive(told["bbox_xyxy"]) == finding.box_xyxy
    if not (told.get("refine") and of_this_box):
        return finding
    try:
        mask = np.asarray(open_image(files.sharp).convert("L")) > 127
    except UserError:
        return finding
    if mask.shape[::-1] != finding.image_size:
        return finding
    return replace(finding, sharp=mask, sharp_outline=outline(mask))


def _maps(record: Record, found: Localization, contrast: Contrast) -> Maps:
    maps = head_maps(record, found.heads, contrast)
    every = np.concatenate([maps, found.heat[None] / max(1, len(maps))])
    highest = float(every.max())
    return Maps(levels(every, highest), highest, record.grid.extent_xyxy)


# beside the truth


def truth_of(known: Sample | None, image_size: tuple[int, int] | None) -> tuple[Truth | None, str]:
    """The truth if there is one and it can be read, else why not."""
    if known is None or (known.box_xyxy is None and known.mask_source is None):
        return None, ""
    try:
        return read_truth(known, image_size), ""
    except UserError as error:
        return None, str(error)


def scored(finding: Finding, truth: Truth | None, *, inclusive: bool) -> Finding:
    """The finding with its score, no answer being a miss, and without the answer's masks."""
    bare = replace(finding, answer=None, sharp=None)
    if truth is None:
        return bare
    found, true = finding.answer, truth.mask
    if found and found.mask is not None and true is not None and found.mask.shape != true.shape:
        return bare
    measured = score(truth, found, inclusive=inclusive)
    if finding.sharp is None or true is None or finding.sharp.shape != true.shape:
        return replace(bare, score=measured)
    both, either = mask_overlap(finding.sharp, true, truth.ignore)
    return replace(bare, score=measured, sharp_iou=round(both / max(either, 1), 4))


def disagreement(first: Finding, second: Finding) -> float:
    """0 to 2: by how much two runs differ in IoU and, below that, how little their boxes overlap."""
    boxes = (first.box_xyxy, second.box_xyxy)
    overlap = 1.0 if boxes == (None, None) else 0.0 if None in boxes else float(box_iou(*map(np.asarray, boxes)))
    ious = [one.score.box_iou for one in (first, second) if one.score and one.score.box_iou is not None]
    return (abs(ious[0] - ious[1]) if len(ious) == 2 else 0.0) + (1 - overlap) * (1e-3 if len(ious) == 2 else 1.0)


# pictures


Shrunk = tuple[bytes | None, tuple[int, int] | None, str]  # as WebP, its size, why it cannot be shown


class Pictures:
    """The pictures of a page, each once, however many expressions are about it."""

    def __init__(self, max_side: int) -> None:
        self.max_side = max_side
        self.texts: list[str] = []  # WebP in base64
        self._found: dict[Path, tuple[int | None, tuple[int, int] | None, str]] = {}

    def read(self, image_files: Iterable[str], workers: int | None = None) -> None:
        """Reads pictures in worker processes, before they are added."""
        paths = list(dict.fromkeys(map(resolved, image_files)))
        shrunk = in_workers(partial(shrink, max_side=self.max_side), paths, workers)
        for path, found in progress(shrunk, "report, pictures", total=len(paths)):
            self._keep(path, found)

    def add(
        self, image_file: str | None, size: tuple[int, int] | None
    ) -> tuple[int | None, tuple[int, int] | None, str]:
        """Its place in `texts`, its (width, height) and "", or None, the size that was given and why it cannot be
        shown.
        """
        if image_file is None:
            return None, size, "the record names no picture"
        path = resolved(image_file)
        if path not in self._found:
            self._keep(path, shrink(path, self.max_side))
        place, found, why = self._found[path]
        if found is not None and size is not None and found != size:
            return (
                None,
                size,
                f"{path.name} is {found[0]} x {found[1]} pixels, the record's picture was {size[0]} x {size[1]}",
            )
        return place, found or size, why

    def _keep(self, path: Path, shrunk: Shrunk) -> None:
        data, size, why = shrunk
        if data is not None:
            self.texts.append(text_of(data))
        self._found[path] = None if data is None else len(self.texts) - 1, size, why


def shrink(path: Path, max_side: int) -> Shrunk:
    """A picture in few bytes and its (width, height), or why it cannot be shown."""
    try:
        image = open_image(path)
    except UserError as error:
        return None, None, str(error)
    return thumbnail(image, max_side), image.size, ""
