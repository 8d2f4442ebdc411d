"""The same samples left to right: pictures, boxes, masks, and the words left and right in what is said.

    samples = list(mirrored(samples, Path("data/mirrored")))     # writes the pictures there, as PNG

A picture is written once, whatever the number of its samples. Writing in a picture is mirrored too, and of what an
expression says only whole words are swapped: left, right, leftmost, right-hand and the like, not l or r.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from PIL import ImageOps

from lab.base.errors import UserError
from lab.base.images import open_image
from lab.datasets.boxes import Box
from lab.datasets.masks import MaskSource, read_mask
from lab.datasets.rle import encode
from lab.datasets.sample import Sample, sample_size

SIDES = {"left": "right", "right": "left"}
WORDS = re.compile(r"\b(left|right)(?=(most|wards?|hand)?\b)", re.IGNORECASE)
SAID, PLACED = "answer", "others"  # what `lab.ablate.things` reads of a sample: words, and places


def mirrored(samples: Iterable[Sample], folder: Path) -> Iterator[Sample]:
    """The samples of the mirrored pictures, which go to the folder. Their ids stay; the other things are left out.

    Raises UserError if a picture or a mask cannot be read, or a picture not be written.
    """
    written: dict[Path, Path] = {}
    taken: set[str] = set()
    for sample in samples:
        if sample.image_file not in written:
            written[sample.image_file] = _write(sample.image_file, folder, taken)
        yield _turned(sample, written[sample.image_file])


def swapped(text: str) -> str:
    """`the bird on the left` -> `the bird on the right`, and the other way round; capitals stay."""
    return WORDS.sub(lambda found: _alike(found[1], SIDES[found[1].lower()]), text)


def mirrored_box(box_xyxy: Box, width: int) -> Box:
    """A box, edges exclusive, in a picture of that width."""
    x0, y0, x1, y1 = box_xyxy
    return width - x1, y0, width - x0, y1


def _alike(pattern: str, word: str) -> str:
    return word.upper() if pattern.isupper() else word.capitalize() if pattern[0].isupper() else word


def _turned(sample: Sample, picture: Path) -> Sample:
    size = sample_size(sample)
    extra = {key: value for key, value in sample.extra.items() if key != PLACED}
    if isinstance(extra.get(SAID), str):
        extra[SAID] = swapped(extra[SAID])
    return replace(
        sample,
        query=swapped(sample.query),
        image_file=picture,
        box_xyxy=None if sample.box_xyxy is None else mirrored_box(sample.box_xyxy, size[0]),
        mask_source=_mask(sample.mask_source, size),
        ignore_source=_mask(sample.ignore_source, size),
        extra=extra,
        box_form="xywh",
    )


def _mask(source: MaskSource | None, size: tuple[int, int]) -> MaskSource | None:
    return None if source is None else encode(read_mask(source, size)[:, ::-1])


def _write(picture: Path, folder: Path, taken: set[str]) -> Path:
    name, number = picture.stem, 1
    while name in taken:
        number += 1
        name = f"{picture.stem}-{number}"
    taken.add(name)
    target = folder / f"{name}.png"
    image = ImageOps.mirror(open_image(picture))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        image.save(target)
    except OSError as error:
        raise UserError(f"cannot write {target} ({error.strerror or error}): choose another --out") from None
    return target
