"""What is there and what is not, without labels: pictures are asked their own expressions and those of others.

Every expression is asked about as many strange pictures as any other, so nothing in the wording tells the two apart.
What is asked about a strange picture may be true of it by chance, the more so the shorter it is; that makes a
calibration careful, not wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lab.base.errors import UserError
from lab.datasets import Sample

LEAST = 50  # pictures: fewer tell nothing


@dataclass(frozen=True)
class Ask:
    """One expression about one picture. Its `sample` has an id of its own and no truth."""

    sample: Sample
    own: bool  # whether it is an expression of this picture


def asks(samples: Sequence[Sample], swaps: int, rng: np.random.Generator) -> list[Ask]:
    """Every expression about its own picture, and about up to `swaps` others at random.

    Expressions that are known to describe nothing are left out. An expression that the other picture has too is not
    asked about it. Raises UserError if there are too few pictures.
    """
    there = [sample for sample in samples if sample.present]
    queries: dict[str, set[str]] = {}
    for sample in there:
        queries.setdefault(str(sample.image_file), set()).add(_words(sample))
    pictures = list(queries)
    check_enough(len(there), len(pictures))
    found = [Ask(_asked(sample, sample, number, 0), True) for number, sample in enumerate(there)]
    first = {str(sample.image_file): sample for sample in reversed(there)}
    order = rng.permutation(len(pictures))
    place = {pictures[index]: at for at, index in enumerate(order.tolist())}
    shifts = rng.permutation(np.arange(1, len(pictures)))[:swaps].tolist()
    for number, sample in enumerate(there):
        for turn, shift in enumerate(shifts, start=1):  # a whole turn of all pictures: each is asked as often
            other = pictures[order[(place[str(sample.image_file)] + shift) % len(pictures)]]
            if _words(sample) not in queries[other]:
                found.append(Ask(_asked(sample, first[other], number, turn), False))
    return found


def check_enough(expressions: int, pictures: int) -> None:
    """Raises UserError if so few pictures tell nothing."""
    if pictures < LEAST:
        few = f"{expressions} expressions about {pictures} pictures are too few to calibrate presence"
        raise UserError(f"{few}; expected {LEAST} pictures or more")


def _words(sample: Sample) -> str:
    return " ".join(sample.query.lower().rstrip(".").split())


def _asked(about: Sample, picture: Sample, number: int, turn: int) -> Sample:
    """The expression of one sample about the picture of another."""
    return replace(
        about,
        id=f"{number}-{turn}",
        image_file=picture.image_file,
        image_size=picture.image_size,
        box_xyxy=None,
        mask_source=None,
        ignore_source=None,
    )
