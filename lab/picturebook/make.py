"""Writes picture-book samples: images, masks and a JSONL that stage=batch reads.

    python -m lab.picturebook.make out=DIR n=1000 seed=1 expressions=1

`out/images/<scene>.png`, `out/masks/<id>.png` (0 or 255) and `out/picturebook.jsonl`, one line a sample: `id`,
`prompt`, `image_path`, `mask_path` (relative to the file), `bbox` [x, y, w, h] in pixels, `category`, `answer`, `thing`
(an id within the picture), and `others`: the other things of the picture, each with its `bbox`, its mask as an RLE
(`segmentation`), and what the `answer` would be if it were meant.

`n` counts scenes. With `expressions=2` a scene has a second one where it can, about another thing and of the same
category, so that both ask for the same attributes. With `wordings=3` each of them is said in up to three ways, of any
category, that mean the same `thing`, which every line with truth names:

    python -m lab.picturebook.make out=DIR n=500 seed=38 wordings=3 expressions=2

With `absent=all`, or some kinds of absence (`lab.picturebook.absent.ABSENCES`), a scene has instead, for each kind that
fits it, two expressions in the same words: one about what is there, and its twin about what is not. The twin's line has
`present` false, `absence` and no truth; both lines name the other in `twin`.

    python -m lab.picturebook.make out=DIR n=500 seed=64 absent=all
    python -m lab.picturebook.make out=DIR n=500 seed=64 absent=[colour,apart]

What the scenes are like (`lab.picturebook.world.SceneConfig`) can be set too, to draw what the shipped model was not
trained on:

    python -m lab.picturebook.make out=DIR n=500 seed=44 things=[8,14]
    python -m lab.picturebook.make out=DIR n=500 seed=44 cells=[10,14] blur=0.4
"""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING
from PIL import Image

from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line, progress
from lab.base.errors import UserError
from lab.datasets.rle import encode
from lab.picturebook.absent import ABSENCES, chosen_absences, twins
from lab.picturebook.drawing import TRAINING_SEEDS
from lab.picturebook.expressions import CATEGORIES, Expression, describe
from lab.picturebook.world import Scene, SceneConfig, make_scene, mask_box_xyxy, render

SCENES_PER_SEED = 1_000_000
SECOND_TRIES = 8  # at an expression about other things
WORDING_TRIES = 60  # at other words for the same things
MOST_WORDINGS = 8


@dataclass
class MakeConfig(SceneConfig):
    """What is drawn, and where it is written."""

    out: str = MISSING
    n: int = 1000  # scenes
    seed: int = 1
    expressions: int = 1  # of a scene, 1 or 2
    absent: Any = None  # all, a kind of absence, or a list of them
    wordings: int = 1  # of a thing, in other words each


@dataclass(frozen=True)
class Drawn:
    """One sample: a picture, one expression about it, and the truth."""

    id: str
    scene: Scene
    expression: Expression
    image: Image.Image
    mask: np.ndarray  # bool [height, width]
    owner: np.ndarray  # int8 [height, width], which thing covers a pixel
    picture: str  # the name of the scene's image
    absence: str | None = None  # what kind of absence the expression describes
    twin: str | None = None  # the sample that says the same of what is there, or is not

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """Tight box of the mask, edges exclusive."""
        return mask_box_xyxy(self.mask)

    @property
    def others(self) -> list[dict[str, Any]]:
        """The things that are not meant."""
        others = [i for i in np.unique(self.owner).tolist() if i >= 0 and i not in self.expression.targets]
        masks = [self.owner == i for i in others]
        return [
            {"bbox": _xywh(mask_box_xyxy(mask)), "segmentation": encode(mask), "answer": " ".join(answer)}
            for mask, answer in zip(masks, (self.expression.answers[i] for i in others), strict=True)
        ]


def _xywh(box_xyxy: tuple[int, int, int, int]) -> list[int]:
    x0, y0, x1, y1 = box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]


def samples(
    n: int,
    seed: int,
    *,
    asides: float = 0.12,
    expressions: int = 1,
    like: SceneConfig | None = None,
    wordings: int = 1,
) -> Iterator[Drawn]:
    """The samples of `n` scenes, of each at most so many `expressions`, 1 or 2, of each of them so many `wordings`.

    No scene of any `seed` is among the training scenes.
    """
    for index in range(n):
        scene = make_scene(TRAINING_SEEDS.stop + seed * SCENES_PER_SEED + index, like)
        image, owner = render(scene)
        name = f"{seed}_{index:06d}"
        asked = [_expression(scene, asides)]
        if expressions > 1 and (second := _second(scene, asked[0], asides)) is not None:
            asked.append(second)
        for suffix, expression in zip(("", "b"), asked, strict=False):
            mask = np.isin(owner, expression.targets)
            yield Drawn(name + suffix, scene, expression, image, mask, owner, name)
            for number, other in enumerate(_reworded(scene, expression, wordings - 1, asides), start=2):
                yield Drawn(f"{name}{suffix}_{number}", scene, other, image, mask, owner, name)


def pairs(
    n: int, seed: int, absences: Sequence[str], *, asides: float = 0.12, like: SceneConfig | None = None
) -> Iterator[Drawn]:
    """The samples of `n` scenes that ask, for each kind of absence that fits, for what is there and for what is not.

    The scenes are those of `samples`.
    """
    for index in range(n):
        scene = make_scene(TRAINING_SEEDS.stop + seed * SCENES_PER_SEED + index, like)
        image, owner = render(scene)
        name = f"{seed}_{index:06d}"
        for absence in absences:
            found = twins(scene, absence, np.random.default_rng([scene.seed, 5, list(ABSENCES).index(absence)]))
            if found is None:
                continue
            there, gone = f"{name}_{absence}_there", f"{name}_{absence}"
            mask = np.isin(owner, found[0].targets)
            yield Drawn(there, scene, found[0], image, mask, owner, name, None, gone)
            yield Drawn(gone, scene, found[1], image, np.zeros_like(mask), owner, name, absence, there)


def _expression(scene: Scene, asides: float) -> Expression:
    """The first expression that fits: the categories come in their shares as far as the scene allows."""
    rng = np.random.default_rng([scene.seed, 3])
    while True:
        category = str(rng.choice(list(CATEGORIES), p=list(CATEGORIES.values())))
        for _ in range(4):
            if (expression := describe(scene, rng, category=category, asides=asides)) is not None:
                return expression


def _second(scene: Scene, first: Expression, asides: float) -> Expression | None:
    """An expression of the same category about other things, or None where the scene has none."""
    rng = np.random.default_rng([scene.seed, 4])
    tries = (describe(scene, rng, category=first.category, asides=asides) for _ in range(SECOND_TRIES))
    return next((one for one in tries if one is not None and not set(one.targets) & set(first.targets)), None)


def _reworded(scene: Scene, first: Expression, number: int, asides: float) -> list[Expression]:
    """At most so many expressions of any category that mean the same things in other words."""
    rng = np.random.default_rng([scene.seed, 6, *first.targets])
    found: dict[str, Expression] = {}
    for _ in range(WORDING_TRIES if number else 0):
        one = describe(scene, rng, asides=asides)
        if one is not None and one.targets == first.targets and one.text != first.text and len(found) < number:
            found.setdefault(one.text, one)
    return list(found.values())


def make(
    out: Path,
    n: int,
    seed: int,
    expressions: int = 1,
    absent: str | Sequence[str] | None = None,
    like: SceneConfig | None = None,
    wordings: int = 1,
) -> Path:
    """Writes the samples and returns the JSONL's path."""
    if not 1 <= wordings <= MOST_WORDINGS:
        raise UserError(f"wordings={wordings}: a thing has 1 to {MOST_WORDINGS}")
    if expressions not in (1, 2):
        raise UserError(f"expressions={expressions}: a scene has 1 or 2")
    if n < 1 or n > SCENES_PER_SEED:
        raise UserError(f"n={n}: must lie between 1 and {SCENES_PER_SEED}")
    if seed < 0:
        raise UserError(f"seed={seed}: must be 0 or more")
    if like is not None:
        like.check()
    if absent is None:
        drawings = samples(n, seed, expressions=expressions, like=like, wordings=wordings)
    elif expressions == wordings == 1:
        drawings = pairs(n, seed, chosen_absences(absent), like=like)
    else:
        raise UserError("absent=... draws expressions in pairs of its own: leave out expressions and wordings")
    for folder in (out / "images", out / "masks"):
        folder.mkdir(parents=True, exist_ok=True)
    lines, pictures = [], set[str]()
    drawn: Drawn
    for drawn in progress(drawings, "make", total=n if expressions == wordings == 1 and absent is None else None):
        if drawn.picture not in pictures:
            pictures.add(drawn.picture)
            drawn.image.save(out / "images" / f"{drawn.picture}.png")
        if drawn.absence is None:
            Image.fromarray(drawn.mask.astype(np.uint8) * 255).save(out / "masks" / f"{drawn.id}.png")
        lines.append(_line(drawn))
    target = out / "picturebook.jsonl"
    target.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return target


def _line(drawn: Drawn) -> dict[str, Any]:
    """The sample's line of the JSONL."""
    about = {"id": drawn.id, "prompt": drawn.expression.text, "image_path": f"images/{drawn.picture}.png"}
    last = {} if drawn.twin is None else {"twin": drawn.twin}
    if drawn.absence is not None:
        return {**about, "category": drawn.expression.category, "present": False, "absence": drawn.absence, **last}
    return {
        **about,
        "bbox": _xywh(drawn.box_xyxy),
        "mask_path": f"masks/{drawn.id}.png",
        "category": drawn.expression.category,
        "answer": " ".join(drawn.expression.answer),
        "thing": "+".join(map(str, drawn.expression.targets)),
        "others": drawn.others,
        **last,
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        options = typed_options(MakeConfig, sys.argv[1:])
        asked = (options.n, options.seed, options.expressions, options.absent, options, options.wordings)
        print(f"wrote {make(Path(options.out), *asked)}")
