"""Sharp masks: pictures that SAM looks at in a second, prompts that it answers, and what an expression costs."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from transformers import SamConfig, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from conf.schema import SHIPPED_SAM
from lab.base.files import write_atomic
from lab.base.paths import find
from lab.refine.checkpoint import Loaded
from lab.refine.prompts import Prompt, box_prompt
from lab.refine.refined import of_prompts
from lab.refine.sam import Sam

SIZE = (640, 480)  # pixels of the picture
BATCH = 64  # prompts at once
EXPRESSIONS = (1, 3, 7)  # about one picture
TIMES = 9  # of which the median counts


def measure(checkpoint: str = SHIPPED_SAM, device: str = "auto") -> dict[str, float]:
    """Rates in 1/s and costs in seconds, by what they are of; pictures are in memory, masks on the picture."""
    sam, image = Sam.load(str(find(checkpoint)), device), picture()
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


def keeping(sam: Sam, times: int | None = None) -> dict[str, float]:
    """Whether a picture's embedding is read from a file sooner than the picture is looked at again, in ms and MB."""
    image = picture()
    kept = {"embedding": sam.look(image).embeddings["image_embeddings"].cpu().contiguous()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "embedding.safetensors"
        seconds = {
            "looked at, ms": _median(lambda: sam.look(image), times),
            "embedding written, ms": _median(lambda: write_atomic(file, save(kept))),
            "embedding read, ms": _median(lambda: load_file(file)["embedding"].sum()),
        }
        return {what: 1000 * value for what, value in seconds.items()} | {"size, MB": file.stat().st_size / 1e6}


def miniature() -> Sam:
    """The SAM that ships, on the CPU."""
    return Sam.load(str(find(SHIPPED_SAM)), "cpu")


def vit_b() -> Sam:
    """A SAM of ViT-B's size, on the CPU: with random weights, as fast as the real one."""
    return Sam(Loaded("ViT-B", SamModel(SamConfig()).eval(), SamImageProcessorPil(), torch.device("cpu")))


def picture() -> Image.Image:
    """Noise."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8))


def boxes(number: int) -> list[Prompt]:
    """So many boxes here and there in the picture."""
    rng = np.random.default_rng(1)
    corners = (rng.random((number, 2)) * np.array(SIZE) * 0.6).astype(int).tolist()
    return [box_prompt((x, y, x + SIZE[0] // 4, y + SIZE[1] // 4)) for x, y in corners]


def _median(run: Callable[[], object], times: int | None = None) -> float:
    times, seconds = times or TIMES, list[float]()
    if times > 1:
        run()
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
