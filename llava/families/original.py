"""The original LLaVA layout, whole or as a projector or LoRA adapter on a base, into transformers' classes.

The original keeps the language model's config at the top of config.json, names the vision tower there
(`mm_vision_tower`), and calls the weights otherwise. What is needed is read into a `LlavaConfig` and a renaming of
keys; the rest is transformers.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from lab.base.errors import UserError
from llava.checkpoint.files import SMALL_FILES, WEIGHT_FILES, fetch, fetch_weights, listed, read_json
from llava.checkpoint.parts import load_image_processor, load_tokenizer
from llava.checkpoint.weights import check_keys, fill, load_tensors, load_weights, one_line_errors
from llava.constants import IMAGE_END, IMAGE_PATCH, IMAGE_START
from llava.family import Family, LoadedModel, Request
from llava.finish import finish
from llava.square import image_geometry

LANGUAGE_MODELS: dict[str, tuple[Any, Any]] = {  # model_type -> classes of the language model
    "llava": (LlamaConfig, LlamaForCausalLM),
    "llava_llama": (LlamaConfig, LlamaForCausalLM),
    "share4v": (LlamaConfig, LlamaForCausalLM),
    "llava_mistral": (MistralConfig, MistralForCausalLM),
}
NORMED = "mlp2x_gelu_Norm"  # of Yi-VL
PROJECTORS = {  # mm_projector_type -> activation between its layers
    "linear": "linear",
    "mlp2x_gelu": "gelu",
    NORMED: "gelu",
}
FEATURES = {"patch": "default", "cls_patch": "full"}  # mm_vision_select_feature -> transformers' name
KEY_MAPPING = {  # original key -> transformers' key; also fits a plain Llama or Mistral
    r"^model\.vision_tower\.vision_tower\.": "model.vision_tower.",
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.mm_projector\.1\.": "model.multi_modal_projector.act.0.",  # these three: of NORMED alone
    r"^model\.mm_projector\.3\.": "model.multi_modal_projector.linear_2.0.",
    r"^model\.mm_projector\.4\.": "model.multi_modal_projector.linear_2.1.",
    r"^model\.mm_projector\.(weight|bias)$": r"model.multi_modal_projector.linear_1.\1",
    r"^model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
}
TOWER, PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
PROJECTOR_FILE, ADAPTER_CONFIG, BESIDE_ADAPTER = "mm_projector.bin", "adapter_config.json", "non_lora_trainables.bin"
ON_BASE_FILES = (*SMALL_FILES, PROJECTOR_FILE, BESIDE_ADAPTER, "adapter_model*")


class NormedLlava(LlavaForConditionalGeneration):
    """LLaVA with a layer norm behind each layer of the projector."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        projector, width = self.model.multi_modal_projector, config.text_config.hidden_size
        projector.act = torch.nn.Sequential(torch.nn.LayerNorm(width), projector.act)
        projector.linear_2 = torch.nn.Sequential(projector.linear_2, torch.nn.LayerNorm(width))


def load_original(family: type[Family], request: Request, folder: Path, raw: dict[str, Any]) -> LoadedModel:
    """Loads the checkpoint in `folder` whose config.json is `raw`.

    Raises UserError if any part is missing or does not fit.
    """
    notes: list[str] = []
    source, layout = _weights_source(request, folder)
    tower = _tower_name(raw["mm_vision_tower"], folder)
    tower_folder = _fetch_tower(tower, folder, request.cache_dir)
    tokenizer = load_tokenizer(source, prefer_sentencepiece=True)
    marks = _add_image_marks(tokenizer, raw)
    config = _llava_config(raw, _vision_config(tower_folder), folder, source, tokenizer, notes)
    pad = _pads(raw, folder) if request.pad is None else request.pad
    processor = load_image_processor(tower_folder, LlavaImageProcessorPil, do_pad=pad)
    geometry = image_geometry(config, processor, tower_folder)

    linear = config.projector_hidden_act == "linear"
    projector = (PROJECTOR,) if request.base else (PROJECTOR + "linear_2.",) if linear else ()
    model, missing = load_weights(
        NormedLlava if raw.get("mm_projector_type") == NORMED else LlavaForConditionalGeneration,
        source,
        config,
        request.placement,
        key_mapping=KEY_MAPPING,
        from_elsewhere=(TOWER, *projector),
    )
    if any(key.startswith(TOWER) for key in missing):
        _load_tower(model, missing, fetch_weights(tower, request.cache_dir))
    _fit_vocabulary(model, len(tokenizer), notes)
    if linear:
        model.model.multi_modal_projector.linear_2 = (
            torch.nn.Identity()
        )  # transformers' projector always has two layers
    if request.base:
        _load_on_base(model, fetch(request.name, request.cache_dir, ON_BASE_FILES), marks, missing)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return finish(
        family,
        request.name,
        layout,
        model,
        tokenizer,
        processor,
        geometry,
        image_token_id=config.image_token_id,
        marked=bool(raw.get("mm_use_im_start_end")),
        context=raw.get("tokenizer_model_max_length") or raw.get("max_sequence_length"),
        notes=tuple(notes),
    )


def _weights_source(request: Request, folder: Path) -> tuple[Path, str]:
    """The folder with the language model's weights and tokenizer, and what the layout is called."""
    adapter = (folder / ADAPTER_CONFIG).exists()
    if request.base is None:
        if adapter:
            raise UserError(f"{request.name} is a LoRA adapter; set model.base to the model that it was trained on")
        return fetch_weights(request.name, request.cache_dir), "original"
    if adapter and find_spec("peft") is None:
        raise UserError(f"{request.name} is a LoRA adapter, which needs the package peft: pip install peft")
    if adapter and request.placement.quantization:
        raise UserError(
            f"{request.name} is a LoRA adapter, which is merged into whole weights: leave out model.load_in_4bit "
            "and load_in_8bit"
        )
    if not adapter and any((folder / name).exists() for name in WEIGHT_FILES):
        raise UserError(f"{request.name} is a whole model: model.base={request.base} has no use here, leave it out")
    if "vision_config" in read_json(fetch(request.base, request.cache_dir) / "config.json"):
        raise UserError(
            f"model.base={request.base} is in the transformers layout; expected a language model or a LLaVA in "
            "the original layout"
        )
    return fetch_weights(request.base, request.cache_dir), f"original, {'LoRA' if adapter else 'projector'} on a base"


# config


def _llava_config(
    raw: dict[str, Any],
    vision: CLIPVisionConfig,
    folder: Path,
    source: Path,
    tokenizer: PreTrainedTokenizerFast,
    notes: list[str],
) -> LlavaConfig:
    where = folder / "config.json"
    projector = raw.get("mm_projector_type") or "linear"
    feature = raw.get("mm_vision_select_feature") or "patch"
    layer = -2 if raw.get("mm_vision_select_layer") is None else raw["mm_vision_select_layer"]
    if projector not in PROJECTORS:
        raise UserError(f"{where}: mm_projector_type {projector!r} is not supported; known are {', '.join(PROJECTORS)}")
    if feature not in FEATURES:
        raise UserError(
            f"{where}: mm_vision_select_feature {feature!r} is not supported; known are {', '.join(FEATURES)}"
        )
    if raw.get("mm_hidden_size") not in (None, vision.hidden_size):
        raise UserError(
            f"{where}: the projector takes {raw['mm_hidden_size']} features (mm_hidden_size), the vision tower "
            f"gives {vision.hidden_size}"
        )
    image_token_id = tokenizer.get_vocab().get("<unk>", tokenizer.unk_token_id)
    if image_token_id is None:
        raise UserError(f"{source}: the tokenizer has no unknown-token, whose id stands for the image")
    assumed = {"mm_projector_type": projector, "mm_vision_select_feature": feature, "mm_vision_select_layer": layer}
    notes.extend(
        f"config.json has no {key}: {value} is assumed" for key, value in assumed.items() if raw.get(key) is None
    )
    text_class = LANGUAGE_MODELS[raw["model_type"]][0]
    known = {*text_class().to_dict(), "rope_theta", "rope_scaling"} - {"model_type", "dtype", "architectures"}
    text = {key: value for key, value in raw.items() if key in known}
    text |= {
        key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")
    }  # early configs have them wrong
    text["vocab_size"] = read_json(source / "config.json").get("vocab_size", raw.get("vocab_size"))
    with one_line_errors(where):
        return LlavaConfig(
            vision_config=vision,
            text_config=text_class(**text),
            image_token_index=image_token_id,  # never in a prompt: unknown characters are spelled in bytes
            projector_hidden_act=PROJECTORS[projector],
            vision_feature_layer=layer,
            vision_feature_select_strategy=FEATURES[feature],
            image_seq_length=(vision.image_size // vision.patch_size) ** 2 + (feature == "cls_patch"),
        )


def _pads(raw: dict[str, Any], folder: Path) -> bool:
    ratio = raw.get("image_aspect_ratio")
    if ratio not in (None, "square", "pad"):
        raise UserError(
            f"{folder / 'config.json'}: image_aspect_ratio {ratio!r} cuts pictures into tiles, which is not supported"
        )
    return ratio == "pad"


def _add_image_marks(tokenizer: PreTrainedTokenizerFast, raw: dict[str, Any]) -> int:
    """Gives the image marks their ids, in the original's order; returns how many of <im_start> and <im_end> are new."""
    marked = bool(raw.get("mm_use_im_start_end"))
    if raw.get("mm_use_im_patch_token", marked):
        tokenizer.add_tokens([IMAGE_PATCH], special_tokens=True)
    return tokenizer.add_tokens([IMAGE_START, IMAGE_END], special_tokens=True) if marked else 0


# vision tower


def _tower_name(name: str, folder: Path) -> str:
    """The tower as a folder, relative to the checkpoint if it is there, or as a hub name."""
    return str(folder / name) if (folder / name).is_dir() and not Path(name).is_dir() else name


def _fetch_tower(name: str, folder: Path, cache_dir: str | None) -> Path:
    try:
        return fetch(name, cache_dir)
    except UserError as error:
        raise UserError(f"The vision tower that {folder / 'config.json'} names as mm_vision_tower: {error}") from error


def _vision_config(tower: Path) -> CLIPVisionConfig:
    kind = read_json(tower / "config.json").get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise UserError(f"{tower} is a vision tower of the kind {kind}; only CLIP towers are supported")
    with one_line_errors(tower / "config.json"):
        return CLIPVisionConfig.from_pretrained(tower)


def _load_tower(model: LlavaForConditionalGeneration, missing: list[str], folder: Path) -> None:
    """Fills the tower's missing parameters in place from the tower's own checkpoint."""
    tower = model.model.vision_tower
    with one_line_errors(folder):
        separate, info = type(tower).from_pretrained(
            folder,
            config=tower.config,
            dtype=tower.dtype,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            weights_only=True,
        )
    check_keys(folder, info, surplus=True)  # a whole CLIP also holds a text tower
    fill(tower, {key: value for key, value in separate.named_parameters() if TOWER + key in missing}, folder)


# language model


def _fit_vocabulary(model: LlavaForConditionalGeneration, tokens: int, notes: list[str]) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if tokens > rows:
        notes.append(
            f"the tokenizer has {tokens} tokens and the embedding {rows} rows: rows for the others are made up"
        )
        model.resize_token_embeddings(tokens, mean_resizing=False)


def _load_on_base(model: LlavaForConditionalGeneration, folder: Path, marks: int, missing: list[str]) -> None:
    """What was trained on top of the base: the projector, sometimes embeddings, sometimes a LoRA adapter."""
    adapter = (folder / ADAPTER_CONFIG).exists()
    path = folder / (BESIDE_ADAPTER if adapter else PROJECTOR_FILE)
    if not path.exists():
        raise UserError(f"{folder} has no {path.name}, which holds the projector")
    tensors = {_renamed(key): value for key, value in load_tensors(path).items()}
    embedding = "model.language_model.embed_tokens.weight"
    if marks and embedding in tensors and len(tensors[embedding]) == marks:  # only the rows of the image marks
        whole = model.get_input_embeddings().weight.detach().clone()
        whole[-marks:] = tensors[embedding].to(whole)
        tensors[embedding] = whole
    wanted = {name for name, _ in model.named_parameters() if name.startswith(PROJECTOR)}
    lost = sorted(wanted & set(missing) - set(tensors))
    if lost:
        raise UserError(f"{path} lacks {len(lost)} tensors of the projector: {listed(lost)}")
    fill(model, tensors, path)
    if adapter:
        _merge_adapter(model, folder)


def _renamed(key: str) -> str:
    """A key of mm_projector.bin or non_lora_trainables.bin, which peft prefixes, as transformers calls it."""
    key = key.removeprefix("base_model.model.")
    renamed = next((re.sub(old, new, key) for old, new in KEY_MAPPING.items() if re.match(old, key)), key)
    return renamed.replace(TOWER + "vision_model.", TOWER)  # a level that transformers' towers no longer have


def _merge_adapter(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Merges a LoRA adapter, whose keys are those of a plain language model, into ours."""
    from peft import PeftConfig, get_peft_model

    text = model.config.text_config
    with torch.device("meta"):
        shell = {config.model_type: language_model for config, language_model in LANGUAGE_MODELS.values()}[
            text.model_type
        ](text)
    shell.model, shell.lm_head = model.model.language_model, model.lm_head
    with one_line_errors(folder):
        adapted = get_peft_model(shell, PeftConfig.from_pretrained(folder))
        result = adapted.load_adapter(folder, adapter_name="default")
    if result.unexpected_keys or any("lora_" in key for key in result.missing_keys):
        odd = [*result.unexpected_keys, *(key for key in result.missing_keys if "lora_" in key)]
        raise UserError(f"The LoRA adapter in {folder} does not fit its base: {listed(odd)}")
    merged = adapted.merge_and_unload()
    model.model.language_model, model.lm_head = merged.model, merged.lm_head
