"""Pictures as users have them."""

import logging
import os
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError, features

from lab.base.errors import UserError
from lab.base.images import add_plug_ins, as_rgb, header_size, open_image


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


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 128, 255], [0, 1, 128, 255]),  # 8 bits in a file of 16
        ([0, 1000, 2000, 4095], [0, 62, 125, 255]),  # 12 bits: a microscope, an X-ray
        ([0, 256], [0, 16]),
        ([0, 4096, 65535], [0, 16, 255]),
        ([0, 0], [0, 0]),
    ],
)
def test_sixteen_bits_are_scaled_from_the_bits_they_fill(tmp_path, ending, values, expected):
    path = save(tmp_path / f"a.{ending}", Image.fromarray(np.array([values], dtype=np.uint16)))
    assert pixels(path)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, 128, 255], np.int32, [0, 128, 255]),
        ([0, 2048, 4095], np.int32, [0, 128, 255]),
        ([0, 65535], np.int32, [0, 255]),
        ([0, 50_000, 100_000], np.int32, [0, 128, 255]),  # beyond 16 bits: from the darkest to the brightest
        ([-1000, 0, 3000], np.int32, [0, 64, 255]),  # Hounsfield units
        ([7_000_000, 7_000_000], np.int32, [0, 0]),
        ([0.0, 0.5, 1.02], np.float32, [0, 128, 255]),  # resampled: a little beyond 1
        ([0.0, 2048.0, 4095.0], np.float32, [0, 128, 255]),
        ([0.0, 65535.0], np.float32, [0, 255]),
        ([-1.0, 0.0, 1.0], np.float32, [0, 128, 255]),
        ([np.nan, 0.0, 0.5, np.inf, -np.inf], np.float32, [0, 0, 128, 255, 0]),
        ([np.nan, np.nan], np.float32, [0, 0]),
    ],
)
def test_deep_grey_values_are_scaled_from_the_range_they_fill(tmp_path, values, kind, expected):
    path = save(tmp_path / "a.tiff", Image.fromarray(np.array([values], dtype=kind)))
    assert pixels(path)[0, :, 0].tolist() == expected


def png_of_16_bits(path: Path, values: np.ndarray) -> Path:
    """Colours [height, width, 3 or 4] of 16 bits, which Pillow reads but does not write (PNG, third edition, 11.2)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_that_fill_fewer_are_refused_not_black(tmp_path, channels):
    values = np.full((2, 3, channels), 4095)
    values[0, 0, :3] = (0, 2048, 4095)
    values[..., 3:] = 65535
    with pytest.raises(UserError, match=r"a\.png has colours of 16 bits that fill 12 or fewer.*save it with 8 bits"):
        open_image(png_of_16_bits(tmp_path / "a.png", values))
    values[1, 1, 0] = 65535
    found = pixels(png_of_16_bits(tmp_path / "b.png", values))
    assert found[1, 1].tolist() == [255, 15, 15]


def test_avif_is_read_where_pillow_reads_it(tmp_path):
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    found = pixels(save(tmp_path / "a.avif", Image.new("RGB", (16, 8), (200, 100, 50)), quality=90))
    assert found.shape == (8, 16, 3)
    assert np.abs(found.astype(int) - [200, 100, 50]).max() <= 6


@pytest.mark.parametrize(
    ("brands", "told"),
    [
        (b"heic\0\0\0\0mif1heic", "it is HEIC, which this Pillow does not read .*: pip install pillow-heif$"),
        (b"mif1\0\0\0\0mif1heic", "it is HEIC"),
        (b"avif\0\0\0\0avifmif1", "it is AVIF, .*: pip install pillow-avif-plugin, or Pillow 11.3 or newer$"),
        (b"mif1\0\0\0\0mif1avif", "it is AVIF"),
        (b"isom\0\0\0\0isommp41", "not an image, or of an unknown kind"),
    ],
)
def test_a_picture_that_needs_a_plug_in_is_told_which(tmp_path, monkeypatch, brands, told):
    def unknown(path: Path) -> None:
        raise UnidentifiedImageError(f"cannot identify image file {path}")

    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftyp" + brands + b"\0" * 100)
    monkeypatch.setattr(Image, "open", unknown)
    for read in (open_image, header_size):
        with pytest.raises(UserError, match=told):
            read(tmp_path / "a.heic")


def test_plug_ins_that_are_installed_are_used(monkeypatch):
    called = []
    monkeypatch.setitem(
        sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=lambda: called.append("pillow_heif"))
    )
    monkeypatch.setitem(sys.modules, "pillow_avif", None)  # not installed
    add_plug_ins.cache_clear()
    add_plug_ins()
    add_plug_ins()
    assert called == ["pillow_heif"]


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


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
@pytest.mark.parametrize("value", range(10))  # 1 to 8 have a meaning
def test_the_size_from_the_header_is_that_of_the_opened_picture(tmp_path, ending, value):
    exif = Image.Exif()
    exif[0x0112] = value
    path = save(tmp_path / f"a.{ending}", Image.new("RGB", (40, 20)), exif=exif)
    assert header_size(path) == open_image(path).size == ((20, 40) if 5 <= value <= 8 else (40, 20))


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
    refuse(tmp_path / "missing.png", f"; {tmp_path} holds no missing.png: give the path of one that is there")
    refuse(tmp_path / "none" / "a.png", f"No such image: {tmp_path}/none/a.png; {tmp_path} holds no none: give")
    refuse(tmp_path, "is a folder")


def test_a_missing_image_is_told_with_the_folder_it_was_looked_for_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        open_image("none.png")
    assert (
        str(error.value) == f"No such image: none.png; {tmp_path} holds no none.png: give the path of one that is there"
    )


def test_pipes_and_devices_are_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # which nobody writes to
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.png", tmp_path / "zero.png"):
        refuse(path, "is a pipe or a device, not a file")
        with pytest.raises(UserError, match="is a pipe or a device, not a file"):
            header_size(path)


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


def test_an_upright_rgb_picture_is_not_copied_and_a_turned_one_is_left_as_it_was():
    upright = Image.new("RGB", (4, 3), "red")
    assert as_rgb(upright) is upright
    turned = Image.new("RGB", (4, 3), "red")
    turned.getexif()[0x0112] = 6
    assert as_rgb(turned).size == (3, 4)
    assert turned.size == (4, 3)
    assert turned.getexif()[0x0112] == 6
