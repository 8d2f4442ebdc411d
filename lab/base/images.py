"""Any picture a user may have -> an 8-bit RGB image, upright, or one line that says why not."""

import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lab.base.errors import UserError
from lab.base.files import check_pointer

log = logging.getLogger(__name__)

_WHITE = (255, 255, 255, 255)


def open_image(path: str | Path) -> Image.Image:
    """The image as RGB, turned upright as its EXIF tag says, transparency on white, first frame of an animation.

    Raises:
        UserError: the file is missing, unreadable, broken or no image, or it would unpack to an absurd size.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            if getattr(image, "is_animated", False):
                log.warning("%s is animated: only its first frame is used", path)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"No such image: {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not an image") from None
    except PermissionError:
        raise UserError(f"The image {path} may not be read: permission denied") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"The image {path} is too large to open safely: {error}") from None
    except Exception as error:  # Pillow's readers raise anything from OSError to SyntaxError on broken files
        check_pointer(path)
        if path.is_file() and path.stat().st_size == 0:
            raise UserError(f"The image {path} is empty (0 bytes)") from None
        reason = (
            "not an image, or of an unknown kind" if "identify" in str(error) else str(error) or type(error).__name__
        )
        raise UserError(f"The image {path} cannot be read: {' '.join(reason.split())}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image)
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits: integers are 16 bits deep, floats reach from 0 to 1 or from 0 to 255."""
    if values.dtype.kind == "f":
        finite = np.nan_to_num(values, posinf=255.0)
        scaled = finite * 255.0 if finite.max() <= 1.0 else finite
    else:
        scaled = values / 257.0
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
