"""Draws the pictures that ship in `examples/images`, with their true boxes, and the JSONL that names them.

python -m lab.picturebook.examples out=examples
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line
from lab.picturebook.backgrounds import BACKGROUNDS
from lab.picturebook.things import BARK, COLOURS, LEAF, SUPERSAMPLING, sprite_size
from lab.picturebook.world import SIZES, Scene, Thing, mask_box_xyxy, paint


def thing(
    kind: str,
    colour: str,
    pattern: str,
    size: str,
    share: float,
    x: int,
    y: int,
    longer_side: int,
    *,
    flip: bool = False,
) -> Thing:
    """A thing whose upper left corner is (x, y); `share` picks its length within its size class, 0 to 1."""
    low, high = SIZES[size]
    w, h = sprite_size(kind, round((low + share * (high - low)) * longer_side))
    return Thing(kind, colour, pattern, size, (x, y, x + w, y + h), flip, 1.0)


SCENES: dict[str, Scene] = {
    "bird": Scene(
        640, 480, "meadow", 7,
        (
            thing("tree", "green", "plain", "large", 0.0, 350, 40, 640),
            thing("bird", "blue", "plain", "medium", 0.6, 118, 176, 640),
        ),
    ),
    "cat": Scene(
        640, 480, "room", 8,
        (
            thing("umbrella", "red", "striped", "small", 0.9, 470, 130, 640),
            thing("ball", "yellow", "plain", "small", 0.3, 452, 318, 640),
            thing("cat", "orange", "plain", "medium", 1.0, 160, 214, 640),
        ),
    ),
    "dog": Scene(
        480, 600, "meadow", 5,
        (
            thing("house", "purple", "plain", "large", 0.2, 170, 60, 600),
            thing("dog", "brown", "spotted", "small", 1.0, 70, 420, 600),
            thing("flower", "pink", "plain", "small", 0.5, 330, 432, 600),
        ),
    ),
}  # fmt: skip

QUERIES: tuple[tuple[str, str, str, int], ...] = (  # id, picture, expression, index of the thing it means
    ("birds", "bird", "birds.", 1),
    ("bird_on_the_branch", "bird", "the bird on the branch", 1),
    ("cat", "cat", "a cat on the floor", 2),
    ("dog", "dog", "a small dog wearing a collar", 1),
)


Stroke = tuple[str, tuple[float, ...], tuple[int, int, int], int]  # line or ellipse, pixels, colour, width

# a branch for the bird to stand on, a collar for the dog to wear
BEHIND: dict[str, list[Stroke]] = {
    "bird": [
        ("line", (-10, 404, 150, 372, 330, 350, 372, 336), BARK, 16),
        ("line", (96, 384, 60, 430, 52, 452), BARK, 8),
        *(
            ("ellipse", (x - 17, y - 9, x + 17, y + 9), LEAF, 0)
            for x, y in ((40, 448), (70, 446), (366, 322), (384, 342), (30, 380))
        ),
    ]
}
BEFORE: dict[str, list[Stroke]] = {
    "dog": [
        ("line", (139, 473, 152, 483, 166, 487), COLOURS["red"], 7),
        ("ellipse", (150, 485, 160, 495), COLOURS["yellow"], 0),
    ]
}


def decorate(image: Image.Image, strokes: list[Stroke]) -> None:
    """Draws anti-aliased strokes into the picture."""
    layer = Image.new("RGBA", (image.width * SUPERSAMPLING, image.height * SUPERSAMPLING))
    draw = ImageDraw.Draw(layer)
    for shape, points, colour, width in strokes:
        xy = [p * SUPERSAMPLING for p in points]
        if shape == "line":
            draw.line(xy, fill=colour, width=width * SUPERSAMPLING, joint="curve")
        else:
            draw.ellipse(xy, fill=colour)
    small = layer.reduce(SUPERSAMPLING)
    image.paste(small, (0, 0), small)


def draw_scene(name: str) -> tuple[Image.Image, np.ndarray]:
    """One of `SCENES` with what is drawn behind and before its things; the result as `world.render` gives it."""
    scene = SCENES[name]
    image = BACKGROUNDS[scene.background]((scene.width, scene.height), np.random.default_rng([scene.seed, 1]))
    owner = np.full((scene.height, scene.width), -1, dtype=np.int8)
    decorate(image, BEHIND.get(name, []))
    for index, each in enumerate(scene.things):
        paint(image, owner, index, each, scene.longer_side)
    decorate(image, BEFORE.get(name, []))
    return image, owner


def draw_examples(out: Path) -> None:
    """Writes `images/*.png` and `localization_data.jsonl` (`id, prompt, image_path, bbox [x, y, w, h]`)."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    owners = {}
    for name in SCENES:
        image, owners[name] = draw_scene(name)
        image.save(out / "images" / f"{name}.png", optimize=True)
    lines = []
    for sample_id, name, query, index in QUERIES:
        x0, y0, x1, y1 = mask_box_xyxy(owners[name] == index)
        lines.append(
            {"id": sample_id, "prompt": query, "image_path": f"images/{name}.png", "bbox": [x0, y0, x1 - x0, y1 - y0]}
        )
    (out / "localization_data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@dataclass
class ExamplesConfig:
    """Where the pictures go."""

    out: str = "examples"


if __name__ == "__main__":
    with exit_in_one_line():
        draw_examples(Path(typed_options(ExamplesConfig, sys.argv[1:]).out))
