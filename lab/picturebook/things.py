"""How each kind of thing is drawn: shapes in the unit square, rendered as an anti-aliased RGBA sprite.

A kind is a function that takes a `Pen` and draws itself in coordinates from 0 to 1 (x right, y down). What is drawn
with `pen.body` takes the thing's colour and pattern; what is drawn with `pen.detail` keeps a colour of its own.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (214, 48, 49),
    "orange": (240, 138, 36),
    "yellow": (246, 211, 62),
    "green": (62, 160, 85),
    "blue": (52, 110, 205),
    "purple": (130, 76, 172),
    "pink": (243, 150, 186),
    "brown": (128, 82, 50),
}
PATTERNS = ("plain", "striped", "spotted")

INK: RGB = (44, 40, 52)
WHITE: RGB = (252, 250, 244)
CREAM: RGB = (250, 234, 205)
GREY: RGB = (142, 146, 156)
GLASS: RGB = (196, 226, 240)
BARK: RGB = (98, 78, 66)
LEAF: RGB = (88, 150, 88)

SUPERSAMPLING = 3


class Pen:
    """A square canvas of `side` pixels, supersampled, that remembers which pixels take the thing's colour."""

    def __init__(self, side: int, colour: RGB):
        self.size = side * SUPERSAMPLING
        self.colour = colour
        self.image = Image.new("RGBA", (self.size, self.size))
        self.body_mask = Image.new("L", (self.size, self.size))
        self._image = ImageDraw.Draw(self.image)
        self._mask = ImageDraw.Draw(self.body_mask)

    def body(self, shape: str, points: Sequence[float], shade: float = 1.0, **style: float) -> None:
        """Draws in the thing's own colour, darkened (`shade` < 1) or lightened (> 1)."""
        target = 0 if shade < 1 else 255
        weight = abs(1 - shade)
        rgb = tuple(round(c + (target - c) * weight) for c in self.colour)
        self._draw(shape, points, rgb, 255, style)

    def detail(self, shape: str, points: Sequence[float], rgb: RGB = INK, **style: float) -> None:
        """Draws in a colour that belongs to the kind, whatever the thing's colour is."""
        self._draw(shape, points, rgb, 0, style)

    def eye(self, x: float, y: float, radius: float = 0.035) -> None:
        self.detail("ellipse", (x - radius, y - radius, x + radius, y + radius), INK)
        glint = radius * 0.4
        self.detail("ellipse", (x - glint, y - 2 * glint, x + glint, y), WHITE)

    def _draw(
        self, shape: str, points: Sequence[float], rgb: Sequence[int], mask: int, style: dict[str, float]
    ) -> None:
        xy = [p * self.size for p in points]
        for draw, fill in ((self._image, (*rgb, 255)), (self._mask, mask)):
            if shape == "ellipse":
                draw.ellipse(xy, fill=fill)
            elif shape == "box":
                draw.rounded_rectangle(xy, radius=style.get("radius", 0.0) * self.size, fill=fill)
            elif shape == "polygon":
                draw.polygon(xy, fill=fill)
            elif shape == "pie":
                draw.pieslice(xy, style["start"], style["end"], fill=fill)
            elif shape == "arc":
                draw.arc(xy, style["start"], style["end"], fill=fill, width=round(style["width"] * self.size))
            elif shape == "line":
                width = style["width"] * self.size
                draw.line(xy, fill=fill, width=round(width), joint="curve")
                for x, y in zip(xy[::2], xy[1::2], strict=True):  # round ends
                    draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)
            else:
                raise ValueError(f"unknown shape {shape!r}")


def bird(pen: Pen) -> None:
    pen.detail("line", (0.42, 0.78, 0.40, 0.93), BARK, width=0.03)
    pen.detail("line", (0.53, 0.78, 0.54, 0.93), BARK, width=0.03)
    pen.body("polygon", (0.03, 0.42, 0.32, 0.46, 0.28, 0.68, 0.06, 0.58), shade=0.8)
    pen.body("ellipse", (0.17, 0.36, 0.74, 0.84))
    pen.body("ellipse", (0.54, 0.12, 0.88, 0.47))
    pen.detail("polygon", (0.85, 0.24, 1.0, 0.31, 0.85, 0.37), (242, 170, 60))
    pen.body("pie", (0.22, 0.30, 0.60, 0.74), shade=0.74, start=20, end=190)
    pen.eye(0.74, 0.26, 0.042)


def cat(pen: Pen) -> None:
    pen.body("arc", (0.60, 0.42, 0.97, 0.92), start=-80, end=120, width=0.085)
    pen.body("ellipse", (0.24, 0.48, 0.78, 0.98))
    pen.detail("ellipse", (0.37, 0.62, 0.63, 0.95), CREAM)
    pen.body("polygon", (0.20, 0.03, 0.45, 0.20, 0.22, 0.36))
    pen.body("polygon", (0.78, 0.03, 0.53, 0.20, 0.76, 0.36))
    pen.detail("polygon", (0.25, 0.12, 0.36, 0.20, 0.26, 0.27), (240, 190, 190))
    pen.detail("polygon", (0.73, 0.12, 0.62, 0.20, 0.72, 0.27), (240, 190, 190))
    pen.body("ellipse", (0.17, 0.14, 0.81, 0.60))
    pen.eye(0.36, 0.35, 0.048)
    pen.eye(0.62, 0.35, 0.048)
    pen.detail("polygon", (0.45, 0.43, 0.53, 0.43, 0.49, 0.48), (236, 120, 130))
    for y, dy in ((0.44, -0.03), (0.48, 0.02)):
        pen.detail("line", (0.32, y, 0.08, y + dy), INK, width=0.012)
        pen.detail("line", (0.66, y, 0.90, y + dy), INK, width=0.012)


def dog(pen: Pen) -> None:
    pen.body("line", (0.16, 0.52, 0.06, 0.28), width=0.085)
    for x in (0.17, 0.30, 0.54, 0.66):
        pen.body("box", (x, 0.62, x + 0.11, 0.97), radius=0.05, shade=0.86 if x in (0.30, 0.54) else 1.0)
    pen.body("box", (0.12, 0.44, 0.76, 0.78), radius=0.15)
    pen.body("ellipse", (0.55, 0.10, 0.90, 0.53))
    pen.body("box", (0.72, 0.28, 0.99, 0.49), radius=0.09)
    pen.detail("ellipse", (0.91, 0.26, 1.0, 0.36), INK)
    pen.body("ellipse", (0.52, 0.12, 0.69, 0.52), shade=0.6)
    pen.eye(0.78, 0.24, 0.04)


def fish(pen: Pen) -> None:
    pen.body("polygon", (0.02, 0.22, 0.34, 0.50, 0.02, 0.78, 0.10, 0.50), shade=0.78)
    pen.body("polygon", (0.40, 0.30, 0.60, 0.10, 0.74, 0.30), shade=0.78)
    pen.body("polygon", (0.44, 0.70, 0.56, 0.88, 0.66, 0.72), shade=0.78)
    pen.body("ellipse", (0.20, 0.24, 0.98, 0.77))
    pen.detail("arc", (0.52, 0.30, 0.76, 0.71), WHITE, start=-60, end=60, width=0.022)
    pen.detail("ellipse", (0.79, 0.37, 0.90, 0.48), WHITE)
    pen.eye(0.85, 0.43, 0.032)


def tree(pen: Pen) -> None:
    pen.detail("polygon", (0.44, 0.55, 0.56, 0.55, 0.62, 0.99, 0.38, 0.99), BARK)
    for x, y, r in (
        (0.30, 0.46, 0.22),
        (0.70, 0.46, 0.22),
        (0.36, 0.28, 0.20),
        (0.64, 0.28, 0.20),
        (0.50, 0.20, 0.19),
        (0.50, 0.46, 0.24),
    ):
        pen.body("ellipse", (x - r, y - r, x + r, y + r))
    pen.body("pie", (0.34, 0.34, 0.82, 0.66), shade=0.82, start=10, end=150)


def house(pen: Pen) -> None:
    pen.detail("box", (0.68, 0.08, 0.80, 0.36), BARK)
    pen.body("box", (0.12, 0.42, 0.88, 0.98), radius=0.01)
    pen.detail("polygon", (0.02, 0.46, 0.50, 0.06, 0.98, 0.46), (92, 84, 98))
    pen.detail("box", (0.44, 0.66, 0.62, 0.98), CREAM, radius=0.02)
    pen.detail("box", (0.20, 0.56, 0.36, 0.72), GLASS)
    pen.detail("line", (0.28, 0.56, 0.28, 0.72), WHITE, width=0.015)
    pen.detail("box", (0.69, 0.56, 0.81, 0.72), GLASS)
    pen.detail("ellipse", (0.57, 0.81, 0.60, 0.84), INK)


def car(pen: Pen) -> None:
    pen.body("polygon", (0.20, 0.48, 0.32, 0.24, 0.68, 0.24, 0.84, 0.48))
    pen.detail("polygon", (0.27, 0.46, 0.35, 0.30, 0.48, 0.30, 0.48, 0.46), GLASS)
    pen.detail("polygon", (0.53, 0.46, 0.53, 0.30, 0.66, 0.30, 0.76, 0.46), GLASS)
    pen.body("box", (0.02, 0.45, 0.98, 0.70), radius=0.09)
    pen.detail("box", (0.90, 0.50, 0.97, 0.58), (255, 240, 160), radius=0.02)
    for x in (0.24, 0.76):
        pen.detail("ellipse", (x - 0.12, 0.58, x + 0.12, 0.82), INK)
        pen.detail("ellipse", (x - 0.055, 0.645, x + 0.055, 0.755), GREY)


def boat(pen: Pen) -> None:
    pen.detail("line", (0.48, 0.04, 0.48, 0.72), BARK, width=0.03)
    pen.detail("polygon", (0.52, 0.06, 0.92, 0.62, 0.52, 0.62), WHITE)
    pen.detail("polygon", (0.44, 0.18, 0.44, 0.62, 0.14, 0.62), (228, 226, 222))
    pen.body("polygon", (0.02, 0.66, 0.98, 0.66, 0.80, 0.95, 0.20, 0.95))
    pen.body("box", (0.02, 0.64, 0.98, 0.72), shade=0.78, radius=0.02)


def ball(pen: Pen) -> None:
    pen.body("ellipse", (0.02, 0.02, 0.98, 0.98))
    pen.detail("ellipse", (0.25, 0.25, 0.75, 0.75), WHITE)
    pen.body("ellipse", (0.33, 0.33, 0.67, 0.67), shade=0.85)
    pen.detail("arc", (0.09, 0.09, 0.91, 0.91), WHITE, start=200, end=250, width=0.045)


def flower(pen: Pen) -> None:
    pen.detail("line", (0.50, 0.45, 0.50, 0.97), LEAF, width=0.05)
    pen.detail("ellipse", (0.50, 0.70, 0.78, 0.83), LEAF)
    pen.detail("ellipse", (0.22, 0.78, 0.50, 0.91), LEAF)
    for turn in range(6):
        x, y = 0.50 + 0.205 * np.cos(turn * np.pi / 3), 0.33 + 0.205 * np.sin(turn * np.pi / 3)
        pen.body("ellipse", (x - 0.145, y - 0.145, x + 0.145, y + 0.145))
    pen.detail("ellipse", (0.38, 0.21, 0.62, 0.45), (255, 226, 120))


def apple(pen: Pen) -> None:
    pen.detail("line", (0.50, 0.26, 0.54, 0.07), BARK, width=0.045)
    pen.detail("ellipse", (0.54, 0.05, 0.82, 0.20), LEAF)
    pen.body("ellipse", (0.05, 0.20, 0.60, 0.92))
    pen.body("ellipse", (0.40, 0.20, 0.95, 0.92))
    pen.body("ellipse", (0.22, 0.50, 0.78, 0.97))
    pen.detail("ellipse", (0.18, 0.32, 0.30, 0.52), WHITE)


def mushroom(pen: Pen) -> None:
    pen.detail("box", (0.34, 0.46, 0.66, 0.97), CREAM, radius=0.10)
    pen.detail("ellipse", (0.10, 0.46, 0.90, 0.64), (226, 206, 178))
    pen.body("pie", (0.02, 0.06, 0.98, 1.04), start=180, end=360)
    pen.body("ellipse", (0.02, 0.48, 0.98, 0.60))
    pen.detail("arc", (0.14, 0.15, 0.86, 0.95), WHITE, start=200, end=250, width=0.03)


def butterfly(pen: Pen) -> None:
    for side in (-1, 1):
        left, right = sorted((0.50 + side * 0.02, 0.50 + side * 0.48))
        pen.body("ellipse", (left, 0.08, right, 0.58))
        low_left, low_right = sorted((0.50 + side * 0.02, 0.50 + side * 0.38))
        pen.body("ellipse", (low_left, 0.46, low_right, 0.92), shade=0.84)
        x = 0.50 + side * 0.27
        pen.detail("ellipse", (x - 0.07, 0.24, x + 0.07, 0.38), CREAM)
        pen.detail("line", (0.50, 0.22, 0.50 + side * 0.14, 0.04), INK, width=0.018)
    pen.detail("box", (0.455, 0.20, 0.545, 0.84), INK, radius=0.045)


def umbrella(pen: Pen) -> None:
    pen.detail("line", (0.50, 0.05, 0.50, 0.86), BARK, width=0.035)
    pen.detail("arc", (0.50, 0.74, 0.70, 0.97), BARK, start=0, end=180, width=0.04)
    pen.body("pie", (0.02, 0.10, 0.98, 1.02), start=180, end=360)
    for left, shade in ((0.02, 0.85), (0.34, 1.0), (0.66, 0.85)):
        pen.body("pie", (left, 0.44, left + 0.32, 0.68), shade=shade, start=180, end=360)
    pen.detail("arc", (0.34, 0.10, 0.66, 1.02), INK, start=180, end=360, width=0.012)


KINDS: dict[str, Callable[[Pen], None]] = {
    f.__name__: f
    for f in (bird, cat, dog, fish, tree, house, car, boat, ball, flower, apple, mushroom, butterfly, umbrella)
}


def pattern_mask(pattern: str, size: int, period: float) -> Image.Image:
    """Where the lighter second tone of a pattern goes.

    0..255, `size` pixels square, one repeat every `period` pixels.
    """
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    if pattern == "striped":
        for start in np.arange(-size, 2 * size, period):
            draw.line((start, 0, start + size * 0.5, size), fill=255, width=round(period * 0.42))
    elif pattern == "spotted":
        radius = period * 0.29
        for row, y in enumerate(np.arange(period / 4, size + period, period * 0.8)):
            for x in np.arange(period / 2 * (row % 2), size + period, period):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    elif pattern != "plain":
        raise ValueError(f"unknown pattern {pattern!r}; choose from {', '.join(PATTERNS)}")
    return mask


def sprite(
    kind: str, colour: str, pattern: str, longest: int, period: float, *, flip: bool = False, shade: float = 1.0
) -> Image.Image:
    """One thing, cut out tightly.

    Args:
        kind, colour, pattern: keys of `KINDS`, `COLOURS` and one of `PATTERNS`.
        longest: pixels of the longer side of the thing's box, outline included.
        period: pixels after which the pattern repeats.
        flip: mirror left to right.
        shade: brightness of the colour, about 0.9 to 1.1.

    Returns:
        RGBA image whose alpha is the anti-aliased silhouette; its size is the thing's box.
    """
    r, g, b = (round(min(255, c * shade)) for c in COLOURS[colour])
    rgb = (r, g, b)
    unit_box = _unit_box(kind)
    side = round((longest - 2) / max(unit_box[2] - unit_box[0], unit_box[3] - unit_box[1]))
    pen = Pen(side, rgb)
    KINDS[kind](pen)

    # the pattern's second tone, on the coloured parts only
    if pattern != "plain":
        tone = tuple(round(c + (255 - c) * 0.62) for c in rgb)
        where = ImageChops.darker(pattern_mask(pattern, pen.size, period * SUPERSAMPLING), pen.body_mask)
        pen.image.paste((*tone, 255), (0, 0), where)

    # down to size, then a dark outline one pixel wide
    picture = pen.image.reduce(SUPERSAMPLING)
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    framed = Image.new("RGBA", (side + 4, side + 4))
    framed.paste(picture, (2, 2))
    outline = framed.getchannel("A").filter(ImageFilter.MaxFilter(3))
    drawn = Image.new("RGBA", framed.size, (*(round(c * 0.35) for c in rgb), 0))
    drawn.putalpha(outline)
    drawn.alpha_composite(framed)
    box = outline.point(lambda a: 255 if a >= 128 else 0).getbbox()
    return drawn.crop(box)


_UNIT_BOXES: dict[str, tuple[float, float, float, float]] = {}


def sprite_size(kind: str, longest: int) -> tuple[int, int]:
    """Width and height in pixels, to within 2, of what `sprite` will draw, without drawing it."""
    x0, y0, x1, y1 = _unit_box(kind)
    scale = longest / max(x1 - x0, y1 - y0)
    return round((x1 - x0) * scale), round((y1 - y0) * scale)


def _unit_box(kind: str) -> tuple[float, float, float, float]:
    """The tight box of a kind's drawing in unit coordinates, measured once on a large canvas."""
    if kind not in _UNIT_BOXES:
        pen = Pen(256, COLOURS["red"])
        KINDS[kind](pen)
        x0, y0, x1, y1 = pen.image.getchannel("A").getbbox() or (0, 0, pen.size, pen.size)
        _UNIT_BOXES[kind] = (x0 / pen.size, y0 / pen.size, x1 / pen.size, y1 / pen.size)
    return _UNIT_BOXES[kind]
