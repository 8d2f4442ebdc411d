"""Training scenes on disk, drawn once in SAM's frame: the longer side resized to `IMAGE_SIZE`, padded below and right.

Arrays in the work folder, for N scenes:

    pixels.npy   uint8 [N, IMAGE_SIZE, IMAGE_SIZE, 3]   padded with the mean colour, which is 0 once it is normalised
    owner.npy    int8 [N, IMAGE_SIZE, IMAGE_SIZE]       the thing that is visible at each pixel, -1 = none
"""

from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image
from tqdm import tqdm

from lab.picturebook.drawing import CHUNK, TRAINING_SEEDS
from lab.picturebook.model import MEAN
from lab.picturebook.sam.model import IMAGE_SIZE
from lab.picturebook.world import make_scene, render


def draw(folder: Path, scenes: int, workers: int) -> None:
    """Writes the arrays of the module docstring for the first training seeds; does nothing when they are complete."""
    if scenes > TRAINING_SEEDS.stop:
        raise ValueError(f"training seeds end at {TRAINING_SEEDS.stop}")
    done = folder / "done"
    if done.exists() and done.read_text() == str(scenes):
        return
    folder.mkdir(parents=True, exist_ok=True)
    side = IMAGE_SIZE
    open_memmap(folder / "pixels.npy", "w+", dtype=np.uint8, shape=(scenes, side, side, 3)).flush()
    open_memmap(folder / "owner.npy", "w+", dtype=np.int8, shape=(scenes, side, side)).flush()
    jobs = [(folder, start, min(start + CHUNK, scenes)) for start in range(0, scenes, CHUNK)]
    with (
        get_context("spawn").Pool(workers) as pool,
        tqdm(total=scenes, desc="draw", unit="scene", mininterval=5) as bar,
    ):
        for drawn in pool.imap_unordered(_draw_chunk, jobs):
            bar.update(drawn)
    done.write_text(str(scenes))


def _draw_chunk(job: tuple[Path, int, int]) -> int:
    folder, start, stop = job
    pixels, owners = (np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("pixels", "owner"))
    for index in range(start, stop):
        pixels[index], owners[index] = in_frame(*render(make_scene(TRAINING_SEEDS.start + index)))
    return stop - start


def in_frame(image: Image.Image, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A drawn scene in SAM's frame: uint8 [S, S, 3] and int8 [S, S]."""
    scale = IMAGE_SIZE / max(image.size)
    size = (int(image.width * scale + 0.5), int(image.height * scale + 0.5))
    frame = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), tuple(round(m * 255) for m in MEAN))
    frame.paste(image.resize(size, Image.Resampling.BILINEAR))
    things = np.full((IMAGE_SIZE, IMAGE_SIZE), -1, dtype=np.int8)
    small = Image.fromarray(owner.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    things[: size[1], : size[0]] = np.asarray(small).astype(np.int8)
    return np.asarray(frame), things
