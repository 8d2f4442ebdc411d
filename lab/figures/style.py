"""What all figures share: colours that hold in grey print and for colour-blind readers, and text in any script."""

import logging
import math
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.patches import Rectangle

from analyze import Head
from lab.figures.colours import BOX_COLOUR, INK

log = logging.getLogger(__name__)

HEAT = ListedColormap(
    colormaps["inferno_r"](np.linspace(0.03, 0.92, 256))
)  # more is darker, so that grey print keeps the order
PAGE = 7.1  # inches: the width of a printed page's text, which no figure exceeds, so that no text shrinks in print
SMALL, LABEL, TITLE = 7, 7.5, 8.5  # points: ticks, keys and panels; axes; headings. Less than 7 is hard to read
CAPTION_POINTS, CAPTION_LINES = 10, 3
PIXELS = 200  # per inch on a screen
JOINERS = "\u200c\u200d"  # invisible, but they shape Persian and Indic words


def canvas(width: float, height: float) -> Figure:
    """An empty white figure of so many inches, outside pyplot's registry."""
    figure = Figure(figsize=(width, height), facecolor="white", dpi=PIXELS)
    FigureCanvasAgg(figure)
    return figure


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the upper left corner."""
    whole_width, whole_height = figure.get_size_inches()
    return figure.add_axes(
        (left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height)
    )


def inches(axis: Axes) -> tuple[float, float]:
    """Width and height of the axes."""
    box = axis.get_window_extent().transformed(axis.figure.dpi_scale_trans.inverted())
    return box.width, box.height


def cell_points(axis: Axes) -> float:
    """Height of a cell of a layer x head map, whose limits are set."""
    return 72 * inches(axis)[1] / abs(float(np.diff(axis.get_ylim())[0]))


def mark_heads(axis: Axes, heads: Sequence[Head]) -> None:
    """A frame around each head on a layer x head map."""
    thin = min(1.0, cell_points(axis) / 10)
    for layer, head in heads:
        for colour, line in (("white", 1.2 + 1.2 * thin), (BOX_COLOUR, 0.8 + 0.6 * thin)):
            axis.add_patch(
                Rectangle(
                    (head - 0.5, layer - 0.5),
                    1,
                    1,
                    fill=False,
                    edgecolor=colour,
                    linewidth=line,
                    clip_on=False,
                    zorder=4,
                )
            )


# text


def caption(text: str, wide: float) -> list[str]:
    """The expression in quotes, as at most CAPTION_LINES lines that are no wider than `wide` inches.

    Longer text ends in an ellipsis.
    """
    quoted = f"“{printable(text).strip()}”"
    start = quoted[:400]  # long enough to tell how wide its characters are
    per_line = max(8, math.floor(0.95 * wide * len(start) / max(0.01, text_size(start, CAPTION_POINTS)[0])))
    return textwrap.wrap(quoted, per_line, max_lines=CAPTION_LINES, placeholder=" …") or [quoted]


def write_caption(figure: Figure, lines: Sequence[str], margin: float) -> None:
    """The lines at the upper left, or at the upper right if the text runs from right to left."""
    text, (width, height) = "\n".join(lines), figure.get_size_inches()
    right = _runs_leftward(text)
    x = 1 - margin / width if right else margin / width
    figure.text(
        x, 1 - 0.08 / height, text, ha="right" if right else "left", va="top", fontsize=CAPTION_POINTS,
        linespacing=1.15, color=INK,
        parse_math=False, fontfamily=font_families(text),
    )  # fmt: skip


def caption_height(lines: Sequence[str]) -> float:
    """Inches that the lines take, with the margin above."""
    return 0.12 + len(lines) * CAPTION_POINTS * 1.2 / 72


def printable(text: str) -> str:
    """The text without what cannot be seen.

    Control characters, marks that override the writing direction, halves of characters.
    """
    return "".join(c if c.isprintable() or c in JOINERS else " " if c.isspace() else "" for c in text)


def _runs_leftward(text: str) -> bool:
    strong = (unicodedata.bidirectional(c) for c in text)
    return next((direction for direction in strong if direction in ("L", "R", "AL")), "L") != "L"


def text_size(text: str, points: float, *, bold: bool = False) -> tuple[float, float]:
    """Width and height of one line of text, in inches."""
    font = FontProperties(family=font_families(text), size=points, weight="bold" if bold else "normal")
    with any_glyphs():
        width, height, _ = RendererAgg(1, 1, 288).get_text_width_height_descent(text, font, ismath=False)
    return width / 288, height / 288


@contextmanager
def any_glyphs() -> Iterator[None]:
    """Characters that no font has become boxes without a word about each."""
    with warnings.catch_warnings():
        for words in (r"Glyph \d+", "Matplotlib currently does not support"):  # the latter before matplotlib 3.11
            warnings.filterwarnings("ignore", message=f"(?s).*{words}")
        yield


def font_families(text: str) -> list[str]:
    """matplotlib's own font, then fonts of this machine for the characters that it lacks."""
    found = [_family_with(c) for c in dict.fromkeys(text) if ord(c) not in _own_characters() and c not in JOINERS]
    if None in found:
        _tell_of_missing_fonts()
    return list(dict.fromkeys(["DejaVu Sans", *(family for family in found if family)]))


@cache  # said once
def _tell_of_missing_fonts() -> None:
    log.warning(
        "no font on this machine has all characters of the expression: figures show boxes for them; "
        "install one that has"
    )


@cache
def _own_characters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


@cache
def _family_with(character: str) -> str | None:
    fonts = (font for font in fontManager.ttflist if "Last Resort" not in font.name and font.style == "normal")
    return next((font.name for font in fonts if get_font(font.fname).get_char_index(ord(character))), None)
