"""A picture, and things over it in the right place: maps, mask, box.

Coordinates are pixels of the picture, edges exclusive.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps

from bbox import Localization
from lab.base.colours import APART
from lab.figures.colours import BOX_COLOUR, EDGE, INK, MASK_COLOUR, REFINED_COLOUR
from lab.figures.labels import Box, place_labels
from lab.figures.style import HEAT, LABEL, SMALL, inches, text_size
from llava.grid import Grid

LONGEST_SIDE = 900  # pixels of the picture inside a figure; more would not be seen
TALLEST, WIDEST = 1 / 3, 5.0  # width by height; a picture beyond is stretched, or it could not be seen at all
MOST_SHARES = 6  # numbers on one map; the rest of the places are small
LABEL_PAD = 0.02  # inches around a number
CASED: dict[str, Any] = {"path_effects": [withStroke(linewidth=2.2, foreground="black")]}


@dataclass(frozen=True)
class Picture:
    """A picture as the panels of a figure show it."""

    image: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    @property
    def shape(self) -> float:
        """Width by height as it is shown."""
        return min(WIDEST, max(TALLEST, self.image.width / self.image.height))

    @property
    def is_stretched(self) -> bool:
        return self.shape != self.image.width / self.image.height

    @cached_property
    def colour(self) -> UInt8[np.ndarray, "height width 3"]:
        scale = min(1.0, LONGEST_SIDE / max(self.size))
        small = tuple(max(1, round(side * scale)) for side in self.size)
        return np.asarray(self.image if scale == 1 else self.image.resize(small))  # type: ignore[arg-type]

    @cached_property
    def pale(self) -> UInt8[np.ndarray, "height width"]:
        """Grey, and no darker than what a cell with little attention looks like."""
        grey = ImageOps.grayscale(Image.fromarray(self.colour))
        grey = grey.reduce(2) if min(grey.size) > LONGEST_SIDE // 4 else grey  # the small panels would not show more
        return (np.asarray(grey) * 0.42 + 255 * 0.58).astype(np.uint8)

    def draw(self, axis: Axes, *, pale: bool = False) -> None:
        """The picture fills the axes; what is drawn outside it is cut off."""
        width, height = self.size
        axis.imshow(
            self.pale if pale else self.colour,
            cmap="gray",
            vmin=0,
            vmax=255,
            extent=(0, width, height, 0),
            interpolation="antialiased",
        )
        axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect=width / height / self.shape)
        for spine in axis.spines.values():
            spine.set_edgecolor(EDGE)
        if self.is_stretched and not pale:
            axis.set_title("stretched to be seen", loc="right", fontsize=SMALL, color=INK, pad=3)


def overlay(
    axis: Axes, picture: Picture, attention: Float[np.ndarray, "rows cols"], grid: Grid, norm: Normalize
) -> None:
    """Attention over a pale picture, a square of one colour for each cell, wherever padding or crop put the grid."""
    picture.draw(axis, pale=True)
    x0, y0, x1, y1 = grid.extent_xyxy
    opacity = _opacity(np.asarray(norm(attention)))
    axis.imshow(
        attention,
        cmap=HEAT,
        norm=norm,
        alpha=opacity,
        extent=(x0, x1, y1, y0),
        aspect="auto",
        interpolation="nearest",
        zorder=2,
    )
    keep_frame(axis, picture, grid)


def hatch(axis: Axes, cells: Sequence[Box]) -> None:
    """Hatches cells that count in no map."""
    for x0, y0, x1, y1 in cells:
        axis.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=EDGE, linewidth=0.4, hatch="/////", zorder=3)
        )


def draw_components(
    axis: Axes,
    picture: Picture,
    labels: Int[np.ndarray, "rows cols"],
    shares: Float[np.ndarray, " components"],
    grid: Grid,
) -> None:
    """Each place in a colour of its own, the largest with their shares in %; cells of no place are left out."""
    picture.draw(axis, pale=True)
    x0, y0, x1, y1 = grid.extent_xyxy
    order = np.argsort(-shares, kind="stable")
    colour_of = np.zeros(len(shares) + 1, int)
    colour_of[order + 1] = 1 + np.arange(len(shares)) % len(APART)
    axis.imshow(
        np.ma.masked_equal(colour_of[labels], 0), cmap=ListedColormap(APART), vmin=1, vmax=len(APART),
        alpha=0.75,
        extent=(x0, x1, y1, y0), aspect="auto", interpolation="nearest", zorder=2,
    )  # fmt: skip
    if not len(shares):
        axis.text(0.5, 0.03, "no place stands out", fontsize=SMALL, color=INK, ha="center", transform=axis.transAxes)
    keep_frame(axis, picture, grid)
    _write_shares(axis, picture, labels, shares, order[:MOST_SHARES].tolist(), grid)


def _write_shares(
    axis: Axes,
    picture: Picture,
    labels: Int[np.ndarray, "rows cols"],
    shares: Float[np.ndarray, " components"],
    largest: Sequence[int],
    grid: Grid,
) -> None:
    """The share of each of the `largest` places in %, framed in its colour, beside it; none overlaps another.

    None for a place that the picture does not show.
    """
    width, height = inches(axis)
    across = min(width, height * picture.shape)  # inches that the picture takes of it
    per_inch = np.array([picture.size[0] / across, picture.size[1] / across * picture.shape] * 2)
    places, texts, colours, masks = [], [], [], []
    for rank, component in enumerate(largest):
        box = _extent(labels == component + 1, grid, picture.size)
        if box is not None:
            share = 100 * shares[component]
            places.append(tuple(box / per_inch))
            masks.append(labels == component + 1)
            texts.append("<1 %" if 0 < share < 0.5 else f"{share:.0f} %")
            colours.append(APART[rank % len(APART)])
    sizes = [(width + 2 * LABEL_PAD, height + 2 * LABEL_PAD) for width, height in map(_size, texts)]
    found = place_labels(places, sizes, (0, 0, across, across / picture.shape), gap=LABEL_PAD)
    for text, colour, mask, label in zip(texts, colours, masks, found, strict=True):
        if label is None:
            continue
        x0, y0, x1, y1 = label * per_inch
        at = np.array([x0 + x1, y0 + y1]) / 2
        cells = _centres(mask, grid)
        nearest = cells[np.linalg.norm((cells - at) / per_inch[:2], axis=1).argmin()]
        axis.plot(*zip(at, nearest, strict=True), color=colour, linewidth=0.8, zorder=3.5)
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor="white", edgecolor=colour, lw=0.8, zorder=4))
        axis.text(at[0], at[1], text, fontsize=SMALL, fontweight="bold", color=INK, ha="center", va="center", zorder=5)


def _size(text: str) -> tuple[float, float]:
    return text_size(text, SMALL, bold=True)


def _centres(place: Bool[np.ndarray, "rows cols"], grid: Grid) -> Float[np.ndarray, "cells 2"]:
    """x and y of the place's cells on the picture."""
    x0, y0, x1, y1 = grid.extent_xyxy
    rows, cols = np.nonzero(place)
    return np.stack([x0 + (cols + 0.5) * (x1 - x0) / grid.cols, y0 + (rows + 0.5) * (y1 - y0) / grid.rows], axis=1)


def _extent(place: Bool[np.ndarray, "rows cols"], grid: Grid, size: tuple[int, int]) -> Box | None:
    """The place on the picture, as far as it is shown; None if it is not."""
    x0, y0, x1, y1 = grid.extent_xyxy
    (rows, cols), (width, height) = np.nonzero(place), size
    left, right = (x0 + edge * (x1 - x0) / grid.cols for edge in (cols.min(), cols.max() + 1))
    top, bottom = (y0 + edge * (y1 - y0) / grid.rows for edge in (rows.min(), rows.max() + 1))
    box = (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
    return box if box[0] < box[2] and box[1] < box[3] else None


def keep_frame(axis: Axes, picture: Picture, grid: Grid) -> None:
    """Limits the axes to the picture again, and frames what the model saw of it if that is not all."""
    width, height = picture.size
    x0, y0, x1, y1 = grid.extent_xyxy
    if x0 > 0 or y0 > 0 or x1 < width or y1 < height:
        axis.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=EDGE, linewidth=0.6, linestyle="--", zorder=3)
        )
    axis.set(xlim=(0, width), ylim=(height, 0), aspect=width / height / picture.shape)


def draw_result(axis: Axes, result: Localization, refined: Bool[np.ndarray, "height width"] | None = None) -> None:
    """Outline of the mask, frame of the box, and a key to both, with presence if it is known; without them, words.

    A sharp mask is outlined too, and the grid's then more faintly.
    """
    anchor: dict[str, Any] = {
        "loc": "lower left",
        "bbox_to_anchor": (0, 1),
        "borderaxespad": 0.15,
        "borderpad": 0.2,
        "frameon": False,
    }
    told = "" if result.presence is None else f", presence {result.presence:.2f}"
    if not result.mask.any() or result.box_xyxy is None:
        axis.legend(
            handles=[Line2D([], [], linestyle="", label=f"no mask, no box{told}")],
            handlelength=0,
            handletextpad=0,
            fontsize=SMALL,
            **anchor,
        )
        return
    sharp = refined is not None and bool(refined.any())
    _outline(axis, result.mask, MASK_COLOUR, "--" if sharp else "-")
    if refined is not None and sharp:
        _outline(axis, refined, REFINED_COLOUR)
    x0, y0, x1, y1 = result.box_xyxy
    for colour, line in (("white", 2.6), (BOX_COLOUR, 1.6)):
        axis.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0 + 1,
                y1 - y0 + 1,
                fill=False,
                edgecolor=colour,
                linewidth=line,
                zorder=4,
                clip_on=False,
            )
        )
    key = [
        Line2D([], [], color=MASK_COLOUR, lw=1.1, ls="--" if sharp else "-", label="mask", **CASED),
        *([Line2D([], [], color=REFINED_COLOUR, lw=1.1, label="sharp mask", **CASED)] if sharp else []),
        Line2D([], [], color=BOX_COLOUR, lw=1.6, label=f"box{told}"),
    ]
    axis.legend(
        handles=key,
        ncols=len(key),
        handlelength=1.4,
        columnspacing=1.2,
        handletextpad=0.5,
        fontsize=SMALL,
        labelcolor=INK,
        **anchor,
    )


def _outline(axis: Axes, mask: Bool[np.ndarray, "height width"], colour: Any, line: str = "-") -> None:
    step = -(-max(mask.shape) // LONGEST_SIDE)
    padded = np.pad(mask[::step, ::step], 1).astype(
        np.float32
    )  # background all round: the outline of a mask at the edge closes
    x, y = ((np.arange(count) - 0.5) * step for count in padded.shape[::-1])
    contour = axis.contour(x, y, padded, levels=[0.5], colors=[colour], linestyles=line, linewidths=1.1, zorder=3)
    contour.set(**CASED)


def colour_bar(axis: Axes, norm: Normalize, unit: str) -> None:
    """Attention per cell as its colours look over a pale picture."""
    ramp = np.linspace(0, 1, 128)
    opacity = _opacity(ramp)[:, None]
    colours = HEAT(ramp)[:, :3] * opacity + (1 - opacity) * 0.94
    axis.imshow(colours[:, None], origin="lower", aspect="auto", extent=(0, 1, 0, 1))
    ticks = np.array([0, *MaxNLocator(4).tick_values(0, norm.vmax or 1.0)[1:]])
    ticks = ticks[ticks <= norm.vmax]
    axis.set(xticks=[], yticks=norm(ticks), yticklabels=[f"{100 * tick:g}" for tick in ticks])
    axis.yaxis.tick_right()
    axis.yaxis.set_label_position("right")
    axis.set_ylabel(unit, fontsize=LABEL, color=INK)
    axis.tick_params(labelsize=SMALL, colors=INK, length=2, pad=2)


def _opacity(level: np.ndarray) -> np.ndarray:
    """How much of the picture a cell hides, 0 to 0.9, for a level of 0 to 1."""
    return 0.9 * np.clip(level, 0, 1) ** 0.75
