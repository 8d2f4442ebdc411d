"""Training data on disk: scenes drawn once at the model's resolution, patch labels, and tokenized questions.

Arrays in the work folder, for N scenes with Q questions of at most T tokens:

    pixels.npy     uint8 [N, IMAGE_SIZE, IMAGE_SIZE, 3]   padded to a centred square and resized, as the processor does
    labels.npy     uint8 [N, GRID * GRID, 4]              what covers each patch: kind, colour, pattern, size; 0 = none
    questions.npy  int16 [N, Q, T]                        newline, expression, answer, end of text; -1 = padding
    spans.npy      uint8 [N, Q, 2]                        tokens before the answer; tokens in all
"""

from collections.abc import Sequence
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from lab.picturebook.expressions import describe
from lab.picturebook.model import GRID, IMAGE_SIZE, MEAN, PATCH_SIZE, make_tokenizer
from lab.picturebook.things import COLOURS, KINDS, PATTERNS
from lab.picturebook.world import SIZES, Scene, make_scene, render

LABELS = {"kind": tuple(KINDS), "colour": tuple(COLOURS), "pattern": PATTERNS, "size": tuple(SIZES)}
TRAINING_SEEDS = range(0, 10_000_000)  # `make` starts above: training and evaluation scenes never meet
MAX_TOKENS = 28
CHUNK = 100


def draw(folder: Path, scenes: int, questions: int, workers: int, first_seed: int = 0) -> None:
    """Writes the arrays of the module docstring for seeds `first_seed` onward; does nothing when they are complete."""
    if first_seed + scenes > TRAINING_SEEDS.stop:
        raise ValueError(f"training seeds end at {TRAINING_SEEDS.stop}")
    done = folder / "done"
    if done.exists() and done.read_text() == f"{scenes} {questions}":
        return
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {
        "pixels": (np.uint8, (scenes, IMAGE_SIZE, IMAGE_SIZE, 3)),
        "labels": (np.uint8, (scenes, GRID * GRID, len(LABELS))),
        "questions": (np.int16, (scenes, questions, MAX_TOKENS)),
        "spans": (np.uint8, (scenes, questions, 2)),
    }
    for name, (dtype, shape) in shapes.items():
        open_memmap(folder / f"{name}.npy", "w+", dtype=dtype, shape=shape).flush()
    jobs = [(folder, first_seed, start, min(start + CHUNK, scenes)) for start in range(0, scenes, CHUNK)]
    with (
        get_context("spawn").Pool(workers) as pool,
        tqdm(total=scenes, desc="draw", unit="scene", mininterval=5) as bar,
    ):
        for drawn in pool.imap_unordered(_draw_chunk, jobs):
            bar.update(drawn)
    done.write_text(f"{scenes} {questions}")


def _draw_chunk(job: tuple[Path, int, int, int]) -> int:
    folder, first_seed, start, stop = job
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("pixels", "labels", "questions", "spans")
    }
    for index in range(start, stop):
        scene = make_scene(first_seed + index)
        image, owner = render(scene)
        arrays["pixels"][index] = square_pixels(image)
        arrays["labels"][index] = patch_labels(scene, owner)
        arrays["questions"][index], arrays["spans"][index] = ask(scene, arrays["questions"].shape[1])
    return stop - start


def square_pixels(image: Image.Image) -> np.ndarray:
    """Pads to a centred square with the mean colour and resizes: uint8 [IMAGE_SIZE, IMAGE_SIZE, 3]."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(m * 255) for m in MEAN))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def patch_labels(scene: Scene, owner: np.ndarray) -> np.ndarray:
    """What covers at least 40 % of each patch.

    It is uint8 [GRID * GRID, 4], indices into `LABELS` plus one, 0 = background.
    """
    side = max(owner.shape)
    square = np.full((side, side), -1, dtype=np.int8)
    top, left = (side - owner.shape[0]) // 2, (side - owner.shape[1]) // 2
    square[top : top + owner.shape[0], left : left + owner.shape[1]] = owner
    small = np.asarray(
        Image.fromarray(square.astype(np.uint8)).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.NEAREST)
    ).astype(np.int8)
    patches = small.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)
    coverage = (patches[:, :, None] == np.arange(len(scene.things))).mean(1)  # [patches, things]
    table = np.array(
        [[values.index(getattr(t, name)) + 1 for name, values in LABELS.items()] for t in scene.things], dtype=np.uint8
    )
    return np.where(coverage.max(1, keepdims=True) >= 0.4, table[coverage.argmax(1)], 0).astype(np.uint8)


def ask(scene: Scene, questions: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokenized questions about one scene: rows of `questions.npy` and `spans.npy`."""
    rng = np.random.default_rng([scene.seed, 2])
    ids = np.full((questions, MAX_TOKENS), -1, dtype=np.int16)
    spans = np.zeros((questions, 2), dtype=np.uint8)
    row = 0
    while row < questions:
        expression = describe(scene, rng)
        if expression is None:
            continue
        prompt = encode("\n" + expression.text)
        answer = [*encode(" ".join(expression.answer)), _tokenizer().eos_token_id]
        if len(prompt) + len(answer) > MAX_TOKENS:
            continue
        ids[row, : len(prompt) + len(answer)] = [*prompt, *answer]
        spans[row] = len(prompt), len(prompt) + len(answer)
        row += 1
    return ids, spans


def encode(text: str) -> Sequence[int]:
    """Token ids without stand-alone space tokens, as `referseg` prompts have them."""
    ids = _tokenizer()(text, add_special_tokens=False).input_ids
    return [i for i in ids if i != _tokenizer().convert_tokens_to_ids("▁")]


@lru_cache(maxsize=1)
def _tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()
