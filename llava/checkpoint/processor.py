"""A family's own processor, put together from its parts: tokenizer, image processor, chat template.

AutoProcessor asks for torchvision wherever a family also reads videos. Here the video part is left out, and the Pillow
version of the image processor prepares pictures wherever transformers has one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoImageProcessor, AutoTokenizer, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from lab.base.errors import UserError
from llava.checkpoint.files import read_json
from llava.checkpoint.weights import one_line_errors

CONFIGS = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def load_processor(
    folder: Path, model_type: str, options: Mapping[str, Any] | None = None, kind: Any = None
) -> ProcessorMixin:
    """The processor of a checkpoint folder, without what only videos and sound need.

    `options` are those of its image processor (`min_pixels`, `do_pan_and_scan`, ...) and take the place of the
    checkpoint's own. `kind` is the processor's class, if the files are not to name it.

    Raises:
        UserError: a file is missing or broken, or the family needs a package that is not there.
    """
    kind = kind or _kind(folder, model_type)
    with one_line_errors(folder):
        parts = {name: _part(name, folder, dict(options or {})) for name in kind.get_attributes()}
        settings, _ = kind.get_processor_dict(folder)
        return _put_together(kind, parts, settings)


def _kind(folder: Path, model_type: str) -> Any:
    """The class that the checkpoint's own files name, else that of its model_type."""
    named = [read_json(folder / name).get("processor_class") for name in CONFIGS if (folder / name).exists()]
    name = next((one for one in named if one), None) or PROCESSOR_MAPPING_NAMES.get(model_type)
    try:
        kind = getattr(transformers, name, None) if name else None
    except ImportError as error:
        raise UserError(f"{folder}: its processor {name} needs {_lacking(error)}") from error
    if kind is None:
        raise UserError(f"{folder} names the processor {name!r}, which transformers {transformers.__version__} lacks")
    missing = getattr(kind, "_backends", [])  # of a stand-in that transformers puts where a package is missing
    if missing:
        raise UserError(f"{folder}: its processor {name} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if not hasattr(kind, "get_attributes"):
        raise UserError(f"{folder} names {name} as its processor, which is none")
    return kind


def _lacking(error: BaseException) -> str:
    """The package for want of which an import failed, and how to get it."""
    while error.__cause__ is not None:
        error = error.__cause__
    package = (getattr(error, "name", None) or "").partition(".")[0]
    return f"{package}, which is not installed: pip install {package}" if package else f"what is not there: {error}"


def _part(name: str, folder: Path, options: dict[str, Any]) -> Any:
    if name == "tokenizer":
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not tokenizer.is_fast:
            raise UserError(f"{folder}: its tokenizer cannot tell which letters a token stands for (no tokenizer.json)")
        return tokenizer
    return _image_processor(folder, options) if name == "image_processor" else None


def _image_processor(folder: Path, options: dict[str, Any]) -> Any:
    try:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except ImportError as error:
        if "torchvision" not in str(error):
            raise
        raise UserError(
            f"{folder}: pictures of this family are prepared by torchvision, which is not installed (or does not fit "
            "this torch): pip install torchvision"
        ) from None
    if not options:
        return processor
    return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False, **options)


def _put_together(kind: Any, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> ProcessorMixin:
    def check(self: Any, name: str, part: Any) -> Any:
        return None if part is None else kind.check_argument_for_proper_class(self, name, part)

    # transformers reads the names of the arguments at the class's own __init__
    lenient: Any = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check, "__init__": kind.__init__})
    processor = lenient.from_args_and_dict([parts[name] for name in kind.get_attributes()], dict(settings))
    processor.__class__ = kind  # which other processes know
    return processor
