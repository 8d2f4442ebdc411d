"""RefCOCO, RefCOCO+ and RefCOCOg as their authors distribute them.

`refs(<split_by>).p` beside `instances.json`, and COCO train2014.

The pickle is read without executing anything in it. One sample per EXPRESSION: RefCOCO by UNC has 10,834 in val, 5,657
in testA and 5,095 in testB; RefCOCO+ by UNC 10,758, 5,726 and 4,889; RefCOCOg by UMD 4,896 in val and 9,602 in test.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.base.console import progress
from lab.base.errors import UserError
from lab.base.files import check_id
from lab.base.opcodes import Forbidden
from lab.base.pickles import load_refs
from lab.datasets.sample import Sample, check_box, check_source, check_truth

log = logging.getLogger(__name__)

TEXTS = ("sent", "raw")


def read_refcoco(
    folder: Path, images: Path, *, split: str, split_by: str = "unc", text: str = "sent"
) -> Iterator[Sample]:
    """Yields one sample per expression of `split`, id `<ref_id>_<sent_id>`, box and mask those of the COCO annotation.

    `images` holds COCO's train2014 pictures. `text` is `sent` (lower case, no punctuation: what the benchmarks ask) or
    `raw` (as typed). Raises UserError if a file, a key or an image is missing, or a pickle asks for more than plain
    containers.
    """
    path = folder / f"refs({split_by}).p"
    refs = _of_split(_load_refs(path), split, path)
    instances = _load_instances(folder / "instances.json")
    pictures, annotations = ({entry["id"]: entry for entry in instances[key]} for key in ("images", "annotations"))
    categories = {entry["id"]: entry["name"] for entry in instances.get("categories", [])}
    _need_images(
        sorted({pictures[ref["image_id"]]["file_name"] for ref in refs if ref.get("image_id") in pictures}), images
    )
    for ref in progress(refs, f"{folder.name} {split}"):
        try:
            truth = _truth(ref, annotations[ref["ann_id"]], pictures[ref["image_id"]], images, categories)
            samples = _expressions(ref, truth, text)
        except KeyError as error:
            raise UserError(
                f"{path}: ref {ref.get('ref_id')}: {error} is not among its keys or in instances.json"
            ) from None
        except (UserError, TypeError, ValueError) as error:
            raise UserError(f"{path}: ref {ref.get('ref_id')}: {error}") from None
        yield from samples


def _truth(
    ref: Mapping[str, Any], annotation: Mapping[str, Any], picture: Mapping[str, Any], images: Path, names: Mapping
) -> Sample:
    """What all expressions of a ref share: a sample without id and query."""
    x, y, width, height = annotation["bbox"]
    sample = Sample(
        id="",
        query="",
        image_file=images / picture["file_name"],
        box_xyxy=check_box((x, y, x + width, y + height)),
        mask_source=check_source(annotation["segmentation"]),
        split=ref["split"],
        image_size=(int(picture["width"]), int(picture["height"])),
        extra={
            **{key: ref[key] for key in ("ref_id", "ann_id", "image_id")},
            "category": names.get(annotation.get("category_id")),
        },
    )
    check_truth(sample, sample.image_size)
    return sample


def _expressions(ref: Mapping[str, Any], truth: Sample, text: str) -> list[Sample]:
    sentences = ref["sentences"]
    return [
        replace(truth, id=check_id(f"{ref['ref_id']}_{sentence['sent_id']}"), query=str(sentence[text]))
        for sentence in sentences
    ]


def _of_split(refs: list[dict[str, Any]], split: str, path: Path) -> list[dict[str, Any]]:
    counts = Counter(str(ref.get("split")) for ref in refs)
    if split not in counts:
        found = ", ".join(f"{name} ({count} refs)" for name, count in sorted(counts.items()))
        raise UserError(f"{path} has no split {split!r}; choose from {found}")
    return [ref for ref in refs if ref.get("split") == split]


# Files


def _load_refs(path: Path) -> list[dict[str, Any]]:
    try:
        refs = load_refs(path)
    except FileNotFoundError:
        found = ", ".join(sorted(other.name for other in path.parent.glob("refs(*).p"))) or "no refs file at all"
        raise UserError(
            f"no {path}; {path.parent} has {found}: choose split_by from what stands in the brackets"
        ) from None
    except Forbidden as error:
        raise UserError(
            f"{path}: refused, it asks for {error}; a refs file holds only lists, dicts, texts and numbers"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(f"{path}: truncated or not a refs file ({type(error).__name__}); unpack it again") from None
    if not isinstance(refs, list) or not refs or not all(isinstance(ref, dict) for ref in refs):
        raise UserError(
            f"{path}: not a refs file; expected a list of refs, each with ref_id, ann_id, image_id, split and sentences"
        )
    return refs


def _load_instances(path: Path) -> dict[str, Any]:
    log.info("reading %s", path)  # takes seconds
    try:
        instances = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); expected the instances.json that comes with the refs"
        ) from None
    if not isinstance(instances, dict) or not all(
        isinstance(instances.get(key), list) for key in ("images", "annotations")
    ):
        raise UserError(f"{path}: not COCO annotations; expected the keys images and annotations")
    return instances


def _need_images(names: list[str], folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"no image folder {folder}; give the one that holds COCO_train2014_000000000009.jpg and so on")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(names)} images, the first: {missing[0]}; COCO's train2014 is needed"
        )
