"""Which preset of conf/model belongs to a checkpoint.

preset_of("llava-hf/llava-1.5-7b-hf")    # "llava15_7b_hf"
preset_of("some/other-model")            # "auto": its config.json tells the family
"""

from pathlib import Path

from omegaconf import MISSING, OmegaConf

from lab.base.paths import resolved

PRESETS = Path(__file__).parent / "model"


def preset_of(model: str) -> str:
    """The preset of that name, or the one whose checkpoint it is; `auto` if there is none."""
    files = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if model in files:
        return model
    names = {preset: OmegaConf.to_container(OmegaConf.load(path)) for preset, path in files.items()}
    return next((preset for preset, one in names.items() if _is_of(one, model)), "auto")


def _is_of(preset: object, model: str) -> bool:
    group = preset.get("model", preset) if isinstance(preset, dict) else {}
    name = group.get("name", MISSING)
    return name != MISSING and resolved(str(name)) == resolved(model)
