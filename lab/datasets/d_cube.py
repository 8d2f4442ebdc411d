"""D3, also D-cube (arXiv 2307.12813): descriptions, of what is there and of what lacks something, over whole pictures.

`images.pkl`, `annotations.pkl`, `sentences.pkl` and `groups.pkl` as distributed, and the pictures. Each picture is
asked the sentences of its own group, as the authors' default ("intra-group") protocol does. A sentence that describes
nothing in a picture gives a sample that is not `present`; one that describes several things is left out, for this
project asks for one.

The pickles are read without executing anything in them. They hold tables by number: of pictures (`file_name`, `width`,
`height`, `anno_id`, `group_id`), of annotations (`sent_id` [...], `bbox` [[x, y, w, h]], `segmentation` [RLE]), of
sentences (`raw_sent`, `is_negative`: whether it speaks of an absence), and of groups (`inner_sent_id`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from lab.base.console import progress
from lab.base.errors import UserError, in_words
from lab.base.files import check_id
from lab.base.numbers import whole
from lab.base.opcodes import Forbidden
from lab.base.pickles import load_refs
from lab.datasets import rle
from lab.datasets.boxes import read_box
from lab.datasets.sample import Sample, decode_truth
from lab.datasets.skipped import SEVERAL_TARGETS, Skip, Stop, Unfit, check_picture, expressions, stop

SPLITS = {"full": (False, True), "pres": (False,), "abs": (True,)}  # is_negative of the sentences
Table = Mapping[int, Mapping[str, Any]]


def read_d_cube(folder: Path, images: Path, *, split: str, skip: Skip = stop) -> Iterator[Sample]:
    """Yields one sample per picture and sentence, id `<picture>_<sentence>`, whose `split` is pres or abs.

    `split` is full, or pres or abs alone. `skip` gets what is of no use. Raises UserError if a file is missing, or asks
    for more than plain containers and arrays.
    """
    if split not in SPLITS:
        raise UserError(f"--split {split}: D-cube has {', '.join(SPLITS)}")
    pictures, annotations, sentences, groups = (
        _load(folder / f"{name}.pkl") for name in ("images", "annotations", "sentences", "groups")
    )
    sizes: dict[Path, tuple[int, int]] = {}
    for number, picture in progress(list(pictures.items()), "D-cube"):
        where = f"{folder}: picture {number}"
        try:
            own = [annotations[one] for one in _numbers(picture["anno_id"])]
            asked = {one: sentences[one] for one in _numbers(groups[whole(picture["group_id"])]["inner_sent_id"])}
        except (KeyError, TypeError, ValueError, UserError) as error:
            skip(where, UserError(f"its annotations or sentences cannot be told ({in_words(error)})"))
            continue
        for sentence, about in asked.items():
            here = f"{where}, sentence {sentence}"
            try:
                if bool(about["is_negative"]) in SPLITS[split]:
                    targets = [one for one in own if sentence in _numbers(one["sent_id"])]
                    sample = _sample(picture, targets, images, "abs" if about["is_negative"] else "pres")
                    check_picture(sample, sizes)
                    for _, text in expressions([("raw_sent", about["raw_sent"])], here, skip):
                        yield replace(sample, id=check_id(f"{number}_{sentence}"), query=text)
            except Stop:
                raise
            except KeyError as error:
                skip(here, UserError(f"{error} is not among its keys"))
            except (UserError, TypeError, ValueError) as error:
                skip(here, error)


def _sample(picture: Mapping[str, Any], targets: Sequence[Mapping[str, Any]], images: Path, split: str) -> Sample:
    if len(targets) > 1:
        raise Unfit(SEVERAL_TARGETS, f"it is about {len(targets)} things; expected one")
    file, size = images / str(picture["file_name"]), (whole(picture["width"]), whole(picture["height"]))
    if not targets:
        return Sample("", "", file, split=split, image_size=size, present=False)
    box = read_box(np.asarray(targets[0]["bbox"], float).reshape(-1)[:4].tolist())
    sample = Sample("", "", file, box, _mask(targets[0]["segmentation"]), split=split, image_size=size)
    decode_truth(sample, size)
    return sample


def _mask(segmentation: Any) -> Mapping[str, Any]:
    """The one RLE of all parts."""
    parts = segmentation if isinstance(segmentation, list | tuple) else [segmentation]
    if len(parts) == 1:
        rle.rle_size(parts[0])
        return parts[0] | {"counts": _text(parts[0]["counts"])}
    return rle.encode(reduce(np.logical_or, map(rle.decode, parts)))


def _text(counts: Any) -> Any:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def _numbers(values: Any) -> list[int]:
    return [whole(value) for value in np.atleast_1d(values).tolist()]


def _load(path: Path) -> Table:
    try:
        content = load_refs(path, arrays=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); expected D-cube's files") from None
    except Forbidden as error:
        raise UserError(f"{path}: refused, it asks for {error}; D-cube's files hold plain tables") from None
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{path}: truncated or damaged ({in_words(error)}); download it again") from None
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise UserError(f"{path}: expected a table of dicts by number, as D-cube's files are")
    return content
