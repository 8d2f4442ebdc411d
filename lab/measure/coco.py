"""Predictions in COCO's file format of results, and the truth in that of its data sets.

Boxes are [x, y, width, height] in pixels; every sample counts as an image of its own, named by its id.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from lab.datasets import rle
from lab.datasets.sample import Sample, Truth, mask_box
from lab.measure.metrics import Prediction, encloses

CATEGORY = {"id": 1, "name": "what the expression describes"}


def coco_image(sample: Sample, image_size: tuple[int, int]) -> dict[str, Any]:
    """{id, file_name, width, height, expression}; the last is no key of COCO's."""
    width, height = image_size
    named = {"file_name": str(sample.image_file), "width": width, "height": height}
    return {"id": sample.id, **named, "expression": sample.query}


def coco_annotation(truth: Truth, number: int) -> dict[str, Any]:
    """{id, image_id, category_id, iscrowd, area, bbox} and, if the truth has a mask, segmentation (RLE).

    `number` is the annotation's id, from 1 on: to COCO's tools 0 is none.
    """
    x0, y0, x1, y1 = truth.box_xyxy
    row = {
        "id": number,
        "image_id": truth.id,
        "category_id": CATEGORY["id"],
        "iscrowd": 0,
        "area": truth.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
    }
    return row if truth.mask is None else {**row, "segmentation": rle.encode(truth.mask)}


def coco_predictions(found: Iterable[Prediction], image_ids: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Predictions as COCO's results.

    `image_ids` maps a sample's id to its image's; without, every sample counts as an image of its own. What encloses no
    area is left out.
    """
    rows = (coco_prediction(one, image_ids) for one in found)
    return [row for row in rows if row is not None]


def coco_prediction(one: Prediction, image_ids: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """{id, image_id, category_id, bbox [x, y, width, height], segmentation (RLE), score}.

    The box has exclusive edges. Without one it is that around the mask; None if nothing encloses an area.
    """
    box = one.box_xyxy if one.box_xyxy or one.mask is None or not one.mask.any() else mask_box(one.mask)
    if box is None or not encloses(box):
        return None
    x0, y0, x1, y1 = map(float, box)
    row = {
        "id": one.id,
        "image_id": one.id if image_ids is None else image_ids[one.id],
        "category_id": CATEGORY["id"],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "score": float(one.score),
    }
    return row if one.mask is None else {**row, "segmentation": rle.encode(one.mask)}
