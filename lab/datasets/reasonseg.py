"""ReasonSeg (LISA): a folder of `<name>.json` beside `<name>.jpg`, in `train`, `val` and `test`.

`text` is a list of expressions, `is_sentence` says whether they are sentences or phrases, `shapes` are polygons
labelled `target`, or `ignore` (counted neither way); `flag` means nothing. One sample per expression.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from lab.base.console import progress
from lab.base.errors import UserError
from lab.base.files import check_id
from lab.datasets import rle
from lab.datasets.sample import Sample, header_size, mask_box

ENDINGS = (".jpg", ".jpeg", ".png")


def read_reasonseg(folder: Path, *, split: str) -> Iterator[Sample]:
    """Yields one sample per expression, id `<name>_<number>`.

    A sample has the mask of its target, the mask of what to ignore, and the box around the target.

    `folder` holds the split's folder, or is it. Raises UserError if the folder, an image or a key is missing, or
    nothing is the target.
    """
    folder = folder / split if (folder / split).is_dir() else folder
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise UserError(
            f"{folder} holds no ReasonSeg annotations; expected <name>.json beside <name>.jpg, in a "
            f"folder named {split}"
        )
    for path in progress(paths, f"ReasonSeg {split}"):
        try:
            samples = _read(path, split)
        except KeyError as error:
            raise UserError(f"{path} lacks {error}; expected shapes, text and is_sentence") from None
        except (UserError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {error}") from None
        yield from samples


def _read(path: Path, split: str) -> list[Sample]:
    content = _load(path)
    image = next(
        (path.with_suffix(ending) for ending in ENDINGS if path.with_suffix(ending).exists()), path.with_suffix(".jpg")
    )
    size = header_size(image)
    target, ignore = masks(content["shapes"], size)
    box, extra = mask_box(target), {"is_sentence": bool(content["is_sentence"])}
    sources = rle.encode(target), rle.encode(ignore) if ignore.any() else None
    texts = [content["text"]] if isinstance(content["text"], str) else content["text"]
    return [
        Sample(check_id(f"{path.stem}_{number}"), str(text), image, box, *sources, split, size, extra)
        for number, text in enumerate(texts)
    ]


def _load(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")  # some files are
    return json.loads(text)


def masks(
    shapes: list[dict[str, Any]], image_size: tuple[int, int]
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """What is the target and what is ignored: the smaller shape lies on the larger, outlines included.

    So do the authors draw them, with OpenCV; about 0.2 % of the pixels, all on outlines, come out differently here.
    """
    drawn = [_draw(shape["points"], image_size) for shape in shapes if shape["label"].lower() != "flag"]
    labels = ["ignore" in shape["label"].lower() for shape in shapes if shape["label"].lower() != "flag"]
    layers = np.zeros(image_size[::-1], np.uint8)
    for i in sorted(range(len(drawn)), key=lambda i: -int(drawn[i].sum())):
        layers[drawn[i]] = 2 if labels[i] else 1
    return layers == 1, layers == 2


def _draw(points: list[list[float]], image_size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    canvas, corners = Image.new("1", image_size), [(int(x), int(y)) for x, y in points]
    ImageDraw.Draw(canvas).polygon(corners, fill=1)
    ImageDraw.Draw(canvas).line(
        [*corners, corners[0]], fill=1
    )  # OpenCV's fill includes the outline, Pillow's not all of it
    return np.asarray(canvas)
