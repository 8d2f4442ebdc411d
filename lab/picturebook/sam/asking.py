"""Prompts for training: what a person, or a heat map of attention, might say about a thing. Nothing here is exact.

A prompt is drawn from the thing's true mask, bool [S, S], in SAM's frame, and a random generator.
"""

import numpy as np
from scipy import ndimage

from lab.picturebook.sam.model import IMAGE_SIZE, MASK_SIZE
from lab.picturebook.world import mask_box_xyxy

SIGMAS = (0.0, 0.08, 0.16)  # of the box's four edges, as a share of the side
SNAPPED = 0.25  # share of the boxes whose edges lie on a grid of image tokens
CELLS = (12, 28)  # cells of that grid along the longer side
POINT_SIGMA = 4.0  # pixels; half of the points miss the place that was meant by so much


def box(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [4] xyxy: the true box, moved by some noise or snapped to a coarse grid."""
    x0, y0, x1, y1 = mask_box_xyxy(mask)
    edges = np.array([x0, y0, x1 - 1, y1 - 1], dtype=float)
    if rng.random() < SNAPPED:
        cell = IMAGE_SIZE / rng.uniform(*CELLS)
        edges = edges + rng.normal(0, cell / 3, 4)
        edges = np.concatenate([np.floor(edges[:2] / cell) * cell, np.ceil(edges[2:] / cell) * cell - 1])
    else:
        sides = np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
        edges = edges + rng.normal(0, 1, 4) * sides * rng.choice(SIGMAS)
    low, high = np.minimum(edges[:2], edges[2:] - 4), np.maximum(edges[2:], edges[:2] + 4)
    return np.clip(np.concatenate([low, high]), 0, IMAGE_SIZE - 1).astype(np.float32)


def points(mask: np.ndarray, owner: np.ndarray, positives: int, negatives: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [positives + negatives, 2] xy: places on the thing, then places off it, most of them near by."""
    inside = _places(mask, positives, rng)
    moved = inside + rng.normal(0, POINT_SIGMA, inside.shape) * (rng.random((positives, 1)) < 0.5)
    moved = np.clip(moved, 0, IMAGE_SIZE - 1)
    x, y = moved.astype(int).T
    elsewhere = (owner[y, x] >= 0) & ~mask[y, x]  # a point on another thing would mean that one
    moved[elsewhere] = inside[elsewhere]
    near = ~mask
    if rng.random() < 0.7:
        x0, y0, x1, y1 = mask_box_xyxy(mask)
        reach = (x1 - x0 + y1 - y0) // 8 + 2
        window = np.zeros_like(mask)
        window[max(0, y0 - reach) : y1 + reach, max(0, x0 - reach) : x1 + reach] = True
        near &= window
    return np.concatenate([moved, _places(near, negatives, rng)]).astype(np.float32)


def _places(where: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 2] xy of random pixels of a mask; as many centres of the picture when it is empty."""
    found = np.flatnonzero(where)
    if not len(found):
        return np.full((count, 2), IMAGE_SIZE / 2)
    rows, columns = np.divmod(rng.choice(found, count), where.shape[1])
    return np.stack([columns, rows], axis=1).astype(float)


def heat(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [MASK_SIZE, MASK_SIZE]: the thing as attention on a grid of 16 cells shows it, as logits within ±10."""
    cell = IMAGE_SIZE // 16
    covered = mask.reshape(16, cell, 16, cell).mean((1, 3))
    noisy = covered * rng.uniform(0.2, 1.0, covered.shape) + 0.03 * rng.random(covered.shape)
    smooth = ndimage.gaussian_filter(noisy, rng.uniform(0.3, 0.9))
    fine = np.clip(ndimage.zoom(smooth, MASK_SIZE // 16, order=1, grid_mode=True, mode="nearest"), 0, None)
    peak = fine.max()
    return (10 * np.clip((fine / peak - (cut := rng.uniform(0.25, 0.5))) / (1 - cut), -1, 1)).astype(np.float32)
