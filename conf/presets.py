"""Which preset of conf/model belongs to a checkpoint.

preset_of("llava-hf/llava-1.5-7b-hf")    # "llava15_7b_hf"
preset_of("some/other-model")            # "auto": its config.json tells the family
"""

from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from lab.base.checkpoints import same_model
from lab.base.paths import resolved

PRESETS = Path(__file__).parent / "model"


def preset_of(model: str) -> str:
    """The preset of that name, or the one whose checkpoint it is; `auto` if there is none."""
    files = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if model in files:
        return model
    names = {preset: OmegaConf.to_container(OmegaConf.load(path)) for preset, path in files.items()}
    return next((preset for preset, one in names.items() if _is_of(one, model)), "auto")


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
