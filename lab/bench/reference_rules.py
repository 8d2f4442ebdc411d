"""The reference's rules, one head and one cell at a time, as slow and as literal as they are stated.

Tests compare `analyze` and `bbox` with this; nothing here shares code with them.
"""

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter


def threshold(sums: list[float]) -> float:
    """Chord elbow: the value with the largest perpendicular distance from the chord of the sorted sums."""
    if len(sums) <= 2:
        return min(sums)
    ascending = np.array(sorted(sums), dtype=np.float64)
    ranks = np.arange(len(ascending), dtype=np.float64)
    chord = np.array([ranks[-1] - ranks[0], ascending[-1] - ascending[0]])
    length = np.linalg.norm(chord)
    if length == 0:
        return float(ascending[0])
    direction = chord / length
    offsets = np.stack([ranks, ascending], axis=1) - np.array([ranks[0], ascending[0]])
    feet = (offsets @ direction)[:, None] * direction
    distances = np.linalg.norm(offsets - feet, axis=1)
    best = 0
    for index in range(len(distances)):
        if distances[index] > distances[best]:
            best = index
    return float(ascending[best])


def components(positive: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected regions in the order in which a row-by-row scan meets them, each with its cells in that order."""
    rows, cols = positive.shape
    seen = set()
    regions = []
    for row in range(rows):
        for col in range(cols):
            if not positive[row, col] or (row, col) in seen:
                continue
            seen.add((row, col))
            frontier, region = [(row, col)], []
            while frontier:
                r, c = frontier.pop()
                region.append((r, c))
                for dr in (-1, 0, 1):
                    for dc in (-1, 0, 1):
                        near = r + dr, c + dc
                        if 0 <= near[0] < rows and 0 <= near[1] < cols and positive[near] and near not in seen:
                            seen.add(near)
                            frontier.append(near)
            regions.append(sorted(region))
    return regions


def entropy(weights: torch.Tensor) -> tuple[float, int]:
    """Spatial entropy of one [P, P] map and its number of components, in the map's precision."""
    above = torch.relu(weights - 2 * weights.mean())
    total = float(above.sum())
    values = above.float().numpy()
    if total <= 0:
        return math.inf, 0
    regions = components(values > np.float32(0.001))
    negative = np.float32(0)
    for region in regions:
        mass = np.array([values[cell] for cell in region], np.float32).sum()
        p = mass / np.float32(total)
        negative = negative + p * np.log(p)
    return float(-negative), len(regions)


def ranking(attn: torch.Tensor, min_keep: int = 1) -> list[dict]:
    """All kept heads of a record [L, H, 1, V], best first."""
    layers, heads, _, vis = attn.shape
    side = math.isqrt(vis)
    sums = [float(attn[layer, head, 0].sum()) for layer in range(layers) for head in range(heads)]
    limit = threshold(sums)
    everything = []
    for layer in range(layers):
        for head in range(heads):
            score = {"layer": layer, "head": head, "attn_sum": sums[layer * heads + head]}
            score |= {"spatial_entropy": math.inf, "bottom_row_focus": False, "num_components": 0}
            if score["attn_sum"] >= limit:
                weights = attn[layer, head, 0].reshape(side, side)
                score["spatial_entropy"], score["num_components"] = entropy(weights)
                score["bottom_row_focus"] = any(float(weight) > 0.05 for weight in weights[-1].float())
            everything.append(score)
    kept = []
    for score in everything:
        enough = score["attn_sum"] >= limit and math.isfinite(score["spatial_entropy"])
        if enough and not score["bottom_row_focus"] and score["layer"] >= 2:
            kept.append(score)
    if len(kept) < min_keep:
        by_sum = sorted(everything, key=lambda score: -score["attn_sum"])
        kept = [score for score in by_sum if not score["bottom_row_focus"]][:min_keep]
    return sorted(kept, key=lambda score: score["spatial_entropy"])


def grid_mask(attn: torch.Tensor, heads: list[tuple[int, int]], sigma: float = 1.0) -> np.ndarray:
    """The summed, smoothed maps above their mean, [P, P] bool."""
    side = math.isqrt(attn.shape[-1])
    heat = torch.zeros(side, side)
    for layer, head in heads:
        weights = attn[layer, head, 0].reshape(side, side).float().numpy()
        heat = heat + torch.from_numpy(gaussian_filter(weights, sigma=sigma))
    return (heat > heat.mean()).numpy()


def image_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """The grid stretched over the image, [height, width] bool."""
    cells = torch.from_numpy(mask.astype(np.float32))[None, None]
    return (
        torch.nn.functional.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)[0, 0] > 0.5
    ).numpy()


def box(mask: np.ndarray, width: int, height: int) -> list[int]:
    """Inclusive x0, y0, x1, y1 of all positive cells of a square grid stretched over the image."""
    side = len(mask)
    cells = [(row, col) for row in range(side) for col in range(side) if mask[row, col]]
    r0, r1 = min(row for row, _ in cells), max(row for row, _ in cells)
    c0, c1 = min(col for _, col in cells), max(col for _, col in cells)
    x0, y0 = int(c0 * width / side), int(r0 * height / side)
    return [
        x0,
        y0,
        int(min(width - 1, (c1 + 1) * width / side - 1)),
        int(min(height - 1, (r1 + 1) * height / side - 1)),
    ]
