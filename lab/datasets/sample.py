"""The one sample type, and its ground truth: decoded on demand and checked against the image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageOps

from lab.base.errors import UserError
from lab.base.files import check_pointer
from lab.base.images import open_image
from lab.datasets import rle

Box = tuple[float, float, float, float]
MaskSource = Path | Mapping[str, Any] | Sequence[Sequence[float]]  # image file | COCO RLE | polygons

SLACK = 1.0  # pixels by which a true box may leave its image: annotations are rounded
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Sample:
    """One expression about one image, with what is known of the truth.

    `box_xyxy` is in pixels, edges exclusive. `mask_source` is an image file (anything but 0 is the object), a COCO RLE
    (compressed or not) or polygons [[x0, y0, x1, y1, ...], ...]; `ignore_source`, in the same forms, is what no metric
    counts. `image_size` is (width, height). `line` is where a data file has the sample.
    """

    id: str
    query: str
    image_file: Path
    box_xyxy: Box | None = None
    mask_source: MaskSource | None = None
    ignore_source: MaskSource | None = None
    split: str | None = None
    image_size: tuple[int, int] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = None


@dataclass(frozen=True, eq=False)
class Truth:
    """What a prediction is measured against. `area` in pixels: of the mask if there is one, else of the box."""

    id: str
    box_xyxy: Box
    mask: Bool[np.ndarray, "height width"] | None
    ignore: Bool[np.ndarray, "height width"] | None
    area: float
    split: str | None


def read_truth(sample: Sample, image_size: tuple[int, int] | None = None) -> Truth:
    """The sample's box and mask; the box around the mask if it has no box.

    `image_size` is (width, height) if known; otherwise the image's header is read. Raises UserError, beginning with the
    sample's id, if there is no truth, the box leaves the image, or a mask is damaged, empty or of another size than the
    image.
    """
    size = image_size or sample_size(sample)
    try:
        check_truth(sample, size)
        mask, ignore = (
            None if source is None else read_mask(source, size) for source in (sample.mask_source, sample.ignore_source)
        )
        if mask is not None and not mask.any():
            raise UserError("its mask is empty; expected one pixel or more")
        box = sample.box_xyxy or mask_box(mask)
    except UserError as error:
        raise UserError(f"sample {sample.id}: {error}") from None
    area = (box[2] - box[0]) * (box[3] - box[1]) if mask is None else float(mask.sum())
    return Truth(sample.id, box, mask, ignore, area, sample.split)


def need_truth(samples: Sequence[Sample], where: str, *, mask: bool = False) -> None:
    """Raises UserError unless every sample has a box or a mask (with `mask`: a mask); `where` names the file."""
    without = [sample.id for sample in samples if sample.mask_source is None and (mask or sample.box_xyxy is None)]
    if without:
        what, keys = ("mask", "mask_path or segmentation") if mask else ("box", "bbox, mask_path or segmentation")
        found = f"no ground-truth {what} for {len(without)} of {len(samples)} samples (the first: {without[0]})"
        raise UserError(f"{where}: {found}; give each line {keys}")


def with_period(text: str) -> str:
    """The expression ending in a full stop, as the paper's prompts do, unless it ends in one or in ! or ? already."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?")) else text + "."


# Checks


def check_box(box_xyxy: Sequence[Any]) -> Box:
    """The box as floats. Raises UserError unless it is four finite numbers that enclose an area."""
    if len(box_xyxy) != 4 or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in box_xyxy
    ):
        raise UserError(f"box {list(box_xyxy)} is malformed; expected four numbers")
    x0, y0, x1, y1 = map(float, box_xyxy)
    if x1 <= x0 or y1 <= y0:
        raise UserError(
            f"box is {x1 - x0:g} wide and {y1 - y0:g} high; expected more than 0 (xywh, or bbox_format: xyxy)"
        )
    return x0, y0, x1, y1


def check_truth(sample: Sample, image_size: tuple[int, int] | None) -> None:
    """Raises UserError unless box and masks fit an image of (width, height).

    Without a size, what can be seen without it.

    Masks are not decoded: of an image file only the header is read.
    """
    width, height = image_size or (math.inf, math.inf)
    if sample.box_xyxy is not None:
        x0, y0, x1, y1 = sample.box_xyxy
        if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
            box = f"box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
            raise UserError(
                f"{box} leaves the image of {width} x {height} pixels" if image_size else f"{box} leaves the image"
            )
    if image_size is not None:
        if sample.image_size and sample.image_size != image_size:
            said = " x ".join(map(str, sample.image_size))
            raise UserError(f"image_size says {said} pixels, the image has {width} x {height}; correct one of them")
        for source in (sample.mask_source, sample.ignore_source):
            if source is not None:
                _check_mask_size(source, image_size)


def _check_mask_size(source: MaskSource, image_size: tuple[int, int]) -> None:
    size: tuple[int, int] = image_size  # polygons fit every image
    if isinstance(source, Path):
        size = header_size(source)
    elif isinstance(source, Mapping):
        size = rle.rle_size(source)[::-1]
    if size != image_size:
        raise UserError(
            f"mask is {size[0]} x {size[1]}, its image {image_size[0]} x {image_size[1]}; expected the same size"
        )


def check_source(source: Any) -> Mapping[str, Any] | Sequence[Sequence[float]]:
    """An RLE or polygons as JSON has them. Raises UserError unless well formed."""
    if isinstance(source, Mapping):
        rle.rle_size(source)
        return source
    if not isinstance(source, list) or not source:
        raise UserError(
            f"segmentation {str(source)[:60]} is malformed; expected polygons [[x0, y0, ...], ...] or {{size, counts}}"
        )
    return [rle.check_polygon(polygon) for polygon in source]


# Images and masks


def sample_size(sample: Sample) -> tuple[int, int]:
    """(width, height) of the sample's image."""
    return sample.image_size or header_size(sample.image_file)


def header_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image as it is shown, from its header. Raises UserError if it is missing or no image."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
            return image.size[::-1] if turned else image.size
    except Exception:
        return open_image(path).size  # says what is wrong with it


def read_mask(source: MaskSource, image_size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The mask for an image of (width, height). Raises UserError if it is damaged or of another size."""
    _check_mask_size(source, image_size)
    if isinstance(source, Path):
        return _read_mask_image(source)
    return rle.decode(source) if isinstance(source, Mapping) else rle.from_polygons(source, image_size[::-1])


def _read_mask_image(path: Path) -> Bool[np.ndarray, "height width"]:
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            pixels = np.asarray(upright.convert("RGB") if len(upright.getbands()) > 1 else upright)
    except Exception as error:
        check_pointer(path)
        raise UserError(f"the mask {path} cannot be read: {' '.join(str(error).split())}") from None
    return np.asarray(np.atleast_3d(pixels).any(axis=2))  # [H, W] or [H, W, 3] -> [H, W]


def mask_box(mask: Bool[np.ndarray, "height width"] | None) -> Box:
    """The tight box of a mask, edges exclusive. Raises UserError if there is nothing to enclose."""
    if mask is None or not mask.any():
        raise UserError("no ground truth; give it bbox, mask_path or segmentation")
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)
