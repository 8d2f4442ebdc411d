"""How weights become a model: where, in which precision, and with every key accounted for."""

import logging
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lab.base.errors import UserError
from lab.base.files import check_pointer
from llava.checkpoint.files import listed

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=PreTrainedModel)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FAILURES = (  # what broken files and configs make the libraries raise
    *(OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, ImportError),
    *(SafetensorError, StrictDataclassError),
)
# Buffers that old checkpoints saved and that the model computes itself.
COMPUTED = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")


@dataclass(frozen=True)
class Placement:
    """Where the weights go: `device_map` as accelerate takes it, their dtype, and bitsandbytes' settings if any."""

    device_map: Any
    dtype: torch.dtype
    quantization: BitsAndBytesConfig | None = None


def place(
    device: str = "auto", dtype: str = "auto", *, load_in_4bit: bool = False, load_in_8bit: bool = False
) -> Placement:
    """From the user's words to a placement.

    `device` is auto, cpu, cuda or cuda:N; auto takes the GPU if there is one, and spreads the model if there are
    several. `dtype` is auto, float32, float16 or bfloat16; auto is bfloat16 on GPUs that have it, float16 on others,
    float32 on the CPU.

    Raises:
        UserError: unknown names, a device that is not there, bitsandbytes missing or both widths asked for.
    """
    target = pick_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise UserError(f"Unknown dtype {dtype!r} (model.dtype); choose auto, {', '.join(DTYPES)}")
    if dtype != "auto":
        precision = DTYPES[dtype]
    elif target.type == "cpu":
        precision = torch.float32
    else:
        precision = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if target.type == "cpu" and precision == torch.bfloat16 and lacks_bfloat16():
        log.warning("model.dtype=bfloat16: this processor has no instructions for it, float32 is faster here")
    device_map = "auto" if device == "auto" and torch.cuda.device_count() > 1 else {"": target}
    return Placement(device_map, precision, _quantization(load_in_4bit, load_in_8bit, precision))


def lacks_bfloat16() -> bool:
    """Whether the processor is known to have no bfloat16 instructions: torch then takes several others for one."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 knows none
    told = [there for name, there in capabilities.items() if name.endswith("bf16")]
    return bool(told) and not any(told)


def pick_device(device: str) -> torch.device:
    """The first device that auto, cpu, cuda or cuda:N means here. Raises UserError if there is none."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"Unknown device {device!r}; choose auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and count == 0):
        return torch.device("cpu")
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        there = "there is no GPU that torch can use; choose cpu"
        if count:
            there = "there is one GPU, cuda:0" if count == 1 else f"there are {count} GPUs, cuda:0 to cuda:{count - 1}"
        raise UserError(f"No device {device}: {there}")
    return torch.device("cuda", index)


def _quantization(four: bool, eight: bool, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if not four and not eight:
        return None
    if four and eight:
        raise UserError("model.load_in_4bit and model.load_in_8bit exclude each other; set one of them")
    if find_spec("bitsandbytes") is None:
        raise UserError("model.load_in_4bit and load_in_8bit need the package bitsandbytes: pip install bitsandbytes")
    kept = [
        "model.vision_tower",
        "model.multi_modal_projector",
        "lm_head",
    ]  # small, and what the model sees should not change
    return BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=eight,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def load_weights(
    kind: type[Model],
    folder: Path,
    config: PreTrainedConfig,
    placement: Placement,
    *,
    key_mapping: Mapping[str, str] | None = None,
    from_elsewhere: tuple[str, ...] = (),
) -> tuple[Model, list[str]]:
    """A model of the class `kind` with the folder's weights in it, and the keys still to be filled, all of which begin
    as `from_elsewhere` says.

    Attention is eager throughout: the weights that this project reads are never formed by the other implementations.

    Raises:
        UserError: keys missing, left over or of another shape (the first five are named), or unreadable files.
    """
    with one_line_errors(folder):
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=placement.dtype,
            device_map=placement.device_map,
            quantization_config=placement.quantization,
            attn_implementation="eager",
            key_mapping=dict(key_mapping) if key_mapping else None,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            weights_only=True,  # a .bin is a pickle, of which nothing is executed
        )
    return model, check_keys(folder, info, from_elsewhere)


def check_keys(
    source: Path, info: Mapping[str, Any], from_elsewhere: tuple[str, ...] = (), *, surplus: bool = False
) -> list[str]:
    """What `from_pretrained` reports as missing and is allowed to be; surplus keys are an error unless `surplus`.

    Raises:
        UserError: see `load_weights`.
    """
    mismatched = [f"{key} {list(found)} instead of {list(wanted)}" for key, found, wanted in info["mismatched_keys"]]
    unexpected = sorted(key for key in info["unexpected_keys"] if not COMPUTED.search(key))
    missing = sorted(key for key in info["missing_keys"] if not COMPUTED.search(key))
    lost = [key for key in missing if not key.startswith(from_elsewhere)] if from_elsewhere else missing
    if mismatched:
        raise UserError(f"The weights in {source} do not fit its config: {listed(sorted(mismatched))}")
    if lost:
        raise UserError(f"The weights in {source} lack {len(lost)} tensors: {listed(lost)}")
    if unexpected and not surplus:
        raise UserError(
            f"The weights in {source} hold {len(unexpected)} tensors that the model has no place for: "
            f"{listed(unexpected)}"
        )
    return missing


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A small file of tensors, without executing anything in it.

    Raises UserError if it cannot be read or holds other things.
    """
    check_pointer(path)
    with one_line_errors(path):
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise UserError(f"{path} holds something else than named tensors")
    return tensors


def fill(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Copies tensors into the model's parameters of the same names.

    Raises UserError for unknown names and other shapes.
    """
    parameters = dict(model.named_parameters())
    unknown = sorted(set(tensors) - set(parameters))
    if unknown:
        raise UserError(f"{source} holds {len(unknown)} tensors that the model has no place for: {listed(unknown)}")
    wrong = [
        f"{k} {list(v.shape)} instead of {list(parameters[k].shape)}"
        for k, v in tensors.items()
        if v.shape != parameters[k].shape
    ]
    if wrong:
        raise UserError(f"{source} does not fit the model: {listed(wrong)}")
    if any(parameters[name].is_meta for name in tensors):
        raise UserError(
            f"{source} cannot be put in place: the model is too large for the GPUs; use more of them, or "
            "model.load_in_4bit=true"
        )
    with torch.no_grad():
        for name, value in tensors.items():
            parameters[name].copy_(value)


@contextmanager
def one_line_errors(source: str | Path) -> Iterator[None]:
    """Loading as the user should see it: no tables of keys that are checked here, and one line when it fails."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"{source} does not fit into the GPU's memory; try device=auto with more GPUs, "
            "model.load_in_4bit=true or device=cpu"
        ) from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{source} is damaged or holds more than tensors, and is not opened: {_summary(error)}"
        ) from error
    except FAILURES as error:
        raise UserError(f"{source} cannot be loaded: {_summary(error)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
