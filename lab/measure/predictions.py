"""What the heads of a sample find, as the metrics want it."""

import numpy as np
from jaxtyping import Float

from bbox import Localization
from lab.base.errors import UserError
from lab.measure.metrics import Prediction, exclusive
from lab.records.record import Record
from llava.grid import Grid


def prediction(sample_id: str, found: Localization, grid: Grid, *, inclusive: bool = False) -> Prediction:
    """What was found, as the metrics want it.

    Its box has exclusive edges unless `inclusive`; its point is the centre of the highest cell; its score is presence,
    if that is known.
    """
    point = highest_point(found.heat, grid) if found.heads else None
    confidence = 1.0 if found.presence is None else found.presence
    return Prediction(sample_id, metric_box(found.box_xyxy, inclusive=inclusive), found.mask, point, confidence)


def metric_box(
    box_xyxy: tuple[int, int, int, int] | None, *, inclusive: bool
) -> tuple[float, float, float, float] | None:
    """A box of pixels, both edges inclusive, in the convention of `metrics.box`."""
    if box_xyxy is None or not inclusive:
        return None if box_xyxy is None else exclusive(box_xyxy)
    x0, y0, x1, y1 = map(float, box_xyxy)
    return x0, y0, x1, y1


def highest_point(heat: Float[np.ndarray, "rows cols"], grid: Grid) -> tuple[float, float]:
    """The centre of the heat map's highest cell, (x, y) in pixels of the image."""
    x, y = highest_points(heat[None], grid)[0].tolist()
    return x, y


def highest_points(heats: Float[np.ndarray, "n rows cols"], grid: Grid) -> Float[np.ndarray, "n 2"]:
    """The same of many heat maps."""
    row, col = np.divmod(heats.reshape(len(heats), -1).argmax(1), grid.cols)
    x0, y0, x1, y1 = grid.extent_xyxy
    return np.stack([x0 + (col + 0.5) * (x1 - x0) / grid.cols, y0 + (row + 0.5) * (y1 - y0) / grid.rows], axis=1)


def said(sample_id: str, record: Record) -> Prediction | None:
    """The first box that the model wrote in its answer, if it wrote one.

    Raises UserError if the record holds no answer whose boxes could be read.
    """
    boxes = record.meta.get("answer_boxes")
    if boxes is None:
        raise UserError(
            f"the record of {sample_id} holds no answer with boxes: collect with model.use_generate=true and "
            "data.share_image=false, from a model whose way to write boxes is known"
        )
    return Prediction(sample_id, tuple(boxes[0])) if boxes else None


def middle(sample_id: str, image_size: tuple[int, int]) -> Prediction:
    """A box in the middle of an image of (width, height), half as wide and as high."""
    width, height = image_size
    return Prediction(sample_id, (width / 4, height / 4, 3 * width / 4, 3 * height / 4))
