"""Names of models: whether two mean one checkpoint, or are known to mean two.

same_model("llava-hf/llava-1.5-7b-hf", "/data/llava-v1.5-7b")               # True: the same weights, converted
other_model("llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2.5-VL-7B-Instruct")      # True
other_model("llava-hf/llava-1.5-7b-hf", "/data/tuned")                      # False: of a folder nothing is known
other_model("llava-hf/llava-1.5-7b-hf", "models/tuned")                     # False: it may be a folder elsewhere
"""

import re
from pathlib import PurePath

from lab.base.paths import PROJECT, find, is_folder, resolved

# The names that one checkpoint has on the hub: as published, as converted, and where its owner's name changed. Those of
# one name are here because a preset names them.
CHECKPOINTS = (
    ("liuhaotian/llava-v1.5-7b", "llava-hf/llava-1.5-7b-hf"),
    ("liuhaotian/llava-v1.5-13b", "llava-hf/llava-1.5-13b-hf"),
    ("liuhaotian/llava-v1.6-vicuna-7b", "llava-hf/llava-v1.6-vicuna-7b-hf"),
    ("liuhaotian/llava-v1.6-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf"),
    ("lmms-lab/llava-onevision-qwen2-7b-ov", "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    ("mucai/vip-llava-7b", "llava-hf/vip-llava-7b-hf"),
    ("deepseek-ai/deepseek-vl-1.3b-chat", "deepseek-community/deepseek-vl-1.3b-chat"),
    ("deepseek-ai/deepseek-vl-7b-chat", "deepseek-community/deepseek-vl-7b-chat"),
    ("deepseek-ai/Janus-Pro-1B", "deepseek-community/Janus-Pro-1B"),
    ("OpenGVLab/InternVL3-2B", "OpenGVLab/InternVL3-2B-hf"),
    ("OpenGVLab/InternVL3-8B", "OpenGVLab/InternVL3-8B-hf"),
    ("AIDC-AI/Ovis2-2B", "thisisiron/Ovis2-2B-hf"),
    ("mistralai/Pixtral-12B-2409", "mistral-labs/pixtral-12b", "mistral-community/pixtral-12b"),
    ("CohereLabs/aya-vision-8b", "CohereForAI/aya-vision-8b"),
    ("zai-org/GLM-4.1V-9B-Thinking", "THUDM/GLM-4.1V-9B-Thinking"),
    ("google/gemma-3-4b-it",),
    ("google/paligemma2-3b-mix-224",),
    ("HuggingFaceM4/Idefics3-8B-Llama3",),
    ("HuggingFaceTB/SmolVLM2-2.2B-Instruct",),
    ("Lin-Chen/ShareGPT4V-7B",),
    ("mistralai/Mistral-Small-3.1-24B-Instruct-2503",),
    ("mmaaz60/LLaVA-7B-Lightening-v1-1",),
    ("Qwen/Qwen2-VL-7B-Instruct",),
    ("Qwen/Qwen2.5-VL-3B-Instruct",),
    ("Qwen/Qwen2.5-VL-7B-Instruct",),
    ("Qwen/Qwen3-VL-8B-Instruct",),
    ("01-ai/Yi-VL-6B",),
)
FIRST = {name.casefold(): names[0].casefold() for names in CHECKPOINTS for name in names}
OF_LAST = {name.rpartition("/")[2]: first for name, first in FIRST.items()}
HUB = re.compile(r"\w[\w.-]*/[\w.-]+")
SHIPPED = PROJECT / "examples" / "models"  # whose folders are known
CACHED = "models--"  # how the hub's cache begins the name of a folder: models--owner--name


def same_model(name: str, other: str) -> bool:
    """Whether two names of models mean the same: hub names of one checkpoint, a folder however it is written, or a
    folder that is named as a known checkpoint.
    """
    if name == other or resolved(name) == resolved(other):
        return True
    known = _checkpoint(name)
    return known is not None and known == _checkpoint(other)


def other_model(name: str, other: str) -> bool:
    """Whether two names are known to mean two checkpoints.

    Known are the names of CHECKPOINTS, folders that are named as one of these, folders of the hub's cache, and the
    models that ship with the project.
    """
    known, also = _checkpoint(name), _checkpoint(other)
    if not known or not also or known == also or same_model(name, other):
        return False
    return _surely(known, name) and _surely(also, other)


def _surely(checkpoint: str, name: str) -> bool:
    """Whether the name can mean this checkpoint alone: `models/tuned` may be of the hub, or a folder elsewhere."""
    return checkpoint in FIRST or CACHED in name or PurePath(checkpoint).is_absolute()


def _checkpoint(name: str) -> str | None:
    """The first hub name of a checkpoint, in small letters, or the path of one that ships; None if the name does not
    tell which it is.
    """
    cached = [part.removeprefix(CACHED) for part in PurePath(name).parts if part.startswith(CACHED)]
    hub = cached[0].replace("--", "/", 1) if cached else name
    last = PurePath(hub).name.casefold()
    if cached or (HUB.fullmatch(hub) and not is_folder(str(find(hub)))):
        # under a known last name with another owner it may be a copy, or not
        return FIRST.get(hub.casefold()) or (None if last in OF_LAST else hub.casefold())
    here = resolved(name)
    return str(here) if here.parent == SHIPPED else OF_LAST.get(last)
