"""Predictions in COCO's file format of results."""

from collections.abc import Iterable, Mapping
from typing import Any

from lab.datasets import rle
from lab.datasets.sample import mask_box
from lab.measure.metrics import Prediction, encloses


def coco_predictions(found: Iterable[Prediction], image_ids: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Predictions as COCO's results.

    `image_ids` maps a sample's id to its image's; without, every sample counts as an image of its own. What encloses no
    area is left out.
    """
    rows = (coco_prediction(one, image_ids) for one in found)
    return [row for row in rows if row is not None]


def coco_prediction(one: Prediction, image_ids: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """{id, image_id, category_id, bbox [x, y, width, height], segmentation (RLE), score}.

    A prediction without a box gets the one around its mask; None if nothing encloses an area.
    """
    box = one.box_xyxy if one.box_xyxy or one.mask is None or not one.mask.any() else mask_box(one.mask)
    if box is None or not encloses(box):
        return None
    x0, y0, x1, y1 = map(float, box)
    row = {
        "id": one.id,
        "image_id": one.id if image_ids is None else image_ids[one.id],
        "category_id": 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "score": float(one.score),
    }
    return row if one.mask is None else {**row, "segmentation": rle.encode(one.mask)}
