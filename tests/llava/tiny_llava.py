"""Tiny LLaVA checkpoints with random weights, in the file formats that are found in the wild, and the original's
algorithm.

Weights are kept under their original names, so that every layout is written from the same tensors, and
`original_forward` can run them without the code under test.
"""

import io
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

torch.set_num_threads(1)  # for tensors this small, threads only wait for each other

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
SIDE, PATCH, VOCAB = 28, 7, 420  # 4 x 4 image tokens
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE,
    "patch_size": PATCH, "hidden_act": "quick_gelu", "projection_dim": 16,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 5000.0,
    "tie_word_embeddings": False,
}  # fmt: skip
ORIGINAL_CONFIG = {
    **TEXT, "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "hidden_act": "silu",
    "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "max_length": 256, "rope_scaling": None, "pretraining_tp": 1, "torch_dtype": "float16",
    "use_cache": True,
    "transformers_version": "4.31.0", "freeze_mm_mlp_adapter": False, "image_aspect_ratio": "pad", "mm_hidden_size": 16,
    "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": None, "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "tune_mm_mlp_adapter": False, "use_mm_proj": True,
}  # fmt: skip
TOWER = "model.vision_tower.vision_tower."
SENTENCES = (
    "a bird on the branch", "the cat on the floor", "a small dog wearing a collar",
    "USER: what is in the picture? ASSISTANT: a red ball",
    "You are a helpful language and vision assistant.",
    "You are able to understand the visual content that the user provides,",
    "and assist the user with a variety of tasks using natural language.",
    "A chat between a curious user and an AI. Human: ###Assistant:",
)  # fmt: skip


# tokenizer


@lru_cache
def sentencepiece_model() -> bytes:
    """Like Llama's.

    BPE with byte fallback, digits apart, a space before the first word, and "▁" as a piece of its own.
    """
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20), model_writer=out, vocab_size=VOCAB, model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, minloglevel=2,
    )  # fmt: skip
    return out.getvalue()


def write_sentencepiece(folder: Path, **settings: object) -> None:
    """tokenizer.model and what lies beside it in liuhaotian/llava-v1.5-7b."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "model_max_length": 2048,
    }
    write_json(folder / "tokenizer_config.json", {**config, **special, **settings})
    write_json(folder / "special_tokens_map.json", special)


def write_tokenizer_json(folder: Path) -> None:
    """tokenizer.json as in llava-hf/llava-1.5-7b-hf: spaces are a matter of the normalizer;

    `<image>` and `<pad>` are added.
    """
    write_sentencepiece(folder)
    backend: Tokenizer = LlamaTokenizer.from_pretrained(folder).backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens([AddedToken("<image>", normalized=False), AddedToken("<pad>", normalized=False)])
    state = {**json.loads(backend.to_str()), "pre_tokenizer": None}
    (folder / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "tokenizer.model").unlink()


# weights


def make_tensors(projector: str = "mlp2x_gelu", *, seed: int = 0, scale: float = 1.5) -> dict[str, torch.Tensor]:
    """Random weights under the original's names, float32, large enough for attention far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        text, vision = LlamaForCausalLM(LlamaConfig(**TEXT)), CLIPVisionModel(CLIPVisionConfig(**VISION))
    shapes = {name: value.shape for name, value in text.named_parameters()}
    shapes |= {
        f"{TOWER}vision_model.{name.removeprefix('vision_model.')}": value.shape
        for name, value in vision.named_parameters()
    }
    wide, narrow = TEXT["hidden_size"], VISION["hidden_size"]
    layers: dict[str, tuple[int, ...]] = {
        "linear": {"": (wide, narrow)},
        "mlp2x_gelu": {"0.": (wide, narrow), "2.": (wide, wide)},
        "mlp2x_gelu_Norm": {"0.": (wide, narrow), "1.": (wide,), "3.": (wide, wide), "4.": (wide,)},
    }[projector]
    for index, shape in layers.items():
        shapes |= {
            f"model.mm_projector.{index}weight": torch.Size(shape),
            f"model.mm_projector.{index}bias": torch.Size(shape[:1]),
        }

    def draw(name: str, shape: torch.Size) -> torch.Tensor:
        values = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            return 1 + 0.1 * values
        return values * (0.1 if len(shape) == 1 else scale * shape[1:].numel() ** -0.5)

    return {name: draw(name, shape) for name, shape in shapes.items()}


def with_rows(tensors: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    """The same weights with random rows up to `rows` in the embedding and the output."""
    generator = torch.Generator().manual_seed(rows)

    def grow(value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value, torch.randn(rows - len(value), value.shape[1], generator=generator) * 0.3])

    return {
        name: grow(value) if name in ("model.embed_tokens.weight", "lm_head.weight") else value
        for name, value in tensors.items()
    }


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], *, kind: str = "bin", shards: int = 1) -> None:
    """pytorch_model*.bin or model*.safetensors, one file or shards with an index."""
    stem, save = {"bin": ("pytorch_model", torch.save), "safetensors": ("model", save_file)}[kind]
    names = list(tensors)
    if shards == 1:
        save(tensors, folder / f"{stem}.{kind}")
        return
    files = {n: f"{stem}-{i * shards // len(names) + 1:05d}-of-{shards:05d}.{kind}" for i, n in enumerate(names)}
    for file in sorted(set(files.values())):
        save({n: tensors[n] for n in names if files[n] == file}, folder / file)
    write_json(folder / f"{stem}.{kind}.index.json", {"metadata": {}, "weight_map": files})


# layouts


def write_original(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    tower: Path | str,
    *,
    kind: str = "bin",
    shards: int = 1,
    tower_inside: bool = False,
    **config: object,
) -> Path:
    """A checkpoint as the original code saves it; `config` replaces keys of config.json, None as null."""
    write_sentencepiece(folder)
    write_json(folder / "config.json", {**ORIGINAL_CONFIG, "mm_vision_tower": str(tower), **config})
    kept = {name: value for name, value in tensors.items() if tower_inside or not name.startswith(TOWER)}
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}  # old checkpoints hold it
    write_weights(folder, {**kept, **rotary}, kind=kind, shards=shards)
    return folder


def write_tower(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A whole CLIP, text tower included, as openai/clip-vit-large-patch14-336 is stored."""
    folder.mkdir(parents=True)
    write_json(
        folder / "config.json",
        {"architectures": ["CLIPModel"], "model_type": "clip", "vision_config": VISION, "text_config": {}},
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": SIDE,
            "size": SIDE,
            "resample": 3,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": MEAN,
            "image_std": STD,
        },
    )
    vision = {name.removeprefix(TOWER): value for name, value in tensors.items() if name.startswith(TOWER)}
    extra = {
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "logit_scale": torch.tensor(4.6),
        "text_projection.weight": torch.ones(2, 2),
    }
    write_weights(folder, {**vision, **extra})
    return folder


def write_transformers(
    folder: Path, tensors: dict[str, torch.Tensor], *, kind: str = "safetensors", shards: int = 1, **config: object
) -> Path:
    """The same weights as llava-hf/llava-1.5-7b-hf is stored.

    Other names, two more tokens, rows up to a multiple of 64.
    """
    write_tokenizer_json(folder)
    rows = 448
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "ignore_index": -100,
            "image_token_index": VOCAB,
            "model_type": "llava",
            "pad_token_id": VOCAB + 1,
            "projector_hidden_act": "gelu",
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "text_config": {**TEXT, "model_type": "llama", "vocab_size": rows, "torch_dtype": "float16"},
            "vision_config": {**VISION, "model_type": "clip_vision_model"},
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "vocab_size": rows,
            "image_seq_length": 16,
            **config,
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": SIDE, "width": SIDE},
            "size": {"shortest_edge": SIDE},
            "resample": 3,
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "rescale_factor": 1 / 255,
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
            "image_mean": MEAN,
            "image_std": STD,
        },
    )
    write_json(
        folder / "processor_config.json",
        {"patch_size": PATCH, "processor_class": "LlavaProcessor", "vision_feature_select_strategy": "default"},
    )
    write_weights(
        folder, {_renamed(name): value for name, value in with_rows(tensors, rows).items()}, kind=kind, shards=shards
    )
    return folder


def _renamed(name: str) -> str:
    if name.startswith(TOWER):
        return "vision_tower." + name.removeprefix(TOWER)
    if "mm_projector" in name:
        _, _, index, part = name.split(".")
        return f"multi_modal_projector.linear_{'1' if index == '0' else '2'}.{part}"
    return "language_model." + name


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


# the original's algorithm


def original_pixels(image: Image.Image, *, pad: bool) -> torch.Tensor:
    """Padded to a centred square in the mean colour, then CLIP's resize, crop and normalisation."""
    if pad and image.width != image.height:
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(m * 255) for m in MEAN))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    shorter = min(image.size)
    resized = image.resize((SIDE * image.width // shorter, SIDE * image.height // shorter), Image.Resampling.BICUBIC)
    left, top = (resized.width - SIDE) // 2, (resized.height - SIDE) // 2
    pixels = np.asarray(resized)[top : top + SIDE, left : left + SIDE] * (1 / 255)
    normal = (pixels.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(normal.transpose(2, 0, 1))[None]


def original_ids(before: str, after: str, *, drop_spaces: bool) -> tuple[list[int], list[int]]:
    """Ids of the text before and after the image: each tokenized apart by SentencePiece itself, one <s> in front."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    chunks = [[1, *pieces.encode(before)], pieces.encode(after)]
    space = pieces.piece_to_id("▁")
    first, second = ([i for i in chunk if not (drop_spaces and i == space)] for chunk in chunks)
    return first, second


@torch.inference_mode()
def original_forward(
    tensors: dict[str, torch.Tensor],
    before: list[int],
    after: list[int],
    pixels: torch.Tensor,
    *,
    layer: int = -2,
    keep_class: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The original's forward: image features spliced into the text's embeddings, then a plain language model.

    Returns the logits [tokens, vocabulary] and the last token's attention to the image tokens [layers, heads, 1, V].
    """
    rows = len(tensors["lm_head.weight"])
    text = LlamaForCausalLM._from_config(
        LlamaConfig(**{**TEXT, "vocab_size": rows}), attn_implementation="eager"
    ).eval()
    text.load_state_dict({name: value for name, value in tensors.items() if name in text.state_dict()})
    vision = CLIPVisionModel._from_config(CLIPVisionConfig(**VISION), attn_implementation="eager").eval()
    own = {name.removeprefix("vision_model."): name for name in vision.state_dict()}
    tower = {
        name.removeprefix(TOWER + "vision_model."): value for name, value in tensors.items() if name.startswith(TOWER)
    }
    vision.load_state_dict({own[name]: value for name, value in tower.items()}, strict=True)

    features = vision(pixels, output_hidden_states=True).hidden_states[layer][:, 0 if keep_class else 1 :]
    last = None
    for index in ("", "0.", "1.", "2.", "3.", "4."):
        if f"model.mm_projector.{index}weight" not in tensors:
            continue
        weight, bias = (tensors[f"model.mm_projector.{index}{name}"] for name in ("weight", "bias"))
        if weight.dim() == 1:
            features = torch.nn.functional.layer_norm(features, weight.shape, weight, bias)
            continue
        features = torch.nn.functional.gelu(features) if last is not None else features
        features, last = features @ weight.T + bias, index
    embed = text.model.embed_tokens
    sequence = torch.cat([embed(torch.tensor([before])), features, embed(torch.tensor([after]))], dim=1)
    output = text(inputs_embeds=sequence, output_attentions=True, use_cache=False)
    columns = slice(len(before), len(before) + features.shape[1])
    return output.logits[0], torch.stack([a[0, :, -1:, columns] for a in output.attentions])


def write_projector(folder: Path, tensors: dict[str, torch.Tensor], tower: Path | str, **config: object) -> Path:
    """What the original's first training stage saves: config.json and mm_projector.bin."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {**ORIGINAL_CONFIG, "mm_vision_tower": str(tower), **config})
    torch.save({name: value for name, value in tensors.items() if "mm_projector" in name}, folder / "mm_projector.bin")
    return folder


def write_base(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """The language model alone, as lmsys/vicuna-7b-v1.5 is stored."""
    write_sentencepiece(folder)
    write_json(folder / "config.json", {**TEXT, "architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    write_weights(
        folder,
        {name: value for name, value in tensors.items() if "mm_projector" not in name and not name.startswith(TOWER)},
    )
    return folder


def write_lora(
    folder: Path, tensors: dict[str, torch.Tensor], tower: Path | str, *, rank: int = 2, alpha: int = 3
) -> tuple[Path, dict[str, torch.Tensor]]:
    """A LoRA checkpoint as liuhaotian/llava-v1.5-7b-lora is stored.

    Also returns `tensors` with the adapter merged by hand.
    """
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {**ORIGINAL_CONFIG, "mm_vision_tower": str(tower)})
    targets = ["q_proj", "v_proj", "down_proj"]
    write_json(
        folder / "adapter_config.json",
        {
            "auto_mapping": None,
            "base_model_name_or_path": "lmsys/vicuna-7b-v1.5",
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": alpha,
            "lora_dropout": 0.05,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": rank,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
        },
    )
    generator = torch.Generator().manual_seed(5)
    merged, adapter = dict(tensors), {}
    for name, value in tensors.items():
        module = name.removesuffix(".weight")
        if name.startswith("model.layers.") and module.split(".")[-1] in targets:
            a = torch.randn(rank, value.shape[1], generator=generator) * 0.2
            b = torch.randn(value.shape[0], rank, generator=generator) * 0.2
            adapter |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
            merged[name] = value + alpha / rank * b @ a
    torch.save(adapter, folder / "adapter_model.bin")
    projector = {f"base_model.model.{name}": value for name, value in tensors.items() if "mm_projector" in name}
    torch.save(projector, folder / "non_lora_trainables.bin")
    return folder, merged


def model_inputs(loaded, image: Image.Image, prompt) -> dict[str, torch.Tensor]:
    """What transformers' own forward takes for one prompt."""
    ids = torch.tensor([prompt.ids])
    pixels = loaded.image_processor(image, return_tensors="pt")["pixel_values"].to(loaded.dtype)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
