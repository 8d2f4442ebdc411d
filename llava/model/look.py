"""What a checkpoint is and how it sees a picture, in words; `llava/model/cells.py` draws it."""

import os
import sys
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from lab.base.numbers import size
from lab.stations import positions
from llava.family import LoadedModel, Picture, Sharing
from llava.grid import Grid
from llava.layers import kinds, near, reaches, seen_tokens
from llava.prompt import Prompt

SHARING = {  # how several expressions are asked about one picture
    Sharing.PACKED: "its expressions are read in one sequence behind the picture",
    Sharing.CACHED: "its expressions are read behind the picture's keys and values",
    Sharing.ALONE: "each expression reads the picture anew",
}
COLOURS = {"bos": "2", "system": "34", "image": "35", "query": "1;32", "role": "33"}  # of a terminal
SEPARATE = 4  # grids that get a line each; more of one shape share one


def describe(loaded: LoadedModel) -> str:
    """What was found, as a table of a few lines."""
    text, config = loaded.text_config, loaded.model.config
    heads = f"{loaded.num_layers} layers x {loaded.num_heads} heads"
    groups = getattr(text, "num_key_value_heads", None) or loaded.num_heads
    rows = [
        ("checkpoint", loaded.name),
        ("family", f"{type(loaded.family).__name__}, model_type {config.model_type}"),
        ("layout", loaded.layout),
        ("language model", f"{text.model_type}, {heads}, {groups} key-value heads"),
        ("context", f"{loaded.context} tokens"),
        ("vision tower", tower(config)),
        *loaded.geometry.describe().items(),
        ("sharing", f"{loaded.family.sharing.value}: {SHARING[loaded.family.sharing]}"),
        ("dtype", f"{str(loaded.dtype).removeprefix('torch.')} on {loaded.device}"),
        ("memory", f"{size(loaded.model.get_memory_footprint())} of weights"),
        ("chat template", loaded.conv_mode or "not known from the name"),
    ]
    return "\n".join([table(rows), *(f"note: {note}" for note in loaded.notes)])


def tower(config: Any) -> str:
    """The vision tower's kind and layers, by the names that towers have for them."""
    vision = config.vision_config
    layers = next((n for name in ("num_hidden_layers", "depth") if (n := getattr(vision, name, None))), None)
    layer = getattr(config, "vision_feature_layer", None)
    parts = [vision.model_type, f"{layers} layers are read" if layers else None]
    return ", ".join(filter(None, [*parts, None if layer is None else f"features from layer {layer}"]))


def look(
    loaded: LoadedModel, image_size: tuple[int, int], picture: Picture, prompt: Prompt, *, colour: bool = False
) -> str:
    """Where the tokens of one picture and of one prompt about it lie, and what the prompt's last token sees."""
    places, (width, height) = positions(prompt.stations, "image"), image_size
    record = loaded.num_layers * loaded.num_heads * picture.tokens * loaded.dtype.itemsize
    rows = [
        ("picture", f"{width} x {height} pixels"),
        ("image tokens", f"{picture.tokens}, {_where(places, len(prompt.ids))}"),
        *(("grid" if number == 0 else "", line) for number, line in enumerate(grids(picture.grids))),
        ("beside", f"{len(picture.beside)} image tokens that lie nowhere in the picture"),
        *(("sight" if number == 0 else "", line) for number, line in enumerate(sight(loaded.text_config, prompt))),
        ("a record", f"{size(record)}: {loaded.num_layers} x {loaded.num_heads} x {picture.tokens} weights"),
    ]
    return f"{table(rows)}\n\n{written(loaded, prompt, colour=colour)}"


def _where(places: Sequence[int], length: int) -> str:
    if not places:
        return "none of them in the prompt: layers of their own look at them"
    runs = 1 + sum(place != before + 1 for before, place in pairwise(places))
    between = "" if runs == 1 else f", in {runs} runs with other tokens between"
    return f"from place {places[0]} to {places[-1]} of a prompt of {length}{between}"


def grids(found: Sequence[Grid]) -> list[str]:
    """A line for each grid; one for many of the same shape in a row."""
    lines = []
    for (rows, cols, kind), group in groupby(found, lambda grid: (grid.rows, grid.cols, grid.kind)):
        own = list(group)
        if len(own) <= SEPARATE:
            lines += [f"{rows} x {cols}, {kind}, from token {one.start}, over {_box(one)}" for one in own]
        else:
            ends = f"the first over {_box(own[0])}, the last over {_box(own[-1])}"
            lines.append(f"{len(own)} times {rows} x {cols}, {kind}, from token {own[0].start}, {ends}")
    return lines


def _box(grid: Grid) -> str:
    x0, y0, x1, y1 = (f"{round(edge, 1):g}" for edge in grid.extent_xyxy)
    return f"{x0}, {y0} to {x1}, {y1}"


def sight(config: Any, prompt: Prompt) -> list[str]:
    """Which layers reach the image from the prompt's last token, a line for each kind of layer."""
    own, tokens = kinds(config), len(prompt.columns)
    lines = []
    for kind, seen in seen_tokens(config, prompt).items():
        share = "all" if seen == tokens else str(seen) if seen else "none"
        numbers = spans([layer for layer, one in enumerate(own) if one == kind])
        sees = near(kind, reaches(config)[kind])
        lines.append(f"{share} of the {tokens} image tokens in layers {numbers} ({kind}: {sees})")
    return lines


def spans(numbers: Sequence[int]) -> str:
    """0-4, 6-10: ascending numbers, those in a row as one span."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def written(loaded: LoadedModel, prompt: Prompt, *, colour: bool = False) -> str:
    """The prompt with its stations marked: by colours of a terminal, or by their names in brackets."""
    parts = segments(loaded, prompt)
    if not colour:
        return "".join(f"[{station}: {text}]" for station, text in parts).replace("\n", "\\n")
    key = " ".join(_painted(station, station) for station in dict.fromkeys(station for station, _ in parts))
    return f"{''.join(_painted(station, text) for station, text in parts)}\n\n{key}"


def _painted(station: str, text: str) -> str:
    return f"\033[{COLOURS[station]}m{text}\033[0m"


def segments(loaded: LoadedModel, prompt: Prompt) -> list[tuple[str, str]]:
    """(station, text) in order; the image tokens are counted, with whatever stands between them."""
    runs = sorted((a, b, station) for station, ranges in prompt.stations.items() for a, b in ranges)
    image = prompt.stations.get("image", [])
    first, end = (image[0][0], image[-1][1]) if image else (-1, -1)
    tokens = len(positions(prompt.stations, "image"))
    others = end - first - tokens
    found = []
    for a, b, station in runs:
        if a == first:
            found.append(("image", f"{tokens} tokens" + (f", {others} others between" if others else "")))
        elif not first < a < end:
            found.append((station, _read(loaded, prompt, a, b)))
    return found


def _read(loaded: LoadedModel, prompt: Prompt, a: int, b: int) -> str:
    """The text of the tokens from place `a` to `b`; between words of the query a space, also where the template leaves
    the tokens of spaces out.
    """
    spans = [prompt.query_spans.get(place) for place in range(a, b)]
    cuts = [a + i for i in range(1, b - a) if (before := spans[i - 1]) and (span := spans[i]) and span[0] > before[1]]
    parts = [loaded.tokenizer.decode(prompt.ids[first:end]) for first, end in pairwise([a, *cuts, b])]
    return " ".join(map(str.strip, parts)) if cuts else parts[0]


def in_colour() -> bool:
    """Whether stdout is a terminal whose user has nothing against colours (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def table(rows: Sequence[tuple[str, str]]) -> str:
    """A key and its value a line, the values below each other."""
    return "\n".join(f"{key:<15} {value}" for key, value in rows)
