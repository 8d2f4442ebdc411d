"""Which SAMs are known, told from a checkpoint's config.json before anything heavy is loaded."""

from dataclasses import dataclass

from lab.base.errors import UserError
from llava.checkpoint.files import fetch, read_json


@dataclass(frozen=True)
class Kind:
    """The model's class in transformers, and whether pictures are stretched over its square or padded to it."""

    model: str
    stretched: bool


KINDS = {
    "sam": Kind("SamModel", stretched=False),
    "sam_hq": Kind("SamHQModel", stretched=False),
    "sam2": Kind("Sam2Model", stretched=True),
    "sam2_video": Kind("Sam2Model", stretched=True),  # as the checkpoints of SAM 2 and 2.1 call themselves
    "sam3_tracker": Kind("Sam3TrackerModel", stretched=True),
    "sam3_video": Kind("Sam3TrackerModel", stretched=True),  # as the checkpoint of SAM 3 calls itself
}


def kind_of(name: str) -> Kind:
    """The kind of the SAM in a folder, or of that name on the hub.

    Raises UserError if it is none, or cannot be had.
    """
    config = fetch(name) / "config.json"
    model_type = read_json(config).get("model_type") if config.exists() else None
    if model_type not in KINDS:
        found = f"its model_type is {model_type!r}" if model_type else "it has no config.json with a model_type"
        raise UserError(f"refine.checkpoint={name} is no SAM that is known: {found}; known are {', '.join(KINDS)}")
    return KINDS[model_type]
