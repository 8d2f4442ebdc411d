"""Stations: which part of the prompt each token belongs to, as plain data for a record's meta.

    {"bos": [[0, 1]], "system": [[1, 35]], "image": [[36, 612]], "query": [[613, 615]], "role": [[35, 36], [612, 613]]}

Ranges [first, end) of positions in the model's sequence, the image tokens counted one by one. Together they cover every
position once.

    bos     the token that begins every sequence
    system  the system text
    image   the image tokens; the V columns of a record's attention
    query   the expression; a token that also holds a character of the template counts here
    role    every other text of the template: role names, separators, line breaks, image marks
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

from lab.base.errors import UserError

STATIONS = ("bos", "system", "image", "query", "role")
Ranges = dict[str, list[list[int]]]


def to_ranges(labels: Sequence[str]) -> Ranges:
    """One station name per position -> the ranges of each station that occurs."""
    ranges: Ranges = {}
    for label, run in groupby(range(len(labels)), key=lambda i: labels[i]):
        positions = list(run)
        ranges.setdefault(label, []).append([positions[0], positions[-1] + 1])
    return ranges


def positions(ranges: Mapping[str, Sequence[Sequence[int]]], station: str) -> list[int]:
    """The positions of one station, ascending; none if it does not occur."""
    return [i for first, end in ranges.get(station, ()) for i in range(first, end)]


def check_stations(
    ranges: Mapping[str, Sequence[Sequence[int]]], ids: Sequence[int], image_token_id: int | None
) -> None:
    """Raises UserError unless every position has one station, and the image's are those of `image_token_id`."""
    unknown = set(ranges) - set(STATIONS)
    if unknown:
        raise UserError(f"Unknown stations {sorted(unknown)}; there are {', '.join(STATIONS)}")
    if sorted(i for name in ranges for i in positions(ranges, name)) != list(range(len(ids))):
        raise UserError(f"The stations {dict(ranges)} do not cover the {len(ids)} tokens of the prompt once each")
    if positions(ranges, "image") != [i for i, token in enumerate(ids) if token == image_token_id]:
        raise UserError(
            f"The image station {ranges.get('image')} is not where the ids hold the image token {image_token_id}"
        )
