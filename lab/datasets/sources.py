"""Data files that are no lines of JSON, read a few rows at a time: Parquet, and tar files as WebDataset keeps them.

Each row has the keys of `lab/datasets/jsonl.py`. A Parquet file has them as columns. In a tar the files of one sample
stand behind each other and share their name up to the first dot:

| file | what |
|---|---|
| `0001.jpg` (or .jpeg, .png, .webp) | the picture |
| `0001.json` | the other keys, or a list of such objects, one for each expression; without an id it is the name |
| `0001.txt` | or the expression alone |
| `0001.mask.png` | the true mask, where the JSON names none |
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from lab.base.errors import UserError
from lab.base.files import MOST_BYTES
from lab.base.places import named
from lab.base.tars import members, read_member
from lab.datasets.hub import COLUMNS
from lab.datasets.texts import decode, parse

ROWS = 1024  # of a Parquet file, at a time
PICTURES = ("jpg", "jpeg", "png", "webp")
MASK = "mask.png"
# What becomes of pictures that lie in a Parquet file.
CONVERTED = "python -m lab.datasets convert hub writes its pictures into files"
WRITTEN_OUT = "save the pictures as files and name these, or put each into a .tar with its .json or .txt"


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, without columns that hold bytes.

    Raises UserError if pyarrow is not there, the file is damaged, or its pictures lie in it.
    """
    try:
        import pyarrow as arrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError("reading Parquet files needs pyarrow: pip install pyarrow -c constraints.txt") from None
    try:
        with ParquetFile(path) as file:
            schema = file.schema_arrow
            for name in ("image_path", "image"):
                if name in schema.names and not _is_text(arrow, schema.field(name).type):
                    hint = f"expected paths: {CONVERTED if set(COLUMNS) <= set(schema.names) else WRITTEN_OUT}"
                    raise UserError(f"{named(path)}: column {name} holds {schema.field(name).type}: {hint}")
            columns = [field.name for field in schema if not _holds_bytes(arrow, field.type)]
            for batch in file.iter_batches(ROWS, columns=columns):
                yield from batch.to_pylist()
    except UserError:
        raise
    except Exception as error:  # pyarrow's, of many kinds
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{named(path)}: no Parquet file, or damaged ({why}); expected a whole one") from None


def _is_text(arrow: Any, kind: Any) -> bool:
    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    return arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_string_view(kind)


def _holds_bytes(arrow: Any, kind: Any) -> bool:
    inner = [kind.field(number).type for number in range(kind.num_fields)] if arrow.types.is_nested(kind) else []
    return "binary" in str(kind) or any(_holds_bytes(arrow, one) for one in inner)


def tar_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of a tar file as rows, their pictures named as files in it.

    Raises UserError if it is no tar or damaged, or a sample has no picture, no expression, or JSON that is none.
    """
    for key, files in groupby(members(path), key=lambda member: _key(member[0])):
        there = {_kind(name): (name, size) for name, _, size in files}
        picture = next((there[kind][0] for kind in PICTURES if kind in there), None)
        if not there.keys() & {*PICTURES, "json", "txt"}:
            continue  # what else lies in it
        where = f"{named(path)}: sample {key}"
        if picture is None or not there.keys() & {"json", "txt"}:
            lacking = "picture" if picture is None else "expression, .json or .txt"
            raise UserError(f"{where} has no {lacking}; its files must follow each other; found {', '.join(there)}")
        beside = {"image_path": str(path.absolute() / picture)}
        mask = {"mask_path": str(path.absolute() / there[MASK][0])} if MASK in there else {}
        try:
            yield from (beside | ({} if "segmentation" in row else mask) | row for row in _told(path, key, there))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _told(tar: Path, key: str, there: dict[str, tuple[str, int]]) -> Iterator[dict[str, Any]]:
    name, size = there.get("json") or there["txt"]
    if size > MOST_BYTES:
        raise UserError(f"{name} has {size:,} bytes, more than {MOST_BYTES:,}")
    text = decode(read_member(tar, name))
    found = parse(text) if "json" in there else {"prompt": text.strip()}
    rows = found if isinstance(found, list) else [found]
    own = PurePosixPath(key).as_posix().replace("/", "-")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError("a JSON object is expected, or a list of them, with prompt")
        row = {name: value for name, value in row.items() if name not in ("image_path", "image")}
        if "prompt" not in row and "txt" in there:
            row["prompt"] = decode(read_member(tar, there["txt"][0])).strip()
        yield {"id": own if len(rows) == 1 else f"{own}-{number}"} | row


def _key(name: str) -> str:
    folder, dash, last = name.rpartition("/")
    return f"{folder}{dash}{last.partition('.')[0]}"


def _kind(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


ROWS_OF: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {".parquet": parquet_rows, ".tar": tar_rows}
EACH = {".parquet": "row", ".tar": "sample"}  # what a row is called in a message
EXPECTED = {  # of a file without samples
    "line": "one JSON object per line is expected",
    "row": "a row for each sample is expected",
    "sample": "a picture and .json or .txt for each sample are expected",
}
