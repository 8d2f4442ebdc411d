"""What a converter leaves out: it goes on, and lists each with its reason.

A reader takes a function `skip(where, error)`. `stop` ends the conversion at the first; a `Skipped` keeps them all.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.base.console import table
from lab.base.errors import UserError
from lab.base.files import write_atomic
from lab.base.images import header_size
from lab.datasets.sample import Sample, check_query, check_size


class Unfit(UserError):
    """Of no use as a sample. `kind` is why in a few words, to be counted."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


NO_EXPRESSION = "no expression"
NO_TARGET = "no target"
SEVERAL_TARGETS = "several targets"
NO_AREA = "a shape that is none, or no target"
NO_PICTURE = "no usable picture"
MALFORMED = "malformed"

Skip = Callable[[str, Exception], None]


class Stop(UserError):
    """Ends a conversion: whoever skips what is of no use lets this one through."""


def stop(where: str, error: Exception) -> None:
    """Raises Stop for the first that is of no use."""
    raise Stop(f"{where}: {error}")


class Skipped:
    """What was left out: place, kind and reason of each."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def __call__(self, where: str, error: Exception) -> None:
        """Keeps one. `where` is the file and the place in it."""
        self.rows.append({"where": where, "kind": getattr(error, "kind", MALFORMED), "why": str(error)})

    def counts(self) -> list[tuple[str, int]]:
        """How many of each kind, the most first."""
        return Counter(row["kind"] for row in self.rows).most_common()

    def first(self) -> str:
        """The first, in a line."""
        return f"{self.rows[0]['where']}: {self.rows[0]['why']}"

    def summary(self) -> str:
        """The counts as a table, and the first."""
        return f"{table(('left out', 'count'), self.counts())}\n\nthe first: {self.first()}"

    def write(self, path: Path) -> None:
        """One JSON line for each; without any, no file."""
        if self.rows:
            write_atomic(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        else:
            with suppress(OSError):  # of an earlier conversion
                path.unlink()


def check_picture(sample: Sample, sizes: dict[Path, tuple[int, int]]) -> None:
    """Raises Unfit unless the picture is the one that was annotated; `sizes` are those that are known."""
    image = sample.image_file
    try:
        sizes[image] = sizes.get(image) or header_size(image)
        check_size(sample, sizes[image])
    except UserError as error:
        raise Unfit(NO_PICTURE, f"{image.name}: {error}") from None


def expressions(texts: Iterable[tuple[Any, Any]], where: str, skip: Skip) -> Iterator[tuple[Any, str]]:
    """Those of (number, text) that say something; the others are skipped, each as `where` and its number."""
    for number, text in texts:
        try:
            said = check_query(text)
        except UserError as error:
            skip(f"{where} {number}", Unfit(NO_EXPRESSION, str(error)))
        else:
            yield number, said
