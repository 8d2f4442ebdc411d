"""The model families, one file each, and the one table of them."""

from collections.abc import Mapping
from typing import Any

from lab.base.errors import UserError
from llava.families.deepseek import DeepseekVL
from llava.families.gemma import Gemma3, Gemma4, PaliGemma
from llava.families.kimi import KimiK25
from llava.families.llama4 import Llama4
from llava.families.llava import Llava
from llava.families.llava_next import LlavaNext
from llava.families.llava_onevision import LlavaOnevision
from llava.families.merged import Merged
from llava.families.mllama import Mllama
from llava.families.molmo import Molmo2
from llava.families.pixtral import LightOnOcr, Pixtral
from llava.families.tiled import Idefics3, InternVL, Lfm2Vl, Ovis2, PerceptionLM
from llava.families.vipllava import VipLlava
from llava.family import Family

KINDS: tuple[type[Family], ...] = (
    Llava, VipLlava, LlavaNext, LlavaOnevision, Merged, InternVL, Idefics3, Ovis2, PaliGemma, Gemma3, Gemma4,
    DeepseekVL, Pixtral, LightOnOcr, Llama4, PerceptionLM, Lfm2Vl, Molmo2, KimiK25, Mllama,
)  # fmt: skip
FAMILIES = {kind: family for family in KINDS for kind in family.model_types}  # model_type of config.json -> family
NO_GRID = "a resampler or Q-Former mixes its image tokens, so that none of them has a place in the picture"
REFUSED = {  # model_type -> why
    **dict.fromkeys(
        ("idefics2", "aria", "blip-2", "instructblip", "kosmos-2", "git", "pix2struct", "minicpmv", "qwen"), NO_GRID
    ),
    "florence2": "its words look at the picture through an encoder, which reads words and picture together",
    "internvl_chat": "this is InternVL's own layout, whose tokenizer and tiles are made by code of its own; take a "
    "checkpoint in transformers' layout, whose name ends in -hf, such as OpenGVLab/InternVL2_5-2B-MPO-hf or "
    "OpenGVLab/InternVL3-2B-hf",
    **dict.fromkeys(
        ("mini_gemini", "mini_gemini_gemma", "mini_gemini_mixtral", "mgm", "mgm_gemma", "mgm_mixtral"),
        "Mini-Gemini mixes the features of two towers, one of them a ConvNeXt in OpenCLIP's format, by layers for "
        "which transformers has no class",
    ),
    "multi_modality": "this is DeepSeek's own layout; take the same model from deepseek-community, such as "
    "deepseek-community/deepseek-vl-1.3b-chat, or Janus-Pro-1B there",
}


def family_of(name: str, raw: Mapping[str, Any]) -> type[Family]:
    """The family that a checkpoint's config.json tells.

    Raises:
        UserError: it is of none that is known, or of one whose tokens have no place in the picture.
    """
    kind = raw.get("model_type")
    if kind in REFUSED:
        raise UserError(f"{name} is of model_type {kind!r}, which cannot be asked where it looks: {REFUSED[kind]}")
    if kind not in FAMILIES:
        raise UserError(
            f"{name}: its config.json says model_type {kind!r}, and no family here reads that. Known are "
            f"{', '.join(sorted(FAMILIES))}; to add one, write a class in llava/families (llava/README.md says how)"
        )
    if kind == "llava" and (raw.get("vision_config") or {}).get("model_type") == "pixtral":
        return Pixtral
    return FAMILIES[kind]
