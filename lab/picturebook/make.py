"""Writes picture-book samples: images, masks and a JSONL that stage=batch reads.

    python -m lab.picturebook.make out=DIR n=1000 seed=1

`out/images/<id>.png`, `out/masks/<id>.png` (0 or 255) and `out/picturebook.jsonl`, one line a sample: `id`, `prompt`,
`image_path`, `mask_path` (relative to the file), `bbox` [x, y, w, h] in pixels, `category` and `answer`.
"""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from lab.base.console import exit_in_one_line, progress
from lab.base.errors import UserError
from lab.picturebook.drawing import TRAINING_SEEDS
from lab.picturebook.expressions import CATEGORIES, Expression, describe
from lab.picturebook.world import Scene, make_scene, mask_box_xyxy, render

SCENES_PER_SEED = 1_000_000


@dataclass(frozen=True)
class Drawn:
    """One sample: a picture, one expression about it, and the truth."""

    id: str
    scene: Scene
    expression: Expression
    image: Image.Image
    mask: np.ndarray  # bool [height, width]

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """Tight box of the mask, edges exclusive."""
        return mask_box_xyxy(self.mask)


def samples(n: int, seed: int, *, asides: float = 0.12) -> Iterator[Drawn]:
    """`n` samples, one expression per scene; no scene of any `seed` is among the training scenes."""
    for index in range(n):
        scene = make_scene(TRAINING_SEEDS.stop + seed * SCENES_PER_SEED + index)
        image, owner = render(scene)
        expression = _expression(scene, asides)
        yield Drawn(f"{seed}_{index:06d}", scene, expression, image, np.isin(owner, expression.targets))


def _expression(scene: Scene, asides: float) -> Expression:
    """The first expression that fits: the categories come in their shares as far as the scene allows."""
    rng = np.random.default_rng([scene.seed, 3])
    while True:
        category = str(rng.choice(list(CATEGORIES), p=list(CATEGORIES.values())))
        for _ in range(4):
            if (expression := describe(scene, rng, category=category, asides=asides)) is not None:
                return expression


def make(out: Path, n: int, seed: int) -> Path:
    """Writes the samples and returns the JSONL's path."""
    if n < 1 or n > SCENES_PER_SEED:
        raise UserError(f"n={n}: must lie between 1 and {SCENES_PER_SEED}")
    if seed < 0:
        raise UserError(f"seed={seed}: must be 0 or more")
    for folder in (out / "images", out / "masks"):
        folder.mkdir(parents=True, exist_ok=True)
    lines = []
    drawn: Drawn
    for drawn in progress(samples(n, seed), "make", total=n):
        drawn.image.save(out / "images" / f"{drawn.id}.png")
        Image.fromarray(drawn.mask.astype(np.uint8) * 255).save(out / "masks" / f"{drawn.id}.png")
        x0, y0, x1, y1 = drawn.box_xyxy
        lines.append(
            {
                "id": drawn.id,
                "prompt": drawn.expression.text,
                "image_path": f"images/{drawn.id}.png",
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "mask_path": f"masks/{drawn.id}.png",
                "category": drawn.expression.category,
                "answer": " ".join(drawn.expression.answer),
            }
        )
    target = out / "picturebook.jsonl"
    target.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return target


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        schema = OmegaConf.create({"out": "???", "n": 1000, "seed": 1})
        OmegaConf.set_struct(schema, True)
        options = OmegaConf.merge(schema, OmegaConf.from_cli(sys.argv[1:]))
        print(f"wrote {make(Path(options.out), options.n, options.seed)}")
