"""Image files as masks: what is the object, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, features

from lab.base.errors import UserError
from lab.datasets import Sample, read_truth
from lab.datasets.masks import read_mask

WIDTH, HEIGHT = 64, 48
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[11:29, 9:39] = True


def saved(folder: Path, image: Image.Image, name: str = "mask.png", **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def read(path: Path) -> np.ndarray:
    return read_mask(path, (WIDTH, HEIGHT))


def grey(on: int = 255, off: int = 0) -> Image.Image:
    return Image.fromarray(np.where(MASK, on, off).astype(np.uint8))


@pytest.mark.parametrize("quality", [5, 50, 95])
def test_the_noise_of_a_jpeg_is_no_object(tmp_path, quality):
    path = saved(tmp_path, grey(), "mask.jpg", quality=quality, subsampling=0)
    assert (np.asarray(Image.open(path)) != 0).sum() > MASK.sum()  # that is the noise
    found = read(path)
    assert (found & MASK).sum() / (found | MASK).sum() > 0.95
    assert not found[:2].any()


@pytest.mark.parametrize("kind", ["webp", "avif", "jp2"])
def test_other_lossy_files_count_from_half_of_the_range(tmp_path, kind):
    if kind != "jp2" and not features.check(kind):
        pytest.skip(f"this Pillow has no {kind}")
    found = read(
        saved(tmp_path, grey(), f"mask.{kind}", quality=50) if kind != "jp2" else saved(tmp_path, grey(), "mask.jp2")
    )
    assert (found & MASK).sum() / (found | MASK).sum() > 0.95


def test_a_tiff_may_be_lossy_too(tmp_path):
    assert_array_equal(read(saved(tmp_path, grey(1), "mask.tiff")), MASK)
    found = read(saved(tmp_path, grey().convert("RGB"), "mask.tiff", compression="jpeg", quality=30))
    assert (found & MASK).sum() / (found | MASK).sum() > 0.95


def test_a_coloured_jpeg_is_as_bright_as_its_brightest_channel(tmp_path):
    red = Image.merge("RGB", (grey(), grey(0), grey(0)))
    found = read(saved(tmp_path, red, "mask.jpg", quality=95, subsampling=0))
    assert (found & MASK).sum() / (found | MASK).sum() > 0.95


def test_a_dark_jpeg_has_no_object_and_is_told_the_rule(tmp_path):
    path = saved(tmp_path, grey(38), "mask.jpg", quality=95)
    sample = Sample("a", "x", tmp_path / "none.png", mask_source=path, image_size=(WIDTH, HEIGHT))
    with pytest.raises(UserError, match=r"its mask is empty; .*in a lossy file: brighter than half; save masks as PNG"):
        read_truth(sample)


def test_a_pipe_is_no_mask(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"^the mask .*pipe\.png is a pipe or a device, not a file$"):
        read(tmp_path / "pipe.png")


@pytest.mark.parametrize("on", [1, 255, 65535])
def test_any_value_of_sixteen_bits_is_the_object(tmp_path, on):
    assert_array_equal(read(saved(tmp_path, Image.fromarray(np.where(MASK, on, 0).astype(np.uint16)))), MASK)


def test_a_float_mask_counts_from_half_and_nan_is_no_object(tmp_path):
    soft = np.where(MASK, 0.9, 0.1).astype(np.float32)
    soft[0, 0] = np.nan
    assert_array_equal(read(saved(tmp_path, Image.fromarray(soft), "mask.tiff")), MASK)


def test_one_bit_is_read_as_it_is(tmp_path):
    assert_array_equal(read(saved(tmp_path, grey().convert("1"))), MASK)


def cut_out(colour: tuple[int, int, int], behind: tuple[int, int, int]) -> Image.Image:
    """A picture of which only the object is opaque."""
    pixels = np.where(MASK[..., None], colour, behind).astype(np.uint8)
    return Image.fromarray(np.dstack([pixels, MASK.astype(np.uint8) * 255]))


@pytest.mark.parametrize("colour", [(0, 0, 0), (200, 90, 3)])
@pytest.mark.parametrize("behind", [(0, 0, 0), (255, 255, 255)])
def test_what_is_opaque_is_the_object_whatever_its_colour(tmp_path, colour, behind):
    assert_array_equal(read(saved(tmp_path, cut_out(colour, behind))), MASK)


def test_an_opaque_alpha_channel_means_nothing(tmp_path):
    assert_array_equal(read(saved(tmp_path, grey().convert("RGBA"))), MASK)
    assert_array_equal(read(saved(tmp_path, grey(3).convert("LA"))), MASK)


def palette(*colours: tuple[int, int, int], on: int = 1, off: int = 0) -> Image.Image:
    image = grey(on, off)
    image.putpalette([value for colour in colours for value in colour])
    return image


def test_a_palette_counts_what_is_not_index_0(tmp_path):
    assert_array_equal(read(saved(tmp_path, palette((0, 0, 0), (128, 0, 0)))), MASK)


def test_a_transparent_colour_of_a_palette_is_no_object(tmp_path):
    image = palette((255, 255, 255), (0, 0, 0))
    assert_array_equal(read(saved(tmp_path, image, transparency=0)), MASK)


@pytest.mark.parametrize(
    "colours", [((255, 255, 255), (0, 0, 0)), ((255, 255, 255), (200, 0, 0)), ((0, 0, 0), (0, 0, 0))]
)
def test_a_palette_that_can_be_read_in_two_ways_is_refused(tmp_path, colours):
    with pytest.raises(
        UserError, match=r"mask .*mask\.png has a palette whose index 0 is not its one black; save it as"
    ):
        read(saved(tmp_path, palette(*colours)))


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "I;16"])
def test_a_mask_of_zeros_is_told_to_have_no_object(tmp_path, mode):
    image = Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)) if mode == "I;16" else grey(0).convert(mode)
    sample = Sample("a", "x", tmp_path, mask_source=saved(tmp_path, image), image_size=(WIDTH, HEIGHT))
    with pytest.raises(UserError, match=r"^sample a: its mask is empty; expected one pixel or more of the object"):
        read_truth(sample)


def test_a_mask_of_another_size_is_not_stretched(tmp_path):
    path = saved(tmp_path, grey().resize((WIDTH * 2, HEIGHT * 2)))
    with pytest.raises(UserError, match="mask is 128 x 96, its image 64 x 48; expected the same size"):
        read(path)
