"""The one sample type, and its ground truth: decoded on demand and checked against the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.base.errors import UserError, quoted
from lab.base.images import header_size
from lab.datasets.boxes import Box, check_inside
from lab.datasets.masks import Mask, MaskSource, check_mask_size, mask_box, need_object, read_mask

THINGS = ("thing", "ann_id", "ref_id")  # keys of a data file, of which the first that is there counts


@dataclass(frozen=True)
class Sample:
    """One expression about one image, with what is known of the truth.

    `box_xyxy` is in pixels, edges exclusive; `box_form` is how a file had it, one of `boxes.FORMS`. `mask_source` is an
    image file, a COCO RLE (compressed or not) or polygons [[x0, y0, x1, y1, ...], ...]; `ignore_source`, in the same
    forms, is what no metric counts. `image_size` is (width, height). `line` is where the data file has the sample,
    counted over all files of a pattern (`Source.place`).
    Without `present` the expression describes nothing in the picture, and there is neither box nor mask.
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
    box_form: str = "xywh"
    present: bool = True

    @property
    def thing(self) -> tuple[str, str, str] | None:
        """What is meant, the same for samples that put it in other words; None if the data does not tell."""
        named = next((name for name in THINGS if name in self.extra), None)
        return None if named is None else (str(self.image_file), named, str(self.extra[named]))


@dataclass(frozen=True, eq=False)
class Truth:
    """What a prediction is measured against. `area` in pixels: of the mask if there is one, else of the box."""

    id: str
    box_xyxy: Box
    mask: Mask | None
    ignore: Mask | None
    area: float
    split: str | None
    picture: str = ""  # the image file, the same for samples that share one


def read_truth(sample: Sample, image_size: tuple[int, int] | None = None) -> Truth:
    """The sample's box and mask; the box around the mask if it has no box.

    `image_size` is (width, height) if known; otherwise the image's header is read. Raises UserError, beginning with the
    sample's id, if there is no truth, the box leaves the image, or a mask is damaged, empty or of another size than the
    image.
    """
    try:
        return decode_truth(sample, image_size or sample_size(sample))
    except UserError as error:
        raise UserError(f"sample {sample.id}: {error}") from None


def decode_truth(sample: Sample, image_size: tuple[int, int]) -> Truth:
    """The same for an image of (width, height). Its errors do not name the sample."""
    check_truth(sample, image_size, masks=False)  # reading them checks them
    mask, ignore = (
        None if source is None else read_mask(source, image_size)
        for source in (sample.mask_source, sample.ignore_source)
    )
    if mask is not None and sample.mask_source is not None:
        need_object(mask, sample.mask_source)
    box = sample.box_xyxy or mask_box(mask)
    area = (box[2] - box[0]) * (box[3] - box[1]) if mask is None else float(mask.sum())
    return Truth(sample.id, box, mask, ignore, area, sample.split, str(sample.image_file))


def need_truth(samples: Sequence[Sample], where: str, *, mask: bool = False) -> None:
    """Raises UserError unless every sample that is present has a box or a mask (with `mask`: a mask).

    `where` names the file.
    """
    there = [sample for sample in samples if sample.present]
    without = [sample.id for sample in there if sample.mask_source is None and (mask or sample.box_xyxy is None)]
    if without:
        what, keys = ("mask", "mask_path or segmentation") if mask else ("box", "bbox, mask_path or segmentation")
        found = f"no ground-truth {what} for {len(without)} of {len(there)} samples (the first: {without[0]})"
        raise UserError(f"{where}: {found}; give each line {keys}")
    if not there:
        raise UserError(f"{where}: all {len(samples)} samples describe nothing in the picture (present is false)")


def with_period(text: str) -> str:
    """The expression ending in a full stop, as the paper's prompts do, unless it ends in one or in ! or ? already."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?")) else text + "."


# Checks


def check_query(text: Any) -> str:
    """The expression. Raises UserError unless it is a text that says something and can be written."""
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"expression {quoted(text)} says nothing; expected a text that is not empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"expression {quoted(text)} holds half a character (a lone surrogate)") from None
    return text


def check_truth(sample: Sample, image_size: tuple[int, int] | None, *, masks: bool = True) -> None:
    """Raises UserError unless box and, if `masks`, masks fit an image of (width, height).

    Without a size, what can be seen without it.

    Masks are not decoded: of an image file only the header is read.
    """
    if not sample.present and (sample.box_xyxy is not None or sample.mask_source is not None):
        raise UserError("present is false, but there is a box or a mask; leave out one or the other")
    if image_size is not None:
        check_size(sample, image_size)
    if sample.box_xyxy is not None:
        check_inside(sample.box_xyxy, image_size, sample.box_form)
    if image_size is not None and masks:
        for source in (sample.mask_source, sample.ignore_source):
            if source is not None:
                check_mask_size(source, image_size)


def check_size(sample: Sample, image_size: tuple[int, int]) -> None:
    """Raises UserError if the sample says another size than its image's (width, height)."""
    if sample.image_size and sample.image_size != image_size:
        said, found = (" x ".join(map(str, size)) for size in (sample.image_size, image_size))
        raise UserError(f"image_size says {said} pixels, the image has {found}; correct one of them")


def sample_size(sample: Sample) -> tuple[int, int]:
    """(width, height) of the sample's image."""
    return sample.image_size or header_size(sample.image_file)
