"""From what the heads found to a sharp mask: prompt, answer, and the choice among SAM's masks.

sam = Sam.load("facebook/sam-vit-huge")
look = sam.look(image)
for one in refine(sam, look, [(found, record.grid)], config): one.mask

"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bbox import Box, Localization
from conf.schema import RefineConfig, WhichMask
from lab.base.errors import UserError
from lab.refine.frame import Frame
from lab.refine.prompts import Prompt, box_prompt, make_prompt
from lab.refine.sam import Answer, Look, Sam
from llava.grid import Grid


@dataclass(frozen=True, eq=False)
class Refined:
    """A mask of SAM's, or why there is none."""

    mask: Bool[np.ndarray, "height width"]  # on the picture; all False without a prompt
    prompt: Prompt | None = None
    estimate: float | None = None  # SAM's own, of the mask's IoU with what was meant
    agreement: float | None = None  # with the heat map, -1 to 1
    why: str = ""  # it has no prompt
    box_xyxy: Box | None = field(init=False)  # tight around the mask, pixels, both edges inclusive

    def __post_init__(self) -> None:
        object.__setattr__(self, "box_xyxy", tight_box(self.mask))

    def to_dict(self) -> dict[str, Any]:
        """All but the mask, as plain values."""
        told: dict[str, Any] = {"prompt": None if self.prompt is None else self.prompt.to_dict()}
        if self.why:
            return told | {"why": self.why, "bbox_xyxy": None}
        numbers = {"estimate": self.estimate, "agreement": self.agreement}
        rounded = {name: None if value is None else round(value, 4) for name, value in numbers.items()}
        return told | rounded | {"bbox_xyxy": None if self.box_xyxy is None else list(self.box_xyxy)}


def refine(sam: Sam, look: Look, found: Sequence[tuple[Localization, Grid]], config: RefineConfig) -> list[Refined]:
    """A refined mask for each of several expressions about one picture, all asked together."""
    prompts = [_made(make_prompt, one, grid, look.frame.image_size, config) for one, grid in found]
    asked = [prompt for prompt in prompts if isinstance(prompt, Prompt)]
    answers = iter(sam.answers(look, asked, multimask=config.multimask))
    refined = []
    for (one, grid), prompt in zip(found, prompts, strict=True):
        if isinstance(prompt, str):
            refined.append(Refined(np.zeros(look.frame.image_size[::-1], bool), why=prompt))
        else:
            refined.append(take(next(answers), prompt, look.frame, config.choose, one.heat, grid))
    return refined


def of_boxes(sam: Sam, look: Look, boxes: Sequence[Box], *, multimask: bool = False) -> list[Refined]:
    """A mask for each of some boxes, both edges inclusive; a box without area has none."""
    return of_prompts(sam, look, [_made(box_prompt, box) for box in boxes], multimask=multimask)


def of_prompts(sam: Sam, look: Look, prompts: Sequence[Prompt | str], *, multimask: bool = False) -> list[Refined]:
    """A mask for each of some prompts, of several the one that SAM holds to be best.

    In the place of a prompt may stand why there is none.
    """
    answers = iter(sam.answers(look, [one for one in prompts if isinstance(one, Prompt)], multimask=multimask))
    nothing = np.zeros(look.frame.image_size[::-1], bool)
    return [
        Refined(nothing, why=one) if isinstance(one, str) else _best(next(answers), one, look.frame) for one in prompts
    ]


def _made(make: Callable[..., Prompt], *given: Any) -> Prompt | str:
    """A prompt, or why there is none."""
    try:
        return make(*given)
    except UserError as error:
        return str(error)


def _best(answer: Answer, prompt: Prompt, frame: Frame) -> Refined:
    best = int(answer.estimates.argmax())
    return Refined(_on_picture(answer, best, frame), prompt, float(answer.estimates[best]))


def _on_picture(answer: Answer, which: int, frame: Frame) -> Bool[np.ndarray, "height width"]:
    return (frame.on_picture(answer.logits[which : which + 1])[0] > 0).cpu().numpy()


def take(
    answer: Answer,
    prompt: Prompt,
    frame: Frame,
    choose: WhichMask,
    heat: Float[np.ndarray, "rows cols"],
    grid: Grid,
) -> Refined:
    """The mask that `choose` prefers among an answer's, on the picture."""
    size = answer.logits.shape[-1]
    agreements = agreement((answer.logits > 0).cpu().numpy(), frame.heat(heat, grid, size), _shown(frame, size))
    best = int((answer.estimates if choose == WhichMask.estimate else agreements).argmax())
    return Refined(_on_picture(answer, best, frame), prompt, float(answer.estimates[best]), float(agreements[best]))


def agreement(
    masks: Bool[np.ndarray, "k m m"], heat: Float[np.ndarray, "m m"], shown: Bool[np.ndarray, "m m"]
) -> Float[np.ndarray, " k"]:
    """The correlation of each mask with the heat map over the picture, -1 to 1; 0 for a mask of all or nothing."""
    inside, level = masks[:, shown].astype(float), heat[shown].astype(float)
    inside, level = inside - inside.mean(1, keepdims=True), level - level.mean()
    size = np.sqrt((inside**2).sum(1) * (level**2).sum())
    return np.divide(inside @ level, size, out=np.zeros(len(masks)), where=size > 0)


def _shown(frame: Frame, size: int) -> Bool[np.ndarray, "m m"]:
    """Where the square shows the picture."""
    centres = (np.arange(size) + 0.5) * frame.side / size
    return (centres < frame.used[1])[:, None] & (centres < frame.used[0])


def tight_box(mask: Bool[np.ndarray, "height width"]) -> Box | None:
    """The box around a mask, both edges inclusive; None if it is empty."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return None if not len(rows) else (int(cols[0]), int(rows[0]), int(cols[-1]), int(rows[-1]))
