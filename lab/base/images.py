"""Any picture a user may have -> an 8-bit RGB image, upright, or one line that says why not."""

import errno
import io
import logging
import stat
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lab.base.errors import UserError
from lab.base.files import check_pointer
from lab.base.paths import exists
from lab.base.places import named
from lab.base.remote import fetch
from lab.base.tars import source, tar_of

log = logging.getLogger(__name__)

EXIF_ORIENTATION = 0x0112
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
ON_ITS_SIDE = range(5, 9)  # of its values: width and height change places
_WHITE = (255, 255, 255, 255)

PLUG_INS = {"pillow_heif": "register_heif_opener", "pillow_avif": ""}  # module: what to call so that Pillow reads more
BRANDS = {  # what stands behind `ftyp` at the beginning of a file, the telling ones first: its kind, and who reads it
    b"avif": ("AVIF", "pillow-avif-plugin, or Pillow 11.3 or newer"),
    b"avis": ("AVIF", "pillow-avif-plugin, or Pillow 11.3 or newer"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), ("HEIC", "pillow-heif")),
}
NO_PATHS = {  # how a text begins that is no path: what to do instead
    "data:": "it is a data URL; save the picture as a file and give its path",
    "http:": "it is a web address; download the picture and give its path",
    "https:": "it is a web address; download the picture and give its path",
    "~": "there is no such file, or no such user, in whose home folder it would be",
}
REASONS = {  # the system's errors, in words about a picture
    errno.ENAMETOOLONG: "the path is longer than the system allows; expected a path, not the picture itself",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
}

HEAD = 64  # bytes of a file that tell its kind
RANGES = (255.0, 4095.0, 65535.0)  # the highest values of 8, 12 and 16 bits
CUT_12_BITS = 4095 >> 8  # what is left of 12 bits when the upper 8 of 16 are read
FEWER_BITS = (
    "16 bits that fill 12 or fewer, and Pillow reads the upper 8: it would be black; save it with 8 bits a channel"
)
OVERSHOOT = 2.0  # a float picture of 0 to 1 that was resampled may reach beyond 1


def open_image(path: str | Path) -> Image.Image:
    """The image as RGB, turned upright as its EXIF tag says, transparency on white, first frame of an animation.

    A picture from the web is fetched if it is not there yet. Grey values of more than 8 bits are scaled as `eight_bits`
    says; of colours, Pillow reads the upper 8 of 16 bits.

    Raises:
        UserError: the file is missing, unreadable, broken or no image, it would unpack to an absurd size, or it leaves
        the upper bits of its colours empty.
    """
    path = Path(path)
    name = named(path)
    fetch(path)
    if kind := no_file(path):
        raise UserError(f"The image {name} {kind}")
    try:
        return _read(source(path), name)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"No such image: {name}{_hint(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder, not an image: name a file in it") from None
    except PermissionError:
        raise UserError(f"The image {name} may not be read: permission denied") from None
    except Exception as error:  # Pillow's readers raise anything from OSError to SyntaxError on broken files
        head = _head(path)
        if head != b"":
            check_pointer(path)
        raise _unread(name, error, head) from error


def image_of_bytes(content: bytes, name: str, most_pixels: int | None = None) -> Image.Image:
    """The same from what a file holds.

    Raises UserError, which calls the image by its `name`, if it cannot be read or has more than `most_pixels`.
    """
    try:
        return _read(io.BytesIO(content), name, most_pixels)
    except UserError:
        raise
    except Exception as error:
        raise _unread(name, error, content[:HEAD]) from error


def _read(opened: Path | io.BytesIO, name: str, most_pixels: int | None = None) -> Image.Image:
    add_plug_ins()
    with Image.open(opened) as image:
        if most_pixels is not None and image.width * image.height > most_pixels:
            most = f"{most_pixels // 10**6} million pixels"
            raise UserError(f"{name} has {image.width:,} x {image.height:,} pixels; choose a picture of at most {most}")
        if getattr(image, "is_animated", False):
            log.warning("%s is animated: only its first frame is used", name)
        cut = _is_cut(image)
        image.load()
        if cut and np.asarray(image.convert("RGB")).max() <= CUT_12_BITS:
            raise UserError(f"The image {name} has colours of {FEWER_BITS}")
        return as_rgb(image)


def _unread(name: str, error: Exception, head: bytes | None) -> UserError:
    """Why an image cannot be read. `head`: its first bytes, None if they are not known."""
    if isinstance(error, Image.DecompressionBombError):
        return UserError(f"The image {name} is too large to open safely: {error}")
    if head == b"":
        return UserError(f"The image {name} is empty (0 bytes): copy or download it again")
    return UserError(f"The image {name} cannot be read: {_reason(error, head or b'')}")


def header_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image as it is shown, from its header. Raises UserError if it is missing or no image."""
    add_plug_ins()
    if no_file(path):
        return open_image(path).size  # says so
    try:
        with Image.open(source(path)) as image:
            return upright_size(image)
    except Exception:
        return open_image(path).size  # says what is wrong with it


def no_file(path: Path) -> str | None:
    """Why a picture at this path would never end, or not begin; None: it is a file, or others tell what is wrong."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "is a pipe or a device, not a file"


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an image as it is shown, of which only the header is read yet."""
    tags = getattr(image, "tag_v2", None)  # of a TIFF, whose size newer Pillows tell as it is shown, older ones not
    width, height = image.size if tags is None else (tags[TIFF_WIDTH], tags[TIFF_HEIGHT])
    return (height, width) if image.getexif().get(EXIF_ORIENTATION, 1) in ON_ITS_SIDE else (width, height)


@cache
def add_plug_ins() -> None:
    """Lets Pillow read HEIC and AVIF where the packages for it are installed."""
    for module, register in PLUG_INS.items():
        with suppress(ImportError):
            found = import_module(module)
            if register:
                getattr(found, register)()


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits as uint8, of the same shape.

    Black is 0, and white is the highest value of the range that the picture fills: 8, 12 or 16 bits, whichever is the
    first to hold its brightest pixel, and 0 to 1 for floats. Values below 0 or beyond 16 bits have no such range: there
    the darkest pixel is black and the brightest white. Of NaN and infinity neither counts; they become black and white.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if values.dtype.kind == "f" and low >= 0 and high <= OVERSHOOT:
        black, white = 0.0, 1.0
    elif low >= 0 and high <= RANGES[-1]:
        black, white = 0.0, next(top for top in RANGES if high <= top)
    else:
        black, white = low, max(high, low + 1e-9)
    known = np.nan_to_num(values.astype(np.float64), nan=black, posinf=white, neginf=black)
    return np.clip(np.rint((known - black) * (255.0 / (white - black))), 0, 255).astype(np.uint8)


def is_deep(image: Image.Image) -> bool:
    """Whether the image is grey with more than 8 bits a pixel."""
    return image.mode.startswith("I") or image.mode == "F"


def _is_cut(image: Image.Image) -> bool:
    """Whether the image, not loaded yet, has colours of 16 bits, of which Pillow reads the upper 8."""
    return not is_deep(image) and any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened image as `open_image` gives it; itself if it is upright and RGB: a large one is not copied."""
    image.load()
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if is_deep(image):
        image = Image.fromarray(eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _hint(path: Path) -> str:
    """What to do about a path to nothing: what is none is told by its beginning, of others where they end."""
    told = (text for start, text in NO_PATHS.items() for part in path.parts if part.startswith(start))
    if text := next(told, None):
        return f" ({text})"
    with suppress(OSError):  # there may be no working directory any more
        whole = path.absolute()
        above = next(parent for parent in whole.parents if exists(parent))
        return (
            f"; {named(above)} holds no {named(whole.relative_to(above).parts[0])}: give the path of one that is there"
        )
    return ""


def _head(path: Path) -> bytes | None:
    """The first bytes of a file, or None if it cannot be opened."""
    if tar_of(path) is not None:
        return None  # whose members are read as a whole
    try:
        with path.open("rb") as stream:
            return stream.read(HEAD)
    except (OSError, ValueError):
        return None


def _reason(error: Exception, head: bytes) -> str:
    """Why a picture cannot be read, in one line."""
    if isinstance(error, OSError) and error.errno in REASONS:
        return REASONS[error.errno]
    if "null byte" in str(error) or "null character" in str(error):
        return "its path holds a NUL byte"
    if "identify" not in str(error):
        return f"{' '.join(str(error).split()) or 'it is damaged'}; download it again, or save it anew as PNG"
    if head[4:8] == b"ftyp":
        brands = {head[i : i + 4] for i in range(8, len(head), 4)}
        for kind, package in (told for brand, told in BRANDS.items() if brand in brands):
            return f"it is {kind}, which this Pillow does not read (or it is damaged): pip install {package}"
    return "not an image, or of an unknown kind; give a PNG, a JPEG or the like"
