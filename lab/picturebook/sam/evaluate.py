"""How well the SAM in miniature cuts out things of scenes that it has never seen, by what it is asked with.

    python -m lab.picturebook.sam.evaluate checkpoint=examples/models/picturebook_sam n=300 seed=40

Every thing of every scene is asked for once in each way. Printed are the mean IoU over things and the IoU of all pixels
together, in %, with 95 % bootstrap intervals drawn by picture, and by how much SAM's own estimate of its IoU is off.
"""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from PIL import Image

from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line, markdown, progress
from lab.measure.intervals import summarize
from lab.measure.metrics import Score, mask_overlap
from lab.picturebook.make import samples
from lab.picturebook.sam import asking
from lab.picturebook.sam.model import IMAGE_SIZE
from lab.picturebook.sam.scenes import in_frame
from lab.picturebook.world import mask_box_xyxy
from lab.refine.prompts import Coarse, Prompt, box_prompt
from lab.refine.refined import Refined, of_prompts
from lab.refine.sam import Sam
from llava.grid import Grid


@dataclass
class SamEvaluateConfig:
    """What is measured."""

    checkpoint: str = "examples/models/picturebook_sam"
    device: str = "auto"
    n: int = 300  # scenes
    seed: int = 40  # of `lab.picturebook.make`; training scenes have none of these
    multimask: bool = False
    resamples: int = 1000


def ways(mask: np.ndarray, owner: np.ndarray, thing: int, rng: np.random.Generator) -> dict[str, Prompt]:
    """Each way to ask for a thing. `mask` is on the picture, `owner` in SAM's frame."""
    height, width = mask.shape
    scale = max(width, height) / IMAGE_SIZE
    x0, y0, x1, y1 = mask_box_xyxy(mask)
    true, small = (x0, y0, x1 - 1, y1 - 1), owner == thing

    def whole(values: np.ndarray) -> list[list[int]]:
        most = [width - 1, height - 1]
        return np.clip((values.reshape(-1, 2) * scale).astype(int), 0, most).tolist()

    def points(positives: int, negatives: int) -> Prompt:
        found = whole(asking.points(small, owner, positives, negatives, rng))
        return Prompt(None, tuple((x, y) for x, y in found), (1,) * positives + (0,) * negatives)

    (left, top), (right, bottom) = whole(asking.box(small, rng))
    moved = box_prompt((left, top, max(right, left + 2), max(bottom, top + 2)))
    three = points(3, 1)
    frame = Grid(0, len(heat := asking.heat(small, rng)), len(heat), (0.0, 0.0, *2 * (float(max(width, height)),)))
    return {
        "the true box": box_prompt(true),
        "a box that is off, as in training": moved,
        "one point": points(1, 0),
        "three points on it, one off it": three,
        "a box that is off, and these points": Prompt(moved.box_xyxy, three.points_xy, three.labels),
        "a box that is off, and a coarse mask": Prompt(moved.box_xyxy, coarse=Coarse(heat, frame)),
    }


def evaluate(config: SamEvaluateConfig) -> dict[str, tuple[list[Score], list[float]]]:
    """For each way to ask, the score of every thing, and how far SAM's own estimates are from the truth."""
    sam, rng = Sam.load(config.checkpoint, config.device), np.random.default_rng(config.seed)
    found: dict[str, tuple[list[Score], list[float]]] = {}
    for picture, image, masks, prompts in progress(_scenes(config, rng), "evaluate", total=config.n):
        flat = [(way, number, prompt) for number, each in enumerate(prompts) for way, prompt in each.items()]
        answers = of_prompts(sam, sam.look(image), [prompt for _, _, prompt in flat], multimask=config.multimask)
        for (way, number, _), answer in zip(flat, answers, strict=True):
            scores, off = found.setdefault(way, ([], []))
            scores.append(_score(f"{picture}_{number}", picture, masks[number], answer))
            off.append(abs((answer.estimate or 0.0) - scores[-1].intersection / max(scores[-1].union, 1)))  # type: ignore
    return found


def _scenes(
    config: SamEvaluateConfig, rng: np.random.Generator
) -> Iterator[tuple[str, Image.Image, list[np.ndarray], list[dict[str, Prompt]]]]:
    """Each scene's picture, the masks of its things that are not all but hidden, and the prompts for each."""
    for name, group in groupby(samples(config.n, config.seed), lambda one: one.picture):
        drawn = next(group)
        owner = in_frame(drawn.image, drawn.owner)[1]
        seen = [thing for thing in range(len(drawn.scene.things)) if (owner == thing).sum() >= 120]
        masks = [drawn.owner == thing for thing in seen]
        yield name, drawn.image, masks, [ways(m, owner, thing, rng) for m, thing in zip(masks, seen, strict=True)]


def _score(name: str, picture: str, true: np.ndarray, answer: Refined) -> Score:
    both, either = mask_overlap(answer.mask, true)
    return Score(name, None, "large", intersection=both, union=either, picture=picture)


def report(found: dict[str, tuple[list[Score], list[float]]], resamples: int) -> str:
    """The table of the module docstring as Markdown."""
    rows = []
    for way, (scores, off) in found.items():
        figures = {one.metric: one for one in summarize(scores, resamples=resamples) if one.group == "all"}
        cells = [
            f"{100 * f.value:.1f} ({100 * f.low:.1f} to {100 * f.high:.1f})"
            for f in map(figures.get, ("mIoU", "cIoU"))
            if f
        ]
        rows.append((way, *cells, f"{100 * float(np.mean(off)):.1f}"))
    things, pictures = len(scores), len({score.picture for score in scores})
    return (
        f"{markdown(('asked with', 'mIoU', 'cIoU', 'estimate off by'), rows)}\n\n{things} things of {pictures} scenes."
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        settings = typed_options(SamEvaluateConfig, sys.argv[1:])
        print(report(evaluate(settings), settings.resamples))
