"""Predictions in COCO's file format of results."""

from collections.abc import Iterable, Mapping
from typing import Any

from lab.datasets import rle
from lab.datasets.sample import mask_box
from lab.measure.metrics import Prediction, _encloses

# COCO's file format


def coco_predictions(found: Iterable[Prediction], image_ids: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Predictions as COCO's results.

    {id, image_id, category_id, bbox [x, y, width, height], segmentation (RLE), score}.

    `image_ids` maps a sample's id to its image's; without, every sample counts as an image of its own. A prediction
    without a box gets the one around its mask; if nothing encloses an area, it is left out.
    """
    rows: list[dict[str, Any]] = []
    for one in found:
        box = one.box_xyxy if one.box_xyxy or one.mask is None or not one.mask.any() else mask_box(one.mask)
        if box is None or not _encloses(box):
            continue
        x0, y0, x1, y1 = map(float, box)
        image_id = one.id if image_ids is None else image_ids[one.id]
        row = {
            "id": one.id,
            "image_id": image_id,
            "category_id": 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(one.score),
        }
        rows.append(row if one.mask is None else {**row, "segmentation": rle.encode(one.mask)})
    return rows
