"""Scenes: seeded layouts of things on a background, rendered with the exact mask and box of every thing."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter

from lab.base.errors import UserError
from lab.picturebook.backgrounds import BACKGROUNDS, clutter
from lab.picturebook.things import COLOURS, KINDS, PATTERNS, sprite, sprite_size

# longest side of a thing as a share of the picture's longer side; on a 16-cell grid: 3 to 3.6, 4.6 to 5.6, 7 to 8.8
# cells
SIZES: dict[str, tuple[float, float]] = {"small": (0.19, 0.225), "medium": (0.29, 0.35), "large": (0.44, 0.55)}
PATTERN_PERIOD = 0.062  # share of the picture's longer side
MAX_THINGS = 7
CANVAS = (240, 640)  # shortest and longest side of a picture, pixels
CELLS = 16  # along the longer side, as the shipped model sees it
ATTEMPTS = 300  # at a scene that holds as many things as are asked for


@dataclass
class SceneConfig:
    """What scenes are like. The defaults are what the shipped model was trained on; the rest lies outside of that.

    A cell is a sixteenth of the picture's longer side. [a, b]: from a to b, evenly.
    """

    things: list[int] = field(default_factory=lambda: [1, MAX_THINGS])  # how many in a scene, where there is room
    cells: list[float] | None = None  # longest side of a thing, cells; null: 3 to 8.8, in three sizes
    shape: float | None = None  # width of a picture over its height; null: from 1:2 to 2:1, mostly milder
    side: int | None = None  # longer side of a picture, pixels; null: 320 to 640
    clutter: int = 0  # lines, discs and triangles strewn behind the things
    blur: float = 0.0  # standard deviation of a Gaussian over the finished picture, cells
    noise: float = 0.0  # standard deviation of what is added to each value of the finished picture, of 255

    def check(self) -> None:
        """Raises UserError naming a value that no scene can have."""
        for name, low, high in (("things", 1, 100), ("cells", 0.5, CELLS - 1)):
            ends = getattr(self, name)
            if ends is not None and not (len(ends) == 2 and low <= ends[0] <= ends[1] <= high):
                raise UserError(f"{name}={list(ends)}: expected [least,most] between {low} and {high}")
        for name, low, high in (
            ("shape", 1 / 8, 8), ("side", 160, 4096), ("clutter", 0, 10_000), ("blur", 0, CELLS), ("noise", 0, 255)
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None and not low <= value <= high:
                raise UserError(f"{name}={value}: must lie between {low} and {high}")


@dataclass(frozen=True)
class Thing:
    """One thing in a scene; `box_xyxy` in pixels, edges exclusive, to within 2; `render` gives the exact mask."""

    kind: str
    colour: str
    pattern: str
    size: str
    box_xyxy: tuple[int, int, int, int]
    flip: bool
    shade: float

    @property
    def centre(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box_xyxy
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn. Things are in painting order: a later thing covers an earlier one."""

    width: int
    height: int
    background: str
    seed: int
    things: tuple[Thing, ...]
    clutter: int = 0  # these three as in SceneConfig
    blur: float = 0.0
    noise: float = 0.0

    @property
    def longer_side(self) -> int:
        return max(self.width, self.height)


def make_scene(seed: int, like: SceneConfig | None = None) -> Scene:
    """A random scene; the same seed always gives the same scene. Without `like` it is one of the training's kind.

    Later things often repeat the kind or the colour of an earlier one, so that most expressions have distractors.
    Raises UserError if so many things of that size do not fit into a picture.
    """
    like = like or SceneConfig()
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, 6, attempt] if attempt else seed)
        width, height = _canvas(rng, like)
        things = _things(rng, width, height, like)
        if len(things) >= like.things[0]:
            background = str(rng.choice(list(BACKGROUNDS)))
            return Scene(width, height, background, seed, things, like.clutter, like.blur, like.noise)
    fewer = "ask for fewer or smaller ones" if like.things[0] > 1 else "ask for smaller ones, or another shape"
    raise UserError(f"things={list(like.things)} with cells={like.cells} do not fit into a picture: {fewer}")


def _things(rng: np.random.Generator, width: int, height: int, like: SceneConfig) -> tuple[Thing, ...]:
    things: list[Thing] = []
    least, most = like.things
    wanted = int(rng.integers(least, most + 1))
    for _ in range(60):  # crowded canvases give up before they reach the wanted number
        if len(things) == wanted:
            break
        thing = _place(rng, width, height, things, like.cells)
        if thing is not None:
            things.append(thing)
    return tuple(sorted(things, key=lambda t: t.box_xyxy[3]))  # nearer things stand lower and are painted later


def _canvas(rng: np.random.Generator, like: SceneConfig) -> tuple[int, int]:
    width, height = _trained_canvas(rng)
    side, shape = like.side or max(width, height), like.shape or width / height
    return (side, round(side / shape)) if shape >= 1 else (round(side * shape), side)


def _trained_canvas(rng: np.random.Generator) -> tuple[int, int]:
    shape = rng.choice(["square", "landscape", "portrait"], p=[0.4, 0.35, 0.25])
    low, high = CANVAS
    long = int(rng.integers(320, high + 1))
    if shape == "square":
        return long, long
    short = int(rng.integers(max(low, round(long * 0.5)), round(long * 0.85) + 1)) if rng.random() < 0.8 else low
    return (long, short) if shape == "landscape" else (short, long)


def _place(
    rng: np.random.Generator, width: int, height: int, others: list[Thing], cells: list[float] | None
) -> Thing | None:
    """One more thing where there is room for it, or None."""
    kind, colour = str(rng.choice(list(KINDS))), str(rng.choice(list(COLOURS)))
    if others:
        like = others[rng.integers(len(others))]
        draw = rng.random()
        if draw < 0.40:
            kind = like.kind
        elif draw < 0.65:
            colour = like.colour
        elif draw < 0.72:
            kind, colour = like.kind, like.colour
    pattern = str(rng.choice(PATTERNS))
    size = str(rng.choice(list(SIZES), p=[0.35, 0.4, 0.25]))
    share = rng.uniform(*SIZES[size])
    if cells is not None:
        least, most = cells
        share = rng.uniform(least, most) / CELLS
        size = min(SIZES, key=lambda name: abs(share - sum(SIZES[name]) / 2))  # what it would be called
    longest = round(share * max(width, height))
    flip, shade = bool(rng.random() < 0.5), float(rng.uniform(0.93, 1.07))
    w, h = sprite_size(kind, longest)
    margin = 2
    if w + 2 * margin > width or h + 2 * margin > height:
        return None
    for _ in range(12):
        x, y = int(rng.integers(margin, width - w - margin + 1)), int(rng.integers(margin, height - h - margin + 1))
        box = (x, y, x + w, y + h)
        if all(_overlap(box, other.box_xyxy) < 0.06 for other in others):
            return Thing(kind, colour, pattern, size, box, flip, shade)
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Area of the intersection as a share of the smaller box."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def render(scene: Scene) -> tuple[Image.Image, np.ndarray]:
    """Draws a scene.

    Returns:
        The RGB picture and `owner` [height, width] int8: the index of the thing that is visible at each pixel, or -1.
    """
    rng = np.random.default_rng([scene.seed, 1])
    image = BACKGROUNDS[scene.background]((scene.width, scene.height), rng)
    clutter(image, scene.clutter, np.random.default_rng([scene.seed, 7]))
    owner = np.full((scene.height, scene.width), -1, dtype=np.int8)
    for index, thing in enumerate(scene.things):
        paint(image, owner, index, thing, scene.longer_side)
    if scene.blur:
        image = image.filter(ImageFilter.GaussianBlur(scene.blur * scene.longer_side / CELLS))
    if scene.noise:
        grain = np.random.default_rng([scene.seed, 8]).normal(0, scene.noise, (scene.height, scene.width, 3))
        image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    return image, owner


def paint(image: Image.Image, owner: np.ndarray, index: int, thing: Thing, longer_side: int) -> None:
    """Draws one thing into `image` and writes `index` into `owner` wherever it covers a pixel by half or more."""
    x0, y0, x1, y1 = thing.box_xyxy
    period = PATTERN_PERIOD * longer_side
    drawn = sprite(
        thing.kind, thing.colour, thing.pattern, max(x1 - x0, y1 - y0), period, flip=thing.flip, shade=thing.shade
    )
    image.paste(drawn, (x0, y0), drawn)
    region = owner[y0 : y0 + drawn.height, x0 : x0 + drawn.width]
    alpha = np.asarray(drawn.getchannel("A"))[: region.shape[0], : region.shape[1]]
    region[alpha >= 128] = index


def mask_box_xyxy(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box of a bool mask [height, width], in pixels, edges exclusive. Raises ValueError when it is empty."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1
