"""ReasonSeg (LISA): a folder of `<name>.json` beside `<name>.jpg`, in `train`, `val` and `test`.

`text` is a list of expressions, `is_sentence` says whether they are sentences or phrases, `shapes` are polygons
labelled `target`, or `ignore` (counted neither way); `flag` means nothing. One sample per expression.

Shapes are those of labelme, which people draw such files with. Polygons, rectangles (two corners) and circles (centre,
a point on the rim) have an area. Other shapes, and those labelled as background or not at all, are left out.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lab.base.console import progress
from lab.base.errors import UserError, quoted
from lab.base.files import check_id, read_regular
from lab.base.images import header_size
from lab.base.paths import exists
from lab.base.places import readable_folder
from lab.datasets import rle
from lab.datasets.masks import Mask, mask_box
from lab.datasets.sample import Sample
from lab.datasets.skipped import NO_AREA, NO_EXPRESSION, NO_PICTURE, NO_TARGET, Skip, Stop, Unfit, expressions, stop
from lab.datasets.texts import decode_any, parse

ENDINGS = (".jpg", ".jpeg", ".png")
BACKGROUND = ("background", "_background_", "__background__", "bg")
Points = list[tuple[float, float]]


def read_reasonseg(folder: Path, *, split: str, skip: Skip = stop) -> Iterator[Sample]:
    """Yields one sample per expression, id `<name>_<number>`.

    A sample has the mask of its target, the mask of what to ignore, and the box around the target.

    `folder` holds the split's folder, or is it. `skip` gets every file, shape and expression that is of no use. Raises
    UserError if there are no annotations.
    """
    folder = folder / split if readable_folder(folder) and readable_folder(folder / split) else folder
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise UserError(
            f"{folder} holds no ReasonSeg annotations; expected <name>.json beside <name>.jpg, in a "
            f"folder named {split}"
        )
    for path in progress(paths, f"ReasonSeg {split}"):
        try:
            samples = _read(path, split, skip)
        except Stop:
            raise
        except (UserError, TypeError, ValueError, OSError) as error:
            skip(str(path), error)
        else:
            yield from samples


def _read(path: Path, split: str, skip: Skip) -> list[Sample]:
    content = parse(decode_any(read_regular(path)))
    missing = [key for key in ("shapes", "text", "is_sentence") if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"it lacks {', '.join(missing)}; expected shapes, text and is_sentence")
    image, size = _picture(path, content)
    target, ignore = masks(_areas(content["shapes"], size, str(path), skip), size)
    if not target.any():
        raise Unfit(NO_TARGET, "no ground truth: no shape in the picture is the target")
    box, extra = mask_box(target), {"is_sentence": bool(content["is_sentence"])}
    sources = rle.encode(target), rle.encode(ignore) if ignore.any() else None
    texts = [content["text"]] if isinstance(content["text"], str) else content["text"]
    if not isinstance(texts, list) or not texts:
        raise Unfit(NO_EXPRESSION, f"text {quoted(texts)} has no expression; expected a list of texts")
    return [
        Sample(check_id(f"{path.stem}_{number}"), text, image, box, *sources, split, size, extra)
        for number, text in expressions(enumerate(texts), f"{path} text", skip)
    ]


def _picture(path: Path, content: Mapping[str, Any]) -> tuple[Path, tuple[int, int]]:
    """The picture beside a file, and its (width, height), which labelme writes into the file too."""
    paths = (path.with_suffix(ending) for ending in ENDINGS)
    image = next((one for one in paths if exists(one)), path.with_suffix(".jpg"))
    try:
        size = header_size(image)
    except UserError as error:
        raise Unfit(NO_PICTURE, str(error)) from None
    said = content.get("imageWidth"), content.get("imageHeight")
    if None not in said and said != size:
        raise Unfit(NO_PICTURE, f"it was drawn on {said[0]} x {said[1]} pixels, {image.name} has {size[0]} x {size[1]}")
    return image, size


# shapes


def _areas(shapes: Any, image_size: tuple[int, int], where: str, skip: Skip) -> Iterator[tuple[bool, Mask]]:
    """Each shape that has an area: whether it is to be ignored, and its pixels."""
    if not isinstance(shapes, list):
        raise UserError(f"shapes {quoted(shapes)} is malformed; expected a list of shapes")
    for number, shape in enumerate(shapes, start=1):
        try:
            label = _label(shape)
            if label == "flag":
                continue
            drawn = _draw(shape, image_size)
        except UserError as error:
            skip(f"{where} shape {number}", Unfit(NO_AREA, str(error)))
        else:
            yield "ignore" in label, drawn


def _label(shape: Any) -> str:
    """The label in lower case. Raises UserError if it is none, or says that nothing is there."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.strip():
        raise UserError(f"it has the label {quoted(label)}; expected target or ignore")
    if label.strip().lower() in BACKGROUND:
        raise UserError(f"it is labelled {label}, which is no target")
    return label.strip().lower()


def masks(areas: Iterable[tuple[bool, Mask]], image_size: tuple[int, int]) -> tuple[Mask, Mask]:
    """What is the target and what is ignored: the smaller shape lies on the larger, outlines included.

    So do the authors draw them, with OpenCV; about 0.2 % of the pixels, all on outlines, come out differently here.
    """
    layers = np.zeros(image_size[::-1], np.uint8)
    for ignored, drawn in sorted(areas, key=lambda area: -int(area[1].sum())):
        layers[drawn] = 2 if ignored else 1
    return layers == 1, layers == 2


def _draw(shape: Mapping[str, Any], image_size: tuple[int, int]) -> Mask:
    """The shape's pixels. Raises UserError if it has no area."""
    kind, points = shape.get("shape_type") or "polygon", _points(shape.get("points"))
    if kind == "circle" and len(points) == 2 and points[0] != points[1]:
        return _circle(points[0], points[1], image_size)
    if kind == "rectangle" and len(points) == 2 and points[0][0] != points[1][0] and points[0][1] != points[1][1]:
        (x0, y0), (x1, y1) = points
        return _polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], image_size)
    if kind == "polygon" or (kind == "rectangle" and len(points) == 4):
        return _polygon(points, image_size)
    raise UserError(f"a {kind} of {len(points)} points has no area here; expected a polygon, a rectangle or a circle")


def _points(points: Any) -> Points:
    try:
        found = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError, OverflowError):
        found = []
    if not found or not all(abs(value) < rle.FARTHEST for point in found for value in point):  # also refuses NaN
        raise UserError(f"points {quoted(points)} are malformed; expected [[x, y], ...] in pixels")
    return found


def _polygon(points: Points, image_size: tuple[int, int]) -> Mask:
    rle.check_polygon([value for point in points for value in point])
    canvas, corners = Image.new("1", image_size), [(int(x), int(y)) for x, y in points]
    ImageDraw.Draw(canvas).polygon(corners, fill=1)
    ImageDraw.Draw(canvas).line(
        [*corners, corners[0]], fill=1
    )  # OpenCV's fill includes the outline, Pillow's not all of it
    return np.asarray(canvas)


def _circle(centre: tuple[float, float], rim: tuple[float, float], image_size: tuple[int, int]) -> Mask:
    radius = math.dist(centre, rim)
    ys, xs = np.ogrid[: image_size[1], : image_size[0]]
    inside: Mask = np.hypot(xs - centre[0], ys - centre[1]) <= radius  # [H, W]
    return inside
