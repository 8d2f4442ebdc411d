"""Figures: what the chosen heads look at, all heads of a sample, and how often each head is selected over many.

    top_heads_figure(image, query, maps, scores, result, grid)    # the picture with mask and box, and each head's map
    heads_figure(table, threshold, heads, query)                  # attention sum and entropy of every head, the elbow
    components_figure(image, query, maps, scores, grid, entropy)  # the places that the entropy counts
    sample_figures(record, result, image, logic, viz)             # those of them that the configuration asks for
    save_figure(figure, Path("bird_top3.png"))                    # or .pdf, .svg

Every colour scale runs from light to dark, so that grey print keeps the order; text may be in any script.
"""

import io
import logging
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from PIL import Image

from analyze import HeadScore, attention_sums, components, score_all, scores_of, sum_threshold
from bbox import Localization, head_maps
from conf.schema import Contrast, EntropyConfig, LogicConfig, VizConfig
from lab.base.files import write_atomic
from lab.figures.colours import INK
from lab.figures.heads import heads_figure
from lab.figures.panels import Picture, colour_bar, draw_components, draw_result, hatch, overlay
from lab.figures.selection import head_quality_figure, selection_figure
from lab.figures.sheet import sheet
from lab.figures.style import SMALL, any_glyphs
from lab.records.canvas import choose_grids
from lab.records.record import Record
from lab.records.sinks import Extent, cells
from llava.grid import Grid

__all__ = [
    "components_figure", "figure_bytes", "head_quality_figure", "heads_figure", "sample_figures", "save_figure",
    "score_title", "selection_figure", "show", "top_heads_figure",
]  # fmt: skip

log = logging.getLogger(__name__)

MAX_HEADS_SHOWN = 20  # in one figure; more could not be seen
WINDOWLESS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")  # matplotlib's backends that only write files


def top_heads_figure(
    image: Image.Image,
    query: str,
    maps: Float[np.ndarray, "heads rows cols"],
    scores: Sequence[HeadScore],
    result: Localization,
    grid: Grid,
    unit: str = "attention per cell, %",
    left_out: Sequence[Extent] = (),
    refined: Bool[np.ndarray, "height width"] | None = None,
) -> Figure:
    """The picture with mask outline and box, each chosen head's map over it, and what they give each cell together.

    All maps share one colour scale: attention per cell, the share of the last token's attention that a cell gets. Of
    more than MAX_HEADS_SHOWN heads the first are shown; the last map is of all: the mean of the smoothed maps or, where
    they are evened out first, their power mean (`bbox.in_attention`).

    Args:
        maps: the chosen heads' attention, in the order of `scores`.
        scores: what the ranking says of the same heads.
        grid: where the maps lie over `image`.
        unit: of the colour bar, whose numbers are 100 times the maps'.
        left_out: cells that count in no map, in pixels of `image`; they are hatched.
        refined: a sharp mask, outlined beside the grid's.
    """
    picture, shown = Picture(image), min(len(scores), MAX_HEADS_SHOWN)
    combined = result.heat / max(1, len(scores))
    highest = max(float(maps.max(initial=0)), float(combined.max())) or 1.0
    norm = PowerNorm(0.5, 0, highest)  # a head that looks at few cells: most are faint
    figure, (large, *panels, bar) = sheet(query, shown + 1, picture.shape)
    picture.draw(large)
    draw_result(large, result, refined)
    together = "together\nsmoothed" if shown == len(scores) else f"all {len(scores)} together\nsmoothed"
    titles = [*map(score_title, scores[:shown]), together]
    for axis, attention, title in zip(panels, [*maps[:shown], combined], titles, strict=True):
        overlay(axis, picture, attention, grid, norm)
        hatch(axis, left_out)
        _write_title(axis, title)
    colour_bar(bar, norm, unit)
    return figure


def score_title(score: HeadScore) -> str:
    """Two lines, `L14 H24` and `sum 0.61, entropy 0.42`: layer and head from zero, attention sum, spatial entropy."""
    entropy = f"{abs(score.spatial_entropy):.2f}" if np.isfinite(score.spatial_entropy) else "∞"
    return f"L{score.layer} H{score.head}\nsum {score.attn_sum:.2f}, entropy {entropy}"


def _write_title(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=SMALL, color=INK, pad=3, linespacing=1.1)


def components_figure(
    image: Image.Image,
    query: str,
    maps: Float[np.ndarray, "heads rows cols"],
    scores: Sequence[HeadScore],
    grid: Grid,
    config: EntropyConfig,
) -> Figure:
    """The places that the spatial entropy counts in each chosen head's map, with their shares.

    Arguments as for top_heads_figure.
    """
    picture, shown = Picture(image), max(1, min(len(scores), MAX_HEADS_SHOWN))
    figure, panels = sheet(query, shown, picture.shape, large=False)
    for axis, attention, score in zip(panels, maps, scores, strict=False):
        draw_components(axis, picture, *components(attention, config), grid)
        _write_title(axis, score_title(score))
    if not scores:
        picture.draw(panels[0], pale=True)
    return figure


def sample_figures(
    record: Record,
    result: Localization,
    image: Image.Image,
    logic: LogicConfig,
    wanted: VizConfig,
    refined: Bool[np.ndarray, "height width"] | None = None,
) -> dict[str, Figure]:
    """The figures of one sample by name: top{K} and, if they are `wanted`, heads and components."""
    query = str(record.meta.get("query", ""))
    scores = scores_of(record, result.heads, logic)
    maps = record.maps_of(result.heads)
    looked = head_maps(record, result.heads, logic.contrast)  # the mask comes from these, the criteria from plain maps
    contrast = "" if logic.contrast == Contrast.none else f", {logic.contrast} to generic"
    unit = f"attention per cell, %{contrast}"
    left_out = cells(choose_grids(record.grids, record.counted), record.left_out)
    large = top_heads_figure(image, query, looked, scores, result, record.grid, unit, left_out, refined)
    figures = {f"top{len(scores)}": large}
    if wanted.heads:
        threshold = sum_threshold(attention_sums(record, logic.entropy.digits), logic.threshold)
        table, line = score_all(record, logic), threshold if math.isfinite(threshold) else None
        figures["heads"] = heads_figure(table, line, result.heads, query)
    if wanted.components:
        figures["components"] = components_figure(image, query, maps, scores, record.grid, logic.entropy)
    return figures


def save_figure(figure: Figure, path: Path, dpi: int = 300) -> None:
    """Writes the figure, whole or not at all. The format is the suffix (.png, .pdf, .svg)."""
    write_atomic(path, figure_bytes(figure, path.suffix[1:], dpi, name=path.name))


def figure_bytes(figure: Figure, kind: str, dpi: int = 300, *, name: str = "") -> bytes:
    """The figure as a png, pdf or svg; the same bytes for the same figure and `name`."""
    buffer = io.BytesIO()
    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    fast: dict[str, Any] = (
        {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}
    )  # half the time for a tenth more bytes
    with any_glyphs(), rc_context({"pdf.fonttype": 42, "svg.hashsalt": name}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=undated.get(kind), **fast)
    return buffer.getvalue()


def show(*figures: Figure) -> None:
    """Opens a window for each figure and waits until they are closed; where there is no display, does nothing."""
    import matplotlib.pyplot as plt

    if not can_show():
        return
    for figure in figures:
        window = plt.figure(figsize=figure.get_size_inches(), dpi=figure.dpi)
        drawn = FigureCanvasAgg(figure)
        with any_glyphs():
            drawn.draw()
        window.figimage(np.asarray(drawn.buffer_rgba()))
    plt.show()


@cache  # a batch asks for every sample, and is told once
def can_show() -> bool:
    """Whether windows can be opened here; if not, says so."""
    import matplotlib.pyplot as plt

    try:
        if plt.get_backend().lower() not in WINDOWLESS:  # asking loads it
            plt.close(plt.figure(figsize=(1, 1)))
            return True
        reason = "no display here"
    except Exception as error:  # each toolkit has its own for a display that does not answer
        reason = f"the display cannot be used ({' '.join(str(error).split())})"
    log.warning("no window is opened: %s", reason)
    return False
