"""What was found as HTML: the cards of the results, the map of all heads, the answers.

No text of a visitor is ever markup: the templates escape it. The picture itself is not in them; the page lays it under
every element of class `lh-photo`, so that a slider sends a few kilobytes.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analyze import Head, HeadTable, sum_threshold
from lab.api import Found
from lab.app.desk import Word
from lab.app.knock_out import CHOSEN, OTHERS, Said
from lab.app.pictures import Outline, Place, entropy_colour, part_of_sheet, ramp, sheet, sum_colour
from lab.figures.heads import FEW_PLACES

NAMES = "AB"  # of the sides


def cards(sides: Sequence[tuple[Found, Sequence[Word]]]) -> str:
    """The picture with heat map, mask and box for each side; words over which the pointer shows their own maps."""
    return _render("cards.html.j2", sides=[_card(found, words) for found, words in sides], names=NAMES)


def _card(found: Found, words: Sequence[Word]) -> dict[str, Any]:
    width, height = size = found.picture.size
    return {
        "expression": found.expression,
        "described": described(found),
        "size": size,
        "thin": max(size) / 160,  # width of a line, in pixels of the picture
        "place": Place.of(found.record.grid, size).style,
        "heat": sheet(found.heat[None, None]),
        "words": [
            {"text": text, "part": part_of_sheet(0, place, (1, len(words)))} for place, (text, _) in enumerate(words)
        ],
        "word_sheet": sheet(np.stack([heat for _, heat in words])[None]) if words else "",
        "outline": Outline.of(found.mask),
        "box": found.localization.box_xywh,
        "box_text": box_text(found),
        "share": f"{100 * found.mask.sum() / (width * height):.1f} % of the picture",
        "heads": [head_name(head) for head in found.heads],
        "presence": presence_text(found.localization.presence),
    }


def described(found: Found) -> str:
    """The card in words, for those who do not see it."""
    return f"The picture, asked for “{found.expression}”. Box: {box_text(found)}"


def box_text(found: Found) -> str:
    """The box in words."""
    if found.localization.box_xywh is None or found.box_xyxy is None:
        return f"none: {found.localization.why_no_box}"
    (x0, y0, x1, y1), (_, _, width, height) = found.box_xyxy, found.localization.box_xywh
    return f"x {x0} to {x1}, y {y0} to {y1}, {width} x {height} pixels"


def presence_text(presence: float | None) -> str:
    """How surely the thing is there; nothing where the heads are not calibrated."""
    return "" if presence is None else f"{100 * presence:.0f} % sure that it is there"


# Every head


def head_grid(found: Found, table: HeadTable) -> str:
    """The maps of all heads, layer by head, with attention sum and entropy of each; any of them large on demand."""
    layers, heads = table.attn_sum.shape
    finite = table.spatial_entropy[np.isfinite(table.spatial_entropy)]
    highest, most = float(table.attn_sum.max()), float(np.abs(finite).max(initial=0))
    rows = [
        [
            {
                "id": f"L{layer}H{head}",
                "text": head_text((layer, head), table),
                "part": part_of_sheet(layer, head, (layers, heads)),
                "sum": sum_colour(float(table.attn_sum[layer, head]), highest),
                "entropy": entropy_colour(abs(float(table.spatial_entropy[layer, head])), most),
            }
            for head in range(heads)
        ]
        for layer in range(layers)
    ]
    return _render(
        "heads.html.j2",
        rows=rows,
        heads=range(heads),
        sheet=sheet(found.record.maps, together=True),
        place=Place.of(found.record.grid, found.picture.size).style,
        size=found.picture.size,
        ramps={"sum": ramp(), "entropy": ramp(FEW_PLACES)},
        highest=f"{highest:.2f}",
        most=f"{most:.2f}",
        cell=cell_size(layers, heads),
    )


def cell_size(layers: int, heads: int) -> int:
    """CSS pixels of a head's map: as large as fits a page about 700 wide, and neither tiny nor huge."""
    return int(np.clip(min(700 / heads, 760 / layers), 20, 62))


def head_text(head: Head, table: HeadTable) -> str:
    """`L1 H5: attention sum 0.99, entropy 0.00, 1 place`"""
    places, entropy = int(table.num_components[head]), float(table.spatial_entropy[head])
    scattered = f"entropy {abs(entropy):.2f}, {places} place{'s' * (places != 1)}"
    told = scattered if np.isfinite(entropy) else "no place stands out"
    return f"{head_name(head)}: attention sum {table.attn_sum[head]:.2f}, {told}"


def marks(found: Found, table: HeadTable, choice: int = 0) -> str:
    """For the page's own script: which heads are chosen, and which do not look at the picture enough.

    `choice` is which choice of the page it answers, 0 for none.
    """
    threshold = sum_threshold(table.attn_sum, found.logic.threshold)
    below = np.argwhere(table.attn_sum < threshold).tolist()
    told: dict[str, Any] = {"chosen": [_id(head) for head in found.heads], "below": [_id(head) for head in below]}
    told |= {"choice": choice} if choice else {}
    return _render("marks.html.j2", told=json.dumps(told))


def _id(head: Sequence[int]) -> str:
    return f"L{head[0]}H{head[1]}"


def head_name(head: Sequence[int]) -> str:
    """`L14 H24`"""
    return f"L{head[0]} H{head[1]}"


# Answers


def answers(said: Sequence[Said], others_kept: bool) -> str:
    """What the model says untouched, without the chosen heads, and without as many others."""
    untouched = said[0].answer.split()
    rows = [
        {
            "who": _who(one, others_kept),
            "heads": [head_name(head) for head in one.heads],
            "words": _compared(one.answer.split(), untouched),
            "first": f"{100 * one.first:.1f} %",
            "kind": one.name,
        }
        for one in said
    ]
    return _render("answers.html.j2", rows=rows, first=untouched[0] if untouched else "", changed=_verdict(said))


def _who(one: Said, others_kept: bool) -> str:
    which = {CHOSEN: "the chosen heads", OTHERS: "others of the same layers"}.get(one.name)
    return "untouched" if which is None else f"{'only' if others_kept else 'without'} {which}"


def _compared(words: Sequence[str], untouched: Sequence[str]) -> list[tuple[str, bool]]:
    """Each word, and whether the untouched model says another one there."""
    return [(word, untouched[place : place + 1] != [word]) for place, word in enumerate(words)]


def _verdict(said: Sequence[Said]) -> str:
    changed = {name: [one.answer != said[0].answer for one in said if one.name == name] for name in (CHOSEN, OTHERS)}
    chosen = "The answer changes" if any(changed[CHOSEN]) else "The answer stays the same"
    if not changed[OTHERS]:
        return f"{chosen}."
    return f"{chosen}; with others in their place it changes {sum(changed[OTHERS])} of {len(changed[OTHERS])} times."


# The rest of the page


def masthead(model: str, shape: tuple[int, int]) -> str:
    """The head of the page. `shape` is (layers, heads) of the model."""
    return _render("masthead.html.j2", model=model, shape=shape)


def picker(examples: Mapping[str, tuple[str, str]], limit: str) -> str:
    """Where pictures are dropped, and those that ship: name -> (what is asked, data URL)."""
    return _render("picker.html.j2", examples=examples, limit=limit)


def message(text: str, kind: str = "note") -> str:
    """A line that tells how it stands; of kind `wrong`, what went wrong."""
    return _render("message.html.j2", text=text, kind=kind)


def take(lines: Sequence[str], query: str, *, lasting: bool) -> str:
    """The command lines and the link that give the same again; `lasting` if the picture is one that ships."""
    return _render("take.html.j2", lines=lines, query=query, lasting=lasting, names=NAMES)


def section(title: str, text: str) -> str:
    """The heading of a part of the page."""
    return _render("section.html.j2", title=title, text=text)


def photo(url: str) -> str:
    """The picture, for the page's own script."""
    return _render("photo.html.j2", url=url)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)
