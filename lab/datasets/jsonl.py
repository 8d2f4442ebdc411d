"""This tool's own data file: JSON Lines, one sample a line.

| key | what |
|---|---|
| `id` (or `question_id`) | unique; becomes a file name |
| `prompt` | the expression |
| `image_path` (or `image`) | relative to the working directory or to the file, or a web address |
| `bbox` | true box in pixels, [x, y, width, height], or as `bbox_format` says |
| `bbox_format` | "xyxy": [x0, y0, x1, y1], edges exclusive; "xyxy_inclusive": x1 and y1 are the last pixels inside |
| `mask_path` | true mask: an image of the same size; `masks.py` says what is the object |
| `segmentation` | or the mask as COCO has it: polygons [[x0, y0, x1, y1, ...], ...], or RLE {"size", "counts"} |
| `ignore` | what no metric counts, in the same forms as `segmentation` |
| `present` | false: the expression describes nothing in the picture, and there is no truth |
| `split`, `image_size` | name of the subset; [width, height] |

Only the first three are needed to run; every other key is kept in `Sample.extra`. Of these, `thing` (or `ann_id`,
`ref_id`) is an id within the picture: lines that share it say one thing in several words (`Sample.thing`).
`stream.py` reads whole files.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lab.base.errors import UserError, quoted
from lab.base.files import check_id, write_atomic
from lab.base.paths import exists, find
from lab.base.remote import is_url, kept_at
from lab.datasets.boxes import read_box
from lab.datasets.masks import MaskSource, check_source
from lab.datasets.sample import Sample, check_truth, with_period
from lab.datasets.texts import parse

EXPECTED = "a JSON object is expected on each line, with id, prompt and image_path"
MOST_PIXELS = 10**6  # of an edge of an image
KEYS = (
    "id",
    "question_id",
    "prompt",
    "image_path",
    "image",
    "bbox",
    "bbox_format",
    "mask_path",
    "segmentation",
    "ignore",
    "split",
    "image_size",
    "present",
)


def read_line(line: str, path: Path, number: int, final_period: bool) -> Sample:
    """The sample in a line of a file; with `final_period` its expression ends in a full stop.

    Raises UserError, which does not name the place.
    """
    return _sample(_row(line), path, number, final_period)


def _row(line: str) -> dict[str, Any]:
    try:
        row = parse(line)
    except UserError as error:
        raise UserError(f"{error}; {EXPECTED}") from None
    if not isinstance(row, dict):
        raise UserError(EXPECTED)
    return {key: value for key, value in row.items() if value is not None}


def _sample(row: dict[str, Any], path: Path, line: int, final_period: bool) -> Sample:
    sample_id, query, image = (
        _first(row, names) for names in (("id", "question_id"), ("prompt",), ("image_path", "image"))
    )
    if not isinstance(sample_id, str | int) or isinstance(sample_id, bool):
        raise UserError(f"id must be a text or a whole number, not {quoted(sample_id)}")
    if not isinstance(query, str) or not query.strip():
        raise UserError("prompt must be a text that is not empty")
    if not isinstance(image, str) or not image:
        raise UserError("image_path must be a path")
    sample = Sample(
        check_id(str(sample_id)),
        with_period(query) if final_period else query,
        kept_at(image) if is_url(image) else _beside(image, path),
        read_box(row["bbox"], row.get("bbox_format", "xywh")) if "bbox" in row else None,
        _mask_source(row, path),
        check_source(row["ignore"]) if "ignore" in row else None,
        str(row["split"]) if "split" in row else None,
        _image_size(row),
        {key: value for key, value in row.items() if key not in KEYS},
        line,
        str(row.get("bbox_format", "xywh")),
        _present(row),
    )
    check_truth(sample, sample.image_size)
    return sample


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise UserError(f"no key {' or '.join(names)}")


def _beside(name: str, path: Path) -> Path:
    here = find(name)
    return here if exists(here) else path.parent / here


def _mask_source(row: dict[str, Any], path: Path) -> MaskSource | None:
    if "mask_path" in row and "segmentation" in row:
        raise UserError("mask_path and segmentation are two masks; give one")
    if "mask_path" not in row:
        return check_source(row["segmentation"]) if "segmentation" in row else None
    if not isinstance(row["mask_path"], str) or not row["mask_path"]:
        raise UserError("mask_path must be a path")
    return _beside(row["mask_path"], path)


def _present(row: dict[str, Any]) -> bool:
    present = row.get("present", True)
    if not isinstance(present, bool):
        raise UserError(f"present {quoted(present)} is malformed; expected true or false")
    return present


def _image_size(row: dict[str, Any]) -> tuple[int, int] | None:
    if "image_size" not in row:
        return None
    size = row["image_size"]
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(edge) is int and 0 < edge <= MOST_PIXELS for edge in size)
    ):
        raise UserError(f"image_size {quoted(size)} is malformed; expected [width, height] in pixels")
    return size[0], size[1]


def write_jsonl(path: Path, samples: Iterable[Sample]) -> None:
    """Writes the file whole or not at all, paths relative to it. Raises UserError if two samples share an id."""
    lines: dict[str, str] = {}
    for sample in samples:
        if sample.id in lines:
            raise UserError(f"id {sample.id!r} stands for two samples; ids must be unique")
        lines[sample.id] = json.dumps(_to_row(sample, path.parent), default=_plain)
    write_atomic(path, "".join(line + "\n" for line in lines.values()))


def _to_row(sample: Sample, folder: Path) -> dict[str, Any]:
    mask, box = sample.mask_source, sample.box_xyxy
    row = {
        "id": sample.id,
        "prompt": sample.query,
        "image_path": _relative(sample.image_file, folder),
        "image_size": sample.image_size,
        "bbox": box and [round(v, 6) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
        "mask_path": _relative(mask, folder) if isinstance(mask, Path) else None,
        "segmentation": None if isinstance(mask, Path) else mask,
        "ignore": sample.ignore_source,
        "split": sample.split,
        "present": None if sample.present else False,
        **sample.extra,
    }
    return {key: value for key, value in row.items() if value is not None}


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy, as some sources have them, for JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise UserError(f"{quoted(value)} cannot be written as JSON; expected texts, numbers, lists and dicts")


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
