"""RefCOCO, RefCOCO+ and RefCOCOg as their authors distribute them.

`refs(<split_by>).p` beside `instances.json`, and COCO train2014.

The pickle is read without executing anything in it. One sample per EXPRESSION: RefCOCO by UNC has 10,834 in val, 5,657
in testA and 5,095 in testB; RefCOCO+ by UNC 10,758, 5,726 and 4,889; RefCOCOg by UMD 4,896 in val and 9,602 in test.

gRefCOCO (`grefs(unc).json`) also asks for what is not there, which gives samples that are not `present`. It asks for
several things at once, too: those refs are left out.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.base.console import progress
from lab.base.errors import UserError, in_words
from lab.base.files import MOST_OF_DATA, check_id, read_json
from lab.base.numbers import whole
from lab.base.opcodes import Forbidden
from lab.base.paths import exists
from lab.base.pickles import load_refs
from lab.base.places import readable_folder
from lab.datasets.boxes import read_box
from lab.datasets.masks import check_source
from lab.datasets.sample import Sample, decode_truth
from lab.datasets.skipped import (
    NO_EXPRESSION,
    SEVERAL_TARGETS,
    Skip,
    Stop,
    Unfit,
    check_picture,
    expressions,
    stop,
)

log = logging.getLogger(__name__)

TEXTS = ("sent", "raw")


def read_refcoco(
    folder: Path, images: Path, *, split: str, split_by: str = "unc", text: str = "sent", skip: Skip = stop
) -> Iterator[Sample]:
    """Yields one sample per expression of `split`, id `<ref_id>_<sent_id>`, box and mask those of the COCO annotation.

    `images` holds COCO's train2014 pictures. `text` is `sent` (lower case, no punctuation: what the benchmarks ask) or
    `raw` (as typed). `skip` gets every ref and expression that is of no use. Raises UserError if a file or an image is
    missing, or a pickle asks for more than plain containers.
    """
    path = _refs_file(folder, split_by)
    refs = _of_split(_load_refs(path), split, path)
    instances = _load_instances(folder / "instances.json")
    pictures, annotations, categories = (_by_id(instances.get(key)) for key in ("images", "annotations", "categories"))
    names = {name for ref in refs if isinstance(name := _picture_of(ref, pictures).get("file_name"), str)}
    _need_images(sorted(names), images)
    sizes: dict[Path, tuple[int, int]] = {}
    for ref in progress(refs, f"{folder.name} {split}"):
        where = f"{path}: ref {ref.get('ref_id')}"
        try:
            target, picture = _target(ref), pictures[ref["image_id"]]
            annotation = None if target is None else annotations[target]
            truth = _truth(ref, annotation, picture, images, categories)
            check_picture(truth, sizes)
            samples = _expressions(ref, truth, text, where, skip)
        except Stop:
            raise
        except KeyError as error:
            skip(where, UserError(f"{error} is not among its keys or in instances.json"))
        except (UserError, TypeError, ValueError) as error:
            skip(where, error)
        else:
            yield from samples


def _target(ref: Mapping[str, Any]) -> Any:
    """The id of the one annotation that a ref is about; None: nothing in the picture. Raises Unfit for several."""
    ids = ref["ann_id"] if isinstance(ref["ann_id"], list | tuple) else [ref["ann_id"]]
    if ref.get("no_target") or not ids or list(ids) == [-1]:
        return None
    if len(ids) > 1:
        raise Unfit(SEVERAL_TARGETS, f"it is about {len(ids)} annotations; expected one")
    return ids[0]


def _truth(
    ref: Mapping[str, Any],
    annotation: Mapping[str, Any] | None,
    picture: Mapping[str, Any],
    images: Path,
    categories: Mapping,
) -> Sample:
    """What all expressions of a ref share: a sample without id and query. Without an annotation nothing is present."""
    size = whole(picture["width"]), whole(picture["height"])
    about = {"ref_id": ref["ref_id"], "ann_id": _target(ref), "image_id": ref["image_id"]}
    image = images / picture["file_name"]
    if annotation is None:
        return Sample("", "", image, split=ref["split"], image_size=size, extra=about, present=False)
    category = categories.get(annotation.get("category_id"), {}).get("name")
    sample = Sample(
        id="",
        query="",
        image_file=image,
        box_xyxy=read_box(annotation["bbox"]),
        mask_source=check_source(annotation["segmentation"]),
        split=ref["split"],
        image_size=size,
        extra={**about, "category": category},
    )
    decode_truth(sample, size)
    return sample


def _expressions(ref: Mapping[str, Any], truth: Sample, text: str, where: str, skip: Skip) -> list[Sample]:
    texts = [(one["sent_id"], one.get(text)) for one in ref["sentences"]]
    if not texts:
        raise Unfit(NO_EXPRESSION, "it has no sentences")
    return [
        replace(truth, id=check_id(f"{ref['ref_id']}_{number}"), query=said)
        for number, said in expressions(texts, f"{where} sentence", skip)
    ]


def _by_id(entries: Any) -> dict[Any, dict[str, Any]]:
    """The entries of a list of COCO's, by their id; what is no entry is nobody's."""
    found = (entry for entry in entries or () if isinstance(entry, dict))
    return {entry["id"]: entry for entry in found if isinstance(entry.get("id"), int | str)}


def _picture_of(ref: Mapping[str, Any], pictures: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    """COCO's entry of the ref's picture, {} if there is none."""
    image_id = ref.get("image_id")
    return pictures.get(image_id, {}) if isinstance(image_id, int | str) else {}


def _of_split(refs: list[dict[str, Any]], split: str, path: Path) -> list[dict[str, Any]]:
    counts = Counter(str(ref.get("split")) for ref in refs)
    if split not in counts:
        found = ", ".join(f"{name} ({count} refs)" for name, count in sorted(counts.items()))
        raise UserError(f"{path} has no split {split!r}; choose from {found}")
    return [ref for ref in refs if ref.get("split") == split]


# Files


def _refs_file(folder: Path, split_by: str) -> Path:
    """The refs file of a division. Raises UserError, with those that are there, if it is missing."""
    readable_folder(folder)  # or it is told why not
    paths = [folder / f"refs({split_by}).p", folder / f"grefs({split_by}).json"]
    path = next((path for path in paths if exists(path)), None)
    if path is None:
        there = sorted(other.name for pattern in ("refs(*).p", "grefs(*).json") for other in folder.glob(pattern))
        found = ", ".join(there) or "no refs file at all"
        raise UserError(f"no {paths[0]}; {folder} has {found}: choose split_by from what stands in the brackets")
    return path


def _load_refs(path: Path) -> list[dict[str, Any]]:
    try:
        refs = read_json(path) if path.suffix == ".json" else load_refs(path)
    except Forbidden as error:
        raise UserError(
            f"{path}: refused, it asks for {error}; a refs file holds only lists, dicts, texts and numbers"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(f"{path}: truncated or not a refs file ({in_words(error)}); unpack it again") from None
    if not isinstance(refs, list) or not refs or not all(isinstance(ref, dict) for ref in refs):
        raise UserError(
            f"{path}: not a refs file; expected a list of refs, each with ref_id, ann_id, image_id, split and sentences"
        )
    return refs


def _load_instances(path: Path) -> dict[str, Any]:
    log.info("reading %s", path)  # takes seconds
    try:
        instances = read_json(path, MOST_OF_DATA)
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
    if not readable_folder(folder):
        raise UserError(f"no image folder {folder}; give the one that holds COCO_train2014_000000000009.jpg and so on")
    missing = [name for name in names if not exists(folder / name)]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(names)} images, the first: {missing[0]}; COCO's train2014 is needed"
        )
