"""Sharp masks beside the grid's: what each kind of prompt makes of the same samples.

One row is the grid's own mask, one for each kind of prompt, and one for SAM asked with the true box: how good a sharp
mask could be if the heads were never wrong.
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


@dataclass
class SharpRows:
    """Every sample's score in every row, in the order of the samples."""

    rows: dict[str, Float[np.ndarray, "4 samples"]]
    scores: list[Score] = field(default_factory=list)  # of the first row
    unrefined: dict[str, str] = field(default_factory=dict)  # samples without a sharp mask, and why


def measure_sharp(
    samples: Sequence[Sample],
    files: Mapping[str, Path],
    choice: HeadChoice,
    logic: LogicConfig,
    refiner: Refiner,
    *,
    inclusive: bool = False,
) -> SharpRows:
    """Asks SAM in every way about every sample, picture by picture; a sample without an answer is a miss.

    `files` are the samples' records. Raises UserError if the checkpoint is no SAM.
    """
    of_picture: dict[Path, list[Sample]] = {}
    for sample in samples:
        of_picture.setdefault(sample.image_file, []).append(sample)
    scores: dict[str, dict[str, Score]] = {name: {} for name in (GRID, *map(str, RefinePrompt), TRUE_BOX)}
    found = SharpRows({})
    assert refiner.sam is not None  # a wrong checkpoint ends the work before it begins
    for picture, some in progress(of_picture.items(), "sharp masks", total=len(of_picture)):
        seen = [_Seen.of(sample, files.get(sample.id), choice, logic) for sample in some]
        for one in seen:
            answer = (
                Prediction(one.sample.id) if one.result is None else _predicted(one.sample.id, one.result, inclusive)
            )
            scores[GRID][one.sample.id] = score(one.truth, answer, measures=MEASURED, inclusive=inclusive)
        for name, answers in _asked(picture, seen, refiner):
            for one, refined in zip(seen, answers, strict=True):
                why = refined if isinstance(refined, str) else refined.why
                if why and name == str(refiner.config.prompt):
                    found.unrefined[one.sample.id] = why
                answer = _answer(one.sample.id, refined, inclusive)
                scores[name][one.sample.id] = score(one.truth, answer, measures=MEASURED, inclusive=inclusive)
    found.rows = {name: columns([of[sample.id] for sample in samples]) for name, of in scores.items()}
    found.scores = [scores[GRID][sample.id] for sample in samples]
    return found


@dataclass(frozen=True, eq=False)
class _Seen:
    sample: Sample
    truth: Truth
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
            return cls(sample, read_truth(sample), None, None)
        heads = choice.of((record.num_layers, record.num_heads), rank_heads(record, logic))
        return cls(sample, read_truth(sample, record.image_size), record, localize(record, heads, logic))


def _asked(picture: Path, seen: Sequence[_Seen], refiner: Refiner) -> "Iterable[tuple[str, Sequence[Refined | str]]]":
    """For each row SAM's answers, or why there is none."""
    try:
        refiner.look(picture)
        found = [(one.record, one.result) for one in seen if one.record is not None and one.result is not None]
        answers = {str(kind): iter(refiner(picture, found, kind)) for kind in RefinePrompt}
        boxed = refiner.of_boxes(picture, [_whole(one.truth.box_xyxy) for one in seen])
    except UserError as error:
        log.error("%s", error)
        return [(name, [str(error)] * len(seen)) for name in (*map(str, RefinePrompt), TRUE_BOX)]
    rows = {
        name: [next(some) if one.record is not None else "it has no record" for one in seen]
        for name, some in answers.items()
    }
    return [*rows.items(), (TRUE_BOX, boxed)]


def _whole(box_xyxy: Sequence[float]) -> Box:
    """A box with exclusive edges as the pixels inside it, both edges inclusive."""
    x0, y0, x1, y1 = box_xyxy
    return math.floor(x0), math.floor(y0), math.ceil(x1) - 1, math.ceil(y1) - 1


def _predicted(sample_id: str, result: Localization, inclusive: bool) -> Prediction:
    return Prediction(sample_id, metric_box(result.box_xyxy, inclusive=inclusive), result.mask)


def _answer(sample_id: str, refined: "Refined | str", inclusive: bool) -> Prediction:
    if isinstance(refined, str) or refined.why:
        return Prediction(sample_id)
    return Prediction(sample_id, metric_box(refined.box_xyxy, inclusive=inclusive), refined.mask)
