"""Sharp masks beside the grid's: what each kind of prompt makes of the same samples.

One row is the grid's own mask, one for each kind of prompt, and one for SAM asked with the true box: how good a sharp
mask could be if the heads were never wrong. Samples without target are told apart: their figures are those of
`lab.measure.absent`.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from analyze import rank_heads
from bbox import Box, Localization, localize
from conf.schema import LogicConfig, RefinePrompt
from lab.base.console import progress
from lab.base.errors import UserError
from lab.datasets import Sample, Truth, read_truth
from lab.heads.choice import HeadChoice
from lab.measure.absent import Told
from lab.measure.intervals import columns
from lab.measure.metrics import Prediction, Score, score
from lab.measure.predictions import metric_box
from lab.records.files import load_record
from lab.records.record import Record
from lab.refine.refiner import Refiner

if TYPE_CHECKING:
    from lab.refine.refined import Refined

log = logging.getLogger(__name__)

GRID, TRUE_BOX = "none: the grid's mask", "the true box"
MEASURED = ("box", "mask")
NOT_THERE = "it has no true box"


@dataclass
class SharpRows:
    """Every row's scores of the samples that have a target, in their order, and what it tells of all samples."""

    rows: dict[str, Float[np.ndarray, "4 samples"]]
    scores: list[Score] = field(default_factory=list)  # of the first row
    told: dict[str, list[Told]] = field(default_factory=dict)  # of each row
    unrefined: dict[str, str] = field(default_factory=dict)  # samples with a target and no sharp mask, and why


def measure_sharp(
    samples: Sequence[Sample],
    files: Mapping[str, Path],
    choice: HeadChoice,
    logic: LogicConfig,
    refiner: Refiner,
    *,
    inclusive: bool = False,
) -> SharpRows:
    """Asks SAM in every way about every sample, picture by picture.

    A sample with a target is a miss if it has no answer; one without should have none.

    `files` are the samples' records. Raises UserError if the checkpoint is no SAM.
    """
    of_picture: dict[Path, list[Sample]] = {}
    for sample in samples:
        of_picture.setdefault(sample.image_file, []).append(sample)
    names = (GRID, *map(str, RefinePrompt), TRUE_BOX)
    scores: dict[str, dict[str, Score]] = {name: {} for name in names}
    found = SharpRows({}, told={name: [] for name in names})
    assert refiner.sam is not None  # a wrong checkpoint ends the work before it begins
    for picture, some in progress(of_picture.items(), "sharp masks", total=len(of_picture)):
        seen = [_Seen.of(sample, files.get(sample.id), choice, logic) for sample in some]
        rows: dict[str, list[Prediction]] = {GRID: [_predicted(one, inclusive) for one in seen]}
        for name, answers in _asked(picture, seen, refiner):
            rows[name] = [_answer(one.sample.id, said, inclusive) for one, said in zip(seen, answers, strict=True)]
            if name == str(refiner.config.prompt):
                found.unrefined |= _unrefined(seen, answers)
        for name, predictions in rows.items():
            for one, answer in zip(seen, predictions, strict=True):
                if one.truth is not None:
                    scored = score(one.truth, answer, measures=MEASURED, inclusive=inclusive)
                    scores[name][one.sample.id] = scored
                found.told[name].append(_told(one, answer, scores[name].get(one.sample.id)))
    there = [sample.id for sample in samples if sample.present]
    found.rows = {name: columns([of[one] for one in there]) for name, of in scores.items()}
    found.scores = [scores[GRID][one] for one in there]
    return found


@dataclass(frozen=True, eq=False)
class _Seen:
    sample: Sample
    truth: Truth | None  # None: no target
    record: Record | None
    result: Localization | None

    @classmethod
    def of(cls, sample: Sample, path: Path | None, choice: HeadChoice, logic: LogicConfig) -> "_Seen":
        """A record that is missing or damaged has found nothing: those who measured before have told why."""
        try:
            record = None if path is None else load_record(path, logic)
        except UserError:
            record = None
        if record is None:
            return cls(sample, read_truth(sample) if sample.present else None, None, None)
        heads = choice.of((record.num_layers, record.num_heads), rank_heads(record, logic))
        truth = read_truth(sample, record.image_size) if sample.present else None
        return cls(sample, truth, record, localize(record, heads, logic))


def _asked(picture: Path, seen: Sequence[_Seen], refiner: Refiner) -> "Iterable[tuple[str, Sequence[Refined | str]]]":
    """For each row SAM's answers, or why there is none."""
    try:
        refiner.look(picture)
        found = [(one.record, one.result) for one in seen if one.record is not None and one.result is not None]
        answers = {str(kind): iter(refiner(picture, found, kind)) for kind in RefinePrompt}
        boxes = [_whole(one.truth.box_xyxy) for one in seen if one.truth is not None]
        boxed = iter(refiner.of_boxes(picture, boxes))
    except UserError as error:
        log.error("%s", error)
        return [(name, [str(error)] * len(seen)) for name in (*map(str, RefinePrompt), TRUE_BOX)]
    rows = {
        name: [next(some) if one.record is not None else "it has no record" for one in seen]
        for name, some in answers.items()
    }
    return [*rows.items(), (TRUE_BOX, [NOT_THERE if one.truth is None else next(boxed) for one in seen])]


def _whole(box_xyxy: Sequence[float]) -> Box:
    """A box with exclusive edges as the pixels inside it, both edges inclusive."""
    x0, y0, x1, y1 = box_xyxy
    return math.floor(x0), math.floor(y0), math.ceil(x1) - 1, math.ceil(y1) - 1


def _unrefined(seen: Sequence[_Seen], answers: "Sequence[Refined | str]") -> dict[str, str]:
    """The samples that should have a sharp mask and have none, and why."""
    whys = (one if isinstance(one, str) else one.why for one in answers)
    return {one.sample.id: why for one, why in zip(seen, whys, strict=True) if why and one.truth is not None}


def _told(one: _Seen, answer: Prediction, scored: Score | None) -> Told:
    presence, boxed = None if one.result is None else one.result.presence, answer.box_xyxy is not None
    if scored is None:
        return Told.of_absent(one.sample, presence, boxed, 0 if answer.mask is None else int(answer.mask.sum()))
    return Told.of_score(one.sample, presence, boxed, scored)


def _predicted(one: _Seen, inclusive: bool) -> Prediction:
    if one.result is None:
        return Prediction(one.sample.id)
    return Prediction(one.sample.id, metric_box(one.result.box_xyxy, inclusive=inclusive), one.result.mask)


def _answer(sample_id: str, refined: "Refined | str", inclusive: bool) -> Prediction:
    if isinstance(refined, str) or refined.why:
        return Prediction(sample_id)
    return Prediction(sample_id, metric_box(refined.box_xyxy, inclusive=inclusive), refined.mask)
