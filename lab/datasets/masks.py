"""True masks: what counts as the object in an image file, in COCO's RLE and in polygons.

| image file | what is the object |
|---|---|
| grey, colour, 1 bit, 16 bits | anything but 0 (black) |
| with a palette | anything but index 0, which must be the one black; otherwise it is refused |
| with transparent parts | what is opaque (half and more), whatever its colour |
| lossy (JPEG, WebP, AVIF, HEIC, JPEG 2000), floats | above half of the range: compression leaves no clean 0 |

Masks are bool [height, width], of the picture's size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageOps

from lab.base.errors import UserError
from lab.base.files import check_pointer
from lab.base.images import add_plug_ins, eight_bits, header_size, is_deep, no_file
from lab.base.places import named
from lab.base.tars import source
from lab.datasets import rle
from lab.datasets.boxes import Box

MaskSource = Path | Mapping[str, Any] | Sequence[Sequence[float]]  # image file | COCO RLE | polygons
Mask = Bool[np.ndarray, "height width"]

LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "HEIF", "JXL")  # formats, by Pillow's names
LOSSY_TIFF = ("jpeg", "webp")  # ways in which a TIFF can be compressed
HALF = 127  # of 255


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


def check_mask_size(source: MaskSource, image_size: tuple[int, int]) -> None:
    """Raises UserError unless the mask is of the size of its image, (width, height). Polygons fit every image."""
    if isinstance(source, Path):
        _check_size(header_size(source), image_size)
    elif isinstance(source, Mapping):
        _check_size(rle.rle_size(source)[::-1], image_size)


def _check_size(size: tuple[int, ...], image_size: tuple[int, int]) -> None:
    if size != image_size:
        raise UserError(
            f"mask is {size[0]} x {size[1]}, its image {image_size[0]} x {image_size[1]}; expected the same size"
        )


def read_mask(source: MaskSource, image_size: tuple[int, int]) -> Mask:
    """The mask for an image of (width, height). Raises UserError if it is damaged or of another size."""
    if isinstance(source, Path):  # whose header is not read first: of a PNG, that takes as long as the whole
        mask = _read_image(source)
        _check_size(mask.shape[::-1], image_size)
        return mask
    check_mask_size(source, image_size)
    return rle.decode(source) if isinstance(source, Mapping) else rle.from_polygons(source, image_size[::-1])


def need_object(mask: Mask, source: MaskSource) -> None:
    """Raises UserError if nothing is the object."""
    if not mask.any():
        rule = " (in a lossy file: brighter than half; save masks as PNG)" if isinstance(source, Path) else ""
        raise UserError(f"its mask is empty; expected one pixel or more of the object{rule}")


def mask_box(mask: Mask | None) -> Box:
    """The tight box of a mask, edges exclusive. Raises UserError if there is nothing to enclose."""
    if mask is None or not mask.any():
        raise UserError("no ground truth; give it bbox, mask_path or segmentation")
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)


# image files


def _brightest(image: Image.Image) -> np.ndarray:
    """The highest of red, green and blue, uint8 [H, W]."""
    if image.mode == "L":
        return np.asarray(image)
    red, green, blue = np.moveaxis(
        np.asarray(image.convert("RGB")), 2, 0
    )  # one by one: max(axis=2) takes ten times as long
    return np.maximum(np.maximum(red, green), blue)


def _read_image(path: Path) -> Mask:
    add_plug_ins()
    try:
        if kind := no_file(path):
            raise UserError(kind)
        with Image.open(source(path)) as image:
            lossy = image.format in LOSSY or image.info.get("compression") in LOSSY_TIFF
            return object_of(ImageOps.exif_transpose(image), lossy=lossy)
    except UserError as error:
        raise UserError(f"the mask {named(path)} {error}") from None
    except Exception as error:
        header_size(path)  # says what is wrong if it is no picture at all
        check_pointer(path)
        raise UserError(f"the mask {named(path)} cannot be read: {' '.join(str(error).split())}") from None


def object_of(image: Image.Image, *, lossy: bool) -> Mask:
    """What is the object in an image that is a mask, by the rules above."""
    if is_deep(image):
        values = np.asarray(image)
        return eight_bits(values) > HALF if lossy or values.dtype.kind == "f" else values != 0
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]  # [H, W]
        if (alpha <= HALF).any():
            return alpha > HALF
    bright = _brightest(image)
    found: Mask = bright > (HALF if lossy else 0)
    if image.mode == "P" and not np.array_equal(found, np.asarray(image) != 0):
        raise UserError("has a palette whose index 0 is not its one black; save it as greyscale, 0 being no object")
    return found
