"""Names of models: whether two mean one checkpoint, or are known to mean two.

same_model("llava-hf/llava-1.5-7b-hf", "/data/llava-v1.5-7b")               # True: the same weights, converted
other_model("llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2.5-VL-7B-Instruct")      # True
other_model("llava-hf/llava-1.5-7b-hf", "/data/tuned")                      # False: of a folder nothing is known
"""

import re
from pathlib import PurePath

from lab.base.paths import PROJECT, find, is_folder, resolved

# The names that one checkpoint has on the hub: as published, as converted, and where its owner's name changed.
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

    Of a folder nothing is known unless its name tells it, or it ships with the project.
    """
    known, also = _checkpoint(name), _checkpoint(other)
    return known is not None and also is not None and known != also and not same_model(name, other)


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
