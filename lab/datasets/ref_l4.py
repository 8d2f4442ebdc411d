"""Ref-L4 (arXiv 2406.16866): long expressions about things of 365 kinds.

`ref-l4-<split>.parquet` beside the folder that `images.tar.gz` was unpacked into; on the hub they are
JierunChen/Ref-L4. A row is an expression: `id`, `caption`, `bbox` [x, y, w, h] in pixels, `width`, `height`,
`file_name` in that folder, `ori_category_id` (o365_* or refcoco_*), `is_rewrite`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.files import check_id
from lab.base.numbers import whole
from lab.datasets.boxes import read_box
from lab.datasets.sample import Sample, decode_truth
from lab.datasets.skipped import Skip, Stop, check_picture, expressions, stop
from lab.datasets.sources import parquet_rows

COLUMNS = ("id", "caption", "bbox", "width", "height", "file_name")
ABOUT = ("ori_category_id", "is_rewrite", "image_id")  # kept beside, where the file has them


def read_ref_l4(folder: Path, images: Path, *, split: str, skip: Skip = stop) -> Iterator[Sample]:
    """Yields one sample per expression. `skip` gets every row that is of no use.

    Raises UserError if pyarrow or the file is missing.
    """
    path = folder / f"ref-l4-{split}.parquet"
    sizes: dict[Path, tuple[int, int]] = {}
    for number, row in enumerate(_rows(path)):
        where = f"{path}: row {number}"
        try:
            sample = _truth(row, images, split)
            check_picture(sample, sizes)
            for _, text in expressions([("caption", row["caption"])], where, skip):
                yield replace(sample, id=check_id(str(row["id"])), query=text)
        except Stop:
            raise
        except (UserError, TypeError, ValueError) as error:
            skip(where, error)


def _truth(row: Mapping[str, Any], images: Path, split: str) -> Sample:
    size, about = (whole(row["width"]), whole(row["height"])), {key: row[key] for key in ABOUT if key in row}
    box = read_box(list(row["bbox"]))
    sample = Sample("", "", images / str(row["file_name"]), box, split=split, image_size=size, extra=about)
    decode_truth(sample, size)
    return sample


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected Ref-L4's Parquet files, with --split val or test")
    for row in parquet_rows(path):
        if missing := [name for name in COLUMNS if name not in row]:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(COLUMNS)}")
        yield row
