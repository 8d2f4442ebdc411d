"""Pictures as users have them."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.base.errors import UserError
from lab.base.images import open_image


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixels(path: Path) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_opaque_modes_keep_their_colours(tmp_path, mode):
    original = Image.new("RGB", (5, 3), "white")
    original.putpixel((4, 1), (0, 0, 0))
    found = pixels(save(tmp_path / "a.png", original.convert(mode)))
    assert np.array_equal(found, np.asarray(original))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white(tmp_path, mode):
    original = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    original.putpixel((1, 0), (0, 0, 0, 0))
    assert pixels(save(tmp_path / "a.png", original.convert(mode))).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_half_transparent_is_half_white(tmp_path):
    assert pixels(save(tmp_path / "a.png", Image.new("RGBA", (1, 1), (255, 0, 0, 128)))).tolist() == [[[255, 127, 127]]]


def test_transparent_palette_colour_shows_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert pixels(save(tmp_path / "a.png", image, transparency=0)).tolist() == [[[255, 255, 255], [200, 100, 50]]]


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, ending):
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    assert pixels(save(tmp_path / f"a.{ending}", Image.fromarray(values)))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.4, 255.0], [0, 100, 255])]
)
def test_float_images(tmp_path, values, expected):
    path = save(tmp_path / "a.tiff", Image.fromarray(np.array([values], dtype=np.float32)))
    assert pixels(path)[0, :, 1].tolist() == expected


def test_cmyk_jpeg(tmp_path):
    found = pixels(save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=100))
    assert np.abs(found.astype(int) - [255, 0, 0]).max() <= 3


def test_exif_rotation_turns_the_picture_upright(tmp_path):
    image = Image.new("RGB", (40, 20), "blue")
    image.paste("red", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    turned = open_image(save(tmp_path / "a.jpg", image, exif=exif, quality=100))
    assert turned.size == (20, 40)
    assert np.asarray(turned)[5, 10, 0] > 200  # the left half is on top
    assert np.asarray(turned)[35, 10, 2] > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0not a tiff header", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_broken_exif_is_ignored(tmp_path, exif):
    assert open_image(save(tmp_path / "a.jpg", Image.new("RGB", (8, 4), "green"), exif=exif)).size == (8, 4)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_animation_gives_its_first_frame_and_a_warning(tmp_path, caplog, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = save(tmp_path / f"a.{ending}", frames[0], save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.WARNING):
        found = pixels(path)
    assert found[0, 0, 0] > 200
    assert found[0, 0, 2] < 60
    assert "first frame" in caplog.text


def test_one_pixel(tmp_path):
    assert pixels(save(tmp_path / "a.png", Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_truncated_files_are_refused(tmp_path, ending):
    path = save(tmp_path / f"a.{ending}", noise())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refuse(path, "cannot be read")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    refuse(tmp_path / "text.png", "not an image")
    refuse(tmp_path / "empty.png", "0 bytes")
    refuse(tmp_path / "missing.png", "No such image")
    refuse(tmp_path, "is a folder")


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", noise())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses twice as many
    refuse(path, "too large")


def refuse(path: Path, reason: str) -> None:
    with pytest.raises(UserError) as error:
        open_image(path)
    message = str(error.value)
    assert reason in message
    assert str(path) in message
    assert "\n" not in message
