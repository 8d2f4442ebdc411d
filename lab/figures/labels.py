"""Where labels go so that none overlaps another."""

from collections.abc import Iterator, Sequence

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
STEPS = 24  # places tried along each side of the bounds


def place_labels(
    targets: Sequence[Box], sizes: Sequence[tuple[float, float]], bounds: Box, gap: float = 0.0
) -> list[Box | None]:
    """A box for each label, first come first served: near its target, within the bounds, on no other label.

    Beside, above or below the target or anywhere else that hides no target, the nearest first; else where the least is
    hidden. None for a label that finds no room.

    Args:
        targets: what each label is about. sizes: (width, height) of each label. gap: around each label.
    """
    found: list[Box | None] = []
    for target, size in zip(targets, sizes, strict=True):
        others = [box for box in found if box]
        free = [box for box in _candidates(target, size, bounds, gap) if not any(_shared(box, o, gap) for o in others)]
        found.append(min(free, key=lambda box: _cost(box, target, targets, gap), default=None))
    return found


def _cost(box: Box, target: Box, targets: Sequence[Box], gap: float) -> tuple[float, float]:
    """What the label hides, then how far it is; as near as `gap` is as good as nearer."""
    hidden = sum(_shared(box, other) for other in targets)
    return hidden, max(_distance(box, target), 1.001 * gap)


def _candidates(target: Box, size: tuple[float, float], bounds: Box, gap: float) -> Iterator[Box]:
    """Right, left, above, below; then a raster of the bounds. None reaches beyond them."""
    if size[0] > bounds[2] - bounds[0] or size[1] > bounds[3] - bounds[1]:
        return
    (x0, y0, x1, y1), (width, height) = target, size
    x, y = (x0 + x1 - width) / 2, (y0 + y1 - height) / 2
    for left, top in ((x1 + gap, y), (x0 - gap - width, y), (x, y0 - gap - height), (x, y1 + gap)):
        box = (left, top, left + width, top + height)
        if _within(left, top, size, bounds) == box:
            yield box
    across, down = (max(0.0, bounds[2 + i] - bounds[i] - size[i]) / STEPS for i in (0, 1))
    for row in range(STEPS + 1):
        for column in range(STEPS + 1):
            yield _within(bounds[0] + column * across, bounds[1] + row * down, size, bounds)


def _within(left: float, top: float, size: tuple[float, float], bounds: Box) -> Box:
    """The box moved into the bounds."""
    x = max(bounds[0], min(left, bounds[2] - size[0]))
    y = max(bounds[1], min(top, bounds[3] - size[1]))
    return x, y, x + size[0], y + size[1]


def _shared(one: Box, other: Box, gap: float = 0.0) -> float:
    """The area that two boxes share, if they must stay `gap` apart."""
    across = min(one[2], other[2]) - max(one[0], other[0]) + gap
    down = min(one[3], other[3]) - max(one[1], other[1]) + gap
    return across * down if across > 0 and down > 0 else 0.0


def _distance(one: Box, other: Box) -> float:
    """Between the nearest edges; 0 if they touch."""
    across = max(0.0, max(one[0], other[0]) - min(one[2], other[2]))
    down = max(0.0, max(one[1], other[1]) - min(one[3], other[3]))
    return (across**2 + down**2) ** 0.5
