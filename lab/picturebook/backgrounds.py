"""Five backgrounds for a scene, each a function of a size and a random generator, and clutter on them."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]


def _gradient(size: tuple[int, int], top: RGB, bottom: RGB) -> np.ndarray:
    width, height = size
    t = np.linspace(0, 1, height)[:, None, None]
    return np.broadcast_to((1 - t) * np.array(top) + t * np.array(bottom), (height, width, 3)).copy()


def _jitter(rng: np.random.Generator, rgb: RGB, spread: int = 12) -> RGB:
    r, g, b = (int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in rgb)
    return r, g, b


def _textured(pixels: np.ndarray, rng: np.random.Generator, strength: float) -> Image.Image:
    """Adds paper grain: noise at two scales, the coarse one blown up smoothly."""
    height, width = pixels.shape[:2]
    coarse = Image.fromarray(rng.normal(0, 1, (max(2, height // 40), max(2, width // 40))).astype(np.float32))
    coarse = coarse.resize((width, height), Image.Resampling.BICUBIC)
    fine = rng.standard_normal((height, width), dtype=np.float32)
    pixels = pixels + (strength * (np.asarray(coarse) + 0.6 * fine))[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def sky(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    image = _textured(_gradient(size, _jitter(rng, (150, 200, 236)), _jitter(rng, (226, 240, 248))), rng, 2.0)
    draw = ImageDraw.Draw(image)
    width, height = size
    unit = max(size)
    for _ in range(rng.integers(2, 5)):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.02, 0.045) * unit
        for dx, dy, scale in ((-1.2, 0.2, 0.8), (0, 0, 1.2), (1.2, 0.2, 0.9), (2.1, 0.4, 0.6)):
            s = r * scale
            draw.ellipse((x + dx * r - s, y + dy * r - s, x + dx * r + s, y + dy * r + s), fill=(244, 248, 251))
    return image


def meadow(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    width, height = size
    pixels = _gradient(size, _jitter(rng, (186, 222, 240)), _jitter(rng, (232, 242, 236)))
    x = np.arange(width)
    y = np.arange(height)[:, None]
    for level, rgb in ((0.42, (198, 224, 166)), (0.58, (178, 212, 142))):
        wave = np.sin(x / width * rng.uniform(3, 7) + rng.uniform(0, 6.3)) * 0.06
        hill = y > (level + rng.uniform(-0.06, 0.06) + wave)[None, :] * height
        pixels[hill] = _jitter(rng, rgb)
    return _textured(pixels, rng, 3.0)


def room(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    width, height = size
    wall: RGB = ((238, 226, 208), (222, 232, 232), (236, 220, 226))[rng.integers(3)]
    pixels = _gradient(size, _jitter(rng, wall), _jitter(rng, wall))
    paper = (np.arange(width) // max(8, width // 24)) % 2 == 0
    pixels[:, paper] -= 6
    floor = int(height * rng.uniform(0.58, 0.78))
    pixels[floor:] = _jitter(rng, (206, 178, 146))
    board = max(10, height // 14)
    pixels[floor::board] -= 18
    pixels[max(0, floor - max(2, height // 60)) : floor] = (248, 244, 238)
    return _textured(pixels, rng, 2.0)


def night(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    width, height = size
    image = _textured(_gradient(size, _jitter(rng, (26, 30, 62), 6), _jitter(rng, (70, 74, 118), 8)), rng, 2.0)
    draw = ImageDraw.Draw(image)
    unit = max(size)
    for _ in range(rng.integers(15, 40)):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.001, 0.004) * unit
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(240, 238, 214))
    x, y, r = rng.uniform(0.1, 0.9) * width, rng.uniform(0.08, 0.3) * height, rng.uniform(0.03, 0.05) * unit
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(236, 232, 208))
    return image


def paper(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    tint = _jitter(rng, ((250, 246, 234), (244, 240, 246), (238, 246, 240))[rng.integers(3)], 5)
    pixels = _gradient(size, tint, _jitter(rng, tint, 6))
    if rng.random() < 0.5:
        pixels[:: max(12, size[1] // 16)] -= np.array([24, 14, 4])
    return _textured(pixels, rng, 4.0)


BACKGROUNDS: dict[str, Callable[[tuple[int, int], np.random.Generator], Image.Image]] = {
    f.__name__: f for f in (sky, meadow, room, night, paper)
}


def clutter(image: Image.Image, number: int, rng: np.random.Generator) -> None:
    """Strews so many lines, discs and triangles of any colour over a picture, each up to two of its 16 cells long."""
    draw, unit = ImageDraw.Draw(image), max(image.size)
    for _ in range(number):
        at, reach = rng.uniform(0, image.size), rng.uniform(0.015, 0.06) * unit
        corners = [tuple(corner) for corner in at + rng.uniform(-reach, reach, (3, 2))]
        colour = tuple(rng.integers(0, 256, 3).tolist())
        shape = rng.integers(3)
        if shape == 0:
            draw.line(corners[:2], colour, width=max(1, round(0.008 * unit)))
        elif shape == 1:
            radius = reach / 2
            draw.ellipse((*(at - radius), *(at + radius)), colour)
        else:
            draw.polygon(corners, colour)
