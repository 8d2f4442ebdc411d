"""RefCOCO, RefCOCO+ and RefCOCOg as Parquet files with the images inside.

On the hub they are lmms-lab/RefCOCO, RefCOCOplus and RefCOCOg: read from a folder, or from there as a stream.

A row is a ref: `question_id` (the COCO annotation), `image` {bytes, path}, `answer` (its expressions), `bbox` [x, y, w,
h], `segmentation` (ONE polygon: of an object in several parts, the rest is missing), `iscrowd`, `file_name`. One sample
per expression.

Some of its splits put two divisions of the same refs into one, in this order, so that a split_by must be chosen:

| data set | split | rows |
|---|---|---|
| RefCOCO | val | 3,811 refs of unc's val, then 5,000 of google's |
| RefCOCO | test | 5,000 of google's; testA 1,975 and testB 1,810 of unc's |
| RefCOCO+ | val, testA, testB | 3,805, 1,975 and 1,798, all of unc's |
| RefCOCOg | val | 5,000 of google's, then 2,573 of umd's |
| RefCOCOg | test | 5,023 of umd's |

The files do not say which is which; the order was concluded from the first rows and from the sizes of the files.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from lab.base.console import progress
from lab.base.errors import DiskFull, UserError
from lab.base.files import check_id, write_atomic
from lab.base.images import header_size, upright_size
from lab.base.places import readable_folder
from lab.datasets.boxes import read_box
from lab.datasets.masks import check_source
from lab.datasets.sample import Sample, decode_truth
from lab.datasets.skipped import NO_EXPRESSION, NO_PICTURE, Skip, Stop, Unfit, expressions, stop

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

PUBLISHED: dict[tuple[str, int], dict[str, range]] = {  # (split, its rows): where each division's refs are
    ("val", 8811): {"unc": range(3811), "google": range(3811, 8811)},
    ("val", 7573): {"google": range(5000), "umd": range(5000, 7573)},
    ("val", 3805): {"unc": range(3805)},
    ("test", 5000): {"google": range(5000)},
    ("test", 5023): {"umd": range(5023)},
    ("testA", 1975): {"unc": range(1975)},
    ("testB", 1810): {"unc": range(1810)},
    ("testB", 1798): {"unc": range(1798)},
}
COLUMNS = ("question_id", "image", "answer", "bbox", "segmentation", "file_name")
ROWS_AT_A_TIME = 32


def read_hub(
    folder: Path, images: Path, *, split: str, split_by: str | None = None, skip: Skip = stop
) -> Iterator[Sample]:
    """Yields one sample per expression, id `<question_id>_<number of the expression>`.

    Writes each picture into `images`, once.

    `folder` holds the split's files (`val-00000-of-00004.parquet` ...); where there is none of that name, `owner/name`
    is a data set on the hub, whose rows are read as they come. `skip` gets every row and expression that is of no use.
    Raises UserError if pyarrow or a file is missing, the hub cannot be reached, or the split mixes two divisions and
    `split_by` does not say which is meant.
    """
    files = _open(folder, split)
    total = sum(file.metadata.num_rows for file in files)
    wanted = _wanted(split, total, split_by)
    _make_folder(images)
    for number, batch in progress(_rows(files, wanted), f"{folder.name} {split}", total=len(wanted)):
        where = f"{folder}: row {number} of {split}"
        try:
            row = batch.to_pylist()[0]
            samples = _expressions(row, _truth(row, images, split), where, skip)
        except (Stop, DiskFull):
            raise
        except (UserError, TypeError, ValueError) as error:
            skip(where, error)
        else:
            yield from samples


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); choose another folder with --images") from None


def _wanted(split: str, total: int, split_by: str | None) -> range:
    """The rows that `split_by` means."""
    parts = PUBLISHED.get((split, total), {})
    if split_by in parts:
        return parts[split_by]
    if split_by is None and len(parts) < 2:
        return range(total)
    if not parts:
        raise UserError(
            f"{split} has {total} rows, not those of a published file, so {split_by}'s cannot be told; "
            "leave split_by out"
        )
    mixed = " and ".join(f"{len(rows)} refs of {name}" for name, rows in parts.items())
    raise UserError(f"{split} holds {mixed}; set split_by to {' or '.join(parts)}")


def _open(folder: Path, split: str) -> list["ParquetFile"]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError("reading Parquet files needs pyarrow: pip install pyarrow -c constraints.txt") from None
    from_hub = not readable_folder(folder) and re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder)) is not None
    try:
        found, opened = _on_hub(str(folder)) if from_hub else _in_folder(folder)
        paths = [path for path in found if path.name.startswith(f"{split}-") or path.parent.name == split]
        if not paths:
            names = ", ".join(path.name for path in found[:5]) or "none at all"
            such = f"such as {split}-00000-of-00001.parquet; it has {names}"
            raise UserError(f"{folder} has no Parquet files of split {split!r}, {such}")
        return [ParquetFile(opened(path)) for path in paths]
    except UserError:
        raise
    except Exception as error:  # a stream fails in as many ways as there are libraries between here and the hub
        again = "is it the name of a data set, and is there a network?" if from_hub else "download it again"
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: a Parquet file of {split} cannot be read ({reason}); {again}") from None


def _in_folder(folder: Path) -> tuple[list[PurePath], Callable[[PurePath], Any]]:
    """The Parquet files of a folder, none if it is not there, and what opens one."""
    return sorted(folder.rglob("*.parquet")), Path


def _on_hub(name: str) -> tuple[list[PurePath], Callable[[PurePath], Any]]:
    """The Parquet files of a data set on the hub, and what opens one as a stream."""
    from huggingface_hub import HfFileSystem

    hub = HfFileSystem()
    found: list[PurePath] = sorted(PurePosixPath(path) for path in hub.glob(f"datasets/{name}/**/*.parquet"))
    return found, lambda path: hub.open(str(path), "rb")


def _rows(files: list["ParquetFile"], wanted: range) -> Iterator[tuple[int, "RecordBatch"]]:
    """Number and content of the wanted rows, each as a batch of one, a few at a time in memory."""
    number = 0
    for batch in (batch for file in files for batch in _batches(file)):
        for row in range(len(batch)):
            if number in wanted:
                yield number, batch.slice(row, 1)
            number += 1


def _batches(file: "ParquetFile") -> Iterator["RecordBatch"]:
    missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
    if missing:
        raise UserError(f"a Parquet file lacks the columns {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    try:
        yield from file.iter_batches(ROWS_AT_A_TIME, columns=list(COLUMNS))
    except Exception as error:  # pyarrow's, or of the network where it is a stream
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"a Parquet file is damaged ({reason}); download it again") from None


def _truth(row: Mapping[str, Any], images: Path, split: str) -> Sample:
    """What all expressions of a ref share: a sample without id and query."""
    bbox, polygon = (_rounded(row[key]) for key in ("bbox", "segmentation"))
    image_file, size = _write_image(row, images)
    sample = Sample(
        id="",
        query="",
        image_file=image_file,
        box_xyxy=read_box(bbox),
        mask_source=check_source([polygon]) if polygon else None,
        split=split,
        image_size=size,
        extra={"ann_id": row["question_id"]},
    )
    decode_truth(sample, size)
    return sample


def _rounded(values: Sequence[float | None] | None) -> list[float | None]:
    """COCO's two decimals, as they were before float32."""
    return [value if value is None else round(value, 2) for value in values or ()]


def _write_image(row: Mapping[str, Any], images: Path) -> tuple[Path, tuple[int, int]]:
    """Writes the row's picture unless an earlier ref did; returns its path and its (width, height)."""
    data = (row["image"] or {}).get("bytes") or b""
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, size = str(image.format).lower().replace("jpeg", "jpg"), upright_size(image)
    except Exception:
        raise Unfit(NO_PICTURE, "its image cannot be read; expected the bytes of a picture") from None
    stem = Path(str(row["file_name"])).stem
    name = check_id(re.sub(r"^(COCO_\w+_\d{12})_\d+$", r"\1", stem))  # file_name ends in the number of the ref
    path = images / f"{name}.{kind}"
    if not path.exists():
        write_atomic(path, data)
    elif header_size(path) != size:
        raise Unfit(NO_PICTURE, f"{path} is there, of another size than the row's picture: remove it")
    return path, size


def _expressions(row: Mapping[str, Any], truth: Sample, where: str, skip: Skip) -> list[Sample]:
    texts = [row["answer"]] if isinstance(row["answer"], str) else row["answer"] or []
    if not texts:
        raise Unfit(NO_EXPRESSION, "its answer is empty; expected a list of expressions")
    return [
        replace(truth, id=check_id(f"{row['question_id']}_{number}"), query=text)
        for number, text in expressions(enumerate(texts), f"{where} answer", skip)
    ]
