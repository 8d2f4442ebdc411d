"""Sharp masks: pictures that SAM looks at in a second, prompts that it answers, and what an expression costs."""

import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from conf.schema import SHIPPED_SAM
from lab.base.paths import find
from lab.refine.prompts import Prompt, box_prompt
from lab.refine.refined import of_prompts
from lab.refine.sam import Sam

SIZE = (640, 480)  # pixels of the picture
BATCH = 64  # prompts at once
EXPRESSIONS = (1, 3, 7)  # about one picture
TIMES = 9  # of which the median counts


def measure(checkpoint: str = SHIPPED_SAM, device: str = "auto") -> dict[str, float]:
    """Rates in 1/s and costs in seconds, by what they are of; pictures are in memory, masks on the picture."""
    sam = Sam.load(str(find(checkpoint)), device)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8))
    look, many = sam.look(image), boxes(BATCH)
    rates = {
        "pictures looked at, 1/s": 1 / _median(lambda: sam.look(image)),
        "prompts answered, 1/s": BATCH / _median(lambda: of_prompts(sam, look, many)),
    }
    costs = {
        f"an expression of {n} about a picture, s": _median(lambda n=n: of_prompts(sam, sam.look(image), many[:n])) / n  # type: ignore[misc]
        for n in EXPRESSIONS
    }
    return rates | costs


def boxes(number: int) -> list[Prompt]:
    """So many boxes here and there in the picture."""
    rng = np.random.default_rng(1)
    corners = (rng.random((number, 2)) * np.array(SIZE) * 0.6).astype(int).tolist()
    return [box_prompt((x, y, x + SIZE[0] // 4, y + SIZE[1] // 4)) for x, y in corners]


def _median(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
