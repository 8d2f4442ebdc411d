"""Which preset of conf/model belongs to a checkpoint.

preset_of("llava-hf/llava-1.5-7b-hf")    # "llava15_7b_hf"
preset_of("some/other-model")            # "auto": its config.json tells the family
"""

from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from lab.base.checkpoints import same_model
from lab.base.errors import UserError, shown
from lab.base.paths import find, is_folder, resolved
from lab.base.refusals import meant

PRESETS = Path(__file__).parent / "model"


def preset_of(model: str) -> str:
    """The preset of that name, or the one whose checkpoint it is; `auto` if there is none."""
    files = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if model in files:
        return model
    names = {preset: OmegaConf.to_container(OmegaConf.load(path)) for preset, path in files.items()}
    return next((preset for preset, one in names.items() if _is_of(one, model)), "auto")


def refuse_unknown(model: str) -> None:
    """Raises UserError, with the presets that are written much like it, if a name can be no model: neither a preset,
    nor a folder, nor a name of the hub, owner/name.
    """
    presets = {path.stem for path in PRESETS.glob("*.yaml")}
    if model in presets or "/" in model or is_folder(str(find(model))):
        return
    expected = "neither a preset, nor a folder here, nor a name of the hub, owner/name"
    raise UserError(f"No such checkpoint: {shown(model)} is {expected}{meant(model, sorted(presets))}")


def preset_with_heads(model: str) -> str | None:
    """The first preset that names heads of that checkpoint, under any of its names."""
    for path in sorted(PRESETS.glob("*.yaml")):
        group = _group(OmegaConf.to_container(OmegaConf.load(path)))
        of = group.get("heads_of") or group.get("name")  # a preset that only changes another names neither
        if of and group.get("localization_heads") and same_model(str(of), model):
            return path.stem
    return None


def _group(preset: object) -> dict[Any, Any]:
    return preset.get("model", preset) if isinstance(preset, dict) else {}


def _is_of(preset: object, model: str) -> bool:
    name = _group(preset).get("name", MISSING)
    return name != MISSING and resolved(str(name)) == resolved(model)
