"""Tiny checkpoints of the families with a processor of their own: random weights in the format that the hub's have.

Each has about eight tokens to a side or more, so that a wrong geometry shows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.llava.tiny_families import draw
from tests.llava.tiny_llava import write_json

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
ROWS = 320  # of the embedding: 256 bytes and what is added
TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": ROWS, "max_position_embeddings": 4096,
    "tie_word_embeddings": False, "pad_token_id": 258, "bos_token_id": 256, "eos_token_id": 257,
}  # fmt: skip
TOWER: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4,
    "image_size": 32,
}  # fmt: skip
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text | trim }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
USER = (
    "{% for message in messages %}{{ message.role | capitalize }}: {% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE\n{% else %}{{ part.text }}{% endif %}{% endfor %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass(frozen=True)
class Tiny:
    """What the files of a checkpoint hold; called with a folder, it writes them there."""

    config: dict[str, Any]
    images: dict[str, Any]  # preprocessor_config.json
    processor: dict[str, Any]  # processor_config.json
    template: str | None  # with IMAGE where the placeholder of a picture stands
    image_token: str
    tokens: tuple[str, ...] = ()  # special ones beside bos, eos, pad and the image's; of CHATML
    named: dict[str, str] = field(default_factory=dict)  # of the tokenizer: boi_token, ...
    placeholder: str = ""  # what stands for a picture in the template, if not the image token
    quiet: str = ""  # parameters of this name are a tenth as large

    def __call__(self, folder: Path) -> Path:
        """The checkpoint. Returns the folder."""
        backend = self.write_processor(folder)
        own = {key: ids_of(backend, value) for key, value in self.config.items() if key in TOKEN_KEYS}
        config = AutoConfig.for_model(**{**self.config, **own})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForImageTextToText.from_config(config)
        drawn = draw(model)
        for name in drawn:
            if self.quiet and self.quiet in name:
                drawn[name] *= 0.1
        model.load_state_dict(drawn, strict=False)  # buffers stay
        model.save_pretrained(folder)
        return folder

    def write_processor(self, folder: Path) -> Tokenizer:
        """The files that prepare pictures and prompts; returns the tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "preprocessor_config.json", self.images)
        write_json(folder / "processor_config.json", self.processor)
        if self.template is not None:
            template = self.template.replace("IMAGE", self.placeholder or self.image_token)
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return self._write_tokenizer(folder)

    def _write_tokenizer(self, folder: Path) -> Tokenizer:
        backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(BYTES)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        special = ["<s>", "</s>", "<pad>", self.image_token, *self.named.values(), *self.tokens]
        backend.add_special_tokens([AddedToken(one, normalized=False) for one in dict.fromkeys(special)])
        (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
        extra = {"image_token": self.image_token, **self.named}
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
                "pad_token": "<pad>",
                "extra_special_tokens": extra, "processor_class": self.processor["processor_class"],
                "model_max_length": 4096, "padding_side": "right", "clean_up_tokenization_spaces": False,
            },
        )  # fmt: skip
        return backend


def ids_of(backend: Tokenizer, tokens: Any) -> Any:
    """The id of a token, or those of several."""
    return backend.token_to_id(tokens) if isinstance(tokens, str) else [backend.token_to_id(one) for one in tokens]


TOKEN_KEYS = (
    "image_token_id", "image_token_index", "video_token_id", "video_token_index",
    "vision_start_token_id", "vision_end_token_id",
    "boi_token_id", "eoi_token_id", "boi_token_index", "eoi_token_index", "image_start_token_id", "image_end_token_id",
    "image_patch_id", "low_res_image_start_token_id", "frame_start_token_id", "frame_end_token_id",
    "audio_token_id", "boa_token_id", "eoa_token_id", "eoa_token_index", "visual_indicator_token_ids",
)  # fmt: skip  # of config.json that name a token
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")


LINEAR = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip


def qwen(kind: str, processor: str, **vision: Any) -> Tiny:
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL, and GLM-4V, which follows them."""
    text = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}
    glm = kind.startswith("glm")
    image, video = ("<|image|>", "<|video|>") if glm else ("<|image_pad|>", "<|video_pad|>")
    start, end = ("<|begin_of_image|>", "<|end_of_image|>") if glm else ("<|vision_start|>", "<|vision_end|>")
    names = ("image_start_token_id", "image_end_token_id") if glm else ("vision_start_token_id", "vision_end_token_id")
    if kind.endswith("_moe"):
        text = {**text, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    if kind.startswith("qwen3_5"):  # real ones: three linear layers, then one of attention
        text = {**text, "layer_types": ["linear_attention", "linear_attention", "full_attention"], **LINEAR}
    if kind == "glm46v":
        text = {**text, "model_type": "glm4v_text"}
    config = {
        "model_type": kind, "text_config": text, "image_token_id": image, "video_token_id": video,
        names[0]: start, names[1]: end, "tie_word_embeddings": False,
        "vision_config": {"depth": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
    }  # fmt: skip
    images = {
        "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, **HALF,
        "size": {"shortest_edge": 64 * 64, "longest_edge": 512 * 512}, "do_resize": True, "do_rescale": True,
        "do_normalize": True, "do_convert_rgb": True, "resample": 3,
        "image_processor_type": "Glm4vImageProcessor" if glm else "Qwen2VLImageProcessor", "processor_class": processor,
    }  # fmt: skip
    if kind == "glm46v":
        images["image_processor_type"] = "Glm46VImageProcessor"
    tokens = (video, start, end, "<|begin_of_video|>", "<|end_of_video|>", *CHATML_TOKENS)
    return Tiny(
        config, images, {"processor_class": processor}, CHATML.replace("IMAGE", f"{start}IMAGE{end}"), image, tokens,
        {"video_token": video}, quiet="linear_attn.out_proj",  # recurrent layers round more than 1e-5 at full size
    )  # fmt: skip


QWEN_TOWER = {"embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
QWEN25_TOWER = {
    "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "window_size": 16,
    "fullatt_block_indexes": [1],
}  # fmt: skip
QWEN3_TOWER = {
    "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0],
}  # fmt: skip
QWEN35_TOWER = {key: value for key, value in QWEN3_TOWER.items() if key != "deepstack_visual_indexes"}
GLM_TOWER = {
    "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "image_size": 32,
}  # fmt: skip


SIGLIP = {**TOWER, "model_type": "siglip_vision_model"}
PIXELS = {"height": 32, "width": 32}
RESIZED = {
    **HALF, "size": PIXELS, "do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
    "resample": 3,
}  # fmt: skip


def internvl() -> Tiny:
    """InternVL3: 8 x 8 tokens a tile, after two patches a side are one token."""
    config = {
        "model_type": "internvl", "text_config": {**TEXT, "model_type": "qwen2"}, "image_token_id": "<IMG_CONTEXT>",
        "vision_config": {**TOWER, "image_size": [64, 64], "patch_size": [4, 4], "use_qk_norm": False},
        "image_seq_length": 64, "downsample_ratio": 0.5, "tie_word_embeddings": False,
    }  # fmt: skip
    images = {
        **RESIZED, "size": {"height": 64, "width": 64}, "crop_to_patches": True, "min_patches": 1, "max_patches": 6,
        "image_processor_type": "GotOcr2ImageProcessor", "processor_class": "InternVLProcessor",
    }  # fmt: skip
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": 64}
    return Tiny(config, images, processor, CHATML, "<IMG_CONTEXT>", CHATML_TOKENS, named)


def aya_vision() -> Tiny:
    """Aya Vision: tiles as InternVL's, each behind a word of its own."""
    config = {
        "model_type": "aya_vision", "text_config": {**TEXT, "model_type": "cohere2", "sliding_window": 4096},
        "vision_config": {**SIGLIP, "image_size": 64}, "image_token_index": "<|IMG_PATCH|>", "downsample_factor": 2,
        "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "adapter_layer_norm_eps": 1e-6,
    }  # fmt: skip
    images = {
        **RESIZED, "size": {"height": 64, "width": 64}, "crop_to_patches": True, "min_patches": 1, "max_patches": 6,
        "image_processor_type": "GotOcr2ImageProcessor", "processor_class": "AyaVisionProcessor",
    }  # fmt: skip
    processor = {
        "processor_class": "AyaVisionProcessor", "img_size": 64, "patch_size": 8, "downsample_factor": 1,
        "image_token": "<image>",
    }  # fmt: skip
    tokens = (
        "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL", "TILE", *CHATML_TOKENS
    )  # fmt: skip
    return Tiny(config, images, processor, CHATML, "<|IMG_PATCH|>", tokens, placeholder="<image>")


def idefics3(kind: str, processor: str) -> Tiny:
    """Idefics3 and SmolVLM: 8 x 8 tokens a tile; a picture's longer side becomes at most four tiles."""
    config = {
        "model_type": kind, "text_config": {**TEXT, "model_type": "llama"}, "image_token_id": "<image>",
        "vision_config": {**TOWER, "image_size": 64, "model_type": f"{kind}_vision"}, "scale_factor": 2,
        "tie_word_embeddings": False,
    }  # fmt: skip
    images = {
        **RESIZED, "size": {"longest_edge": 192}, "max_image_size": {"longest_edge": 64}, "do_image_splitting": True,
        "do_pad": True, "image_processor_type": processor.replace("Processor", "ImageProcessor"),
        "processor_class": processor,
    }  # fmt: skip
    marks = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *CHATML_TOKENS)
    places = tuple(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))
    template = "<|im_start|>" + CHATML
    return Tiny(
        config, images, {"processor_class": processor, "image_seq_len": 64}, template, "<image>", marks + places
    )


def ovis2() -> Tiny:
    """Ovis2: words of a visual vocabulary, 8 x 8 a tile."""
    config = {
        "model_type": "ovis2", "text_config": {**TEXT, "model_type": "qwen2"}, "image_token_id": "<IMG_ATOM>",
        "vision_config": {
            **TOWER, "image_size": 64, "vocab_size": 48, "num_visual_indicator_tokens": 5, "hidden_stride": 2,
            "tokenize_function": "softmax",
        },
        "hidden_size": 32, "vocab_size": ROWS, "tie_word_embeddings": False,
        "visual_indicator_token_ids": ["<img>", "</img>", "<line>", "<col>", "<row>"],
    }  # fmt: skip
    images = {
        **RESIZED, "size": {"height": 64, "width": 64}, "crop_to_patches": True, "min_patches": 1, "max_patches": 6,
        "use_covering_area_grid": True, "image_processor_type": "Ovis2ImageProcessor",
        "processor_class": "Ovis2Processor",
    }  # fmt: skip
    tokens = ("<image>", "<img>", "</img>", "<line>", "<col>", "<row>", "<IMG_ATOM>", *CHATML_TOKENS)
    processor = {"processor_class": "Ovis2Processor", "image_token": "<image>", "image_seq_length": 64}
    return Tiny(config, images, processor, CHATML, "<IMG_ATOM>", tokens, placeholder="<image>")


def paligemma(text: str) -> Tiny:
    """PaliGemma (gemma) and PaliGemma 2 (gemma2, with soft caps): no chat template."""
    more = {"query_pre_attn_scalar": 8, "sliding_window": 4096} if text == "gemma2" else {}
    config = {
        "model_type": "paligemma", "text_config": {**TEXT, **more, "model_type": text}, "image_token_index": "<image>",
        "vision_config": {**SIGLIP, "projection_dim": 32, "num_image_tokens": 64}, "projection_dim": 32,
        "hidden_size": 32, "vocab_size": ROWS,
    }  # fmt: skip
    images = {
        **RESIZED, "image_seq_length": 64, "image_processor_type": "SiglipImageProcessor",
        "processor_class": "PaliGemmaProcessor",
    }  # fmt: skip
    return Tiny(config, images, {"processor_class": "PaliGemmaProcessor"}, None, "<image>")


GEMMA_TURNS = ("<start_of_turn>", "<end_of_turn>")


def gemma3(**scan: Any) -> Tiny:
    """Gemma 3: layers with a window and without, 8 x 8 tokens a picture."""
    config = {
        "model_type": "gemma3", "image_token_index": "<image_soft_token>", "mm_tokens_per_image": 64,
        "text_config": {**TEXT, "sliding_window": 64, "query_pre_attn_scalar": 8, "layer_types": LAYERS},
        "vision_config": {**SIGLIP, "image_size": 64}, "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
    }  # fmt: skip
    images = {
        **RESIZED, "size": {"height": 64, "width": 64}, "do_pan_and_scan": False, "pan_and_scan_min_crop_size": 32,
        "pan_and_scan_max_num_crops": 4, "pan_and_scan_min_ratio_to_activate": 1.2, **scan,
        "image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor",
    }  # fmt: skip
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    processor = {"processor_class": "Gemma3Processor", "image_seq_length": 64}
    return Tiny(
        config, images, processor, TURNS, "<image_soft_token>", GEMMA_TURNS, named, placeholder="<start_of_image>"
    )


LAYERS = ["sliding_attention", "sliding_attention", "full_attention"]


def gemma4() -> Tiny:
    """Gemma 4: patches pooled 2 x 2, in the picture's own shape."""
    text = {
        **TEXT, "sliding_window": 64, "layer_types": LAYERS, "hidden_size_per_layer_input": 8, "global_head_dim": 8,
        "vocab_size_per_layer_input": ROWS, "num_kv_shared_layers": 0, "num_global_key_value_heads": 2,
    }  # fmt: skip
    config = {
        "model_type": "gemma4", "text_config": text, "image_token_id": "<|image|>", "audio_config": None,
        "vision_config": {
            **TOWER, "patch_size": 4, "pooling_kernel_size": 2, "position_embedding_size": 64, "head_dim": 8,
            "num_key_value_heads": 2, "default_output_length": 280,
        },
        "boi_token_id": "<|image>", "eoi_token_id": "<image|>", "audio_token_id": "<|audio|>",
    }  # fmt: skip
    images = {
        "patch_size": 4, "max_soft_tokens": 280, "pooling_kernel_size": 2, "do_resize": True, "do_rescale": True,
        "do_normalize": False, "do_convert_rgb": True, "resample": 3, "image_processor_type": "Gemma4ImageProcessor",
        "processor_class": "Gemma4Processor",
    }  # fmt: skip
    named = {
        "boi_token": "<|image>", "eoi_token": "<image|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
        "audio_token": "<|audio|>",
    }  # fmt: skip
    # scores are not divided by anything: q_norm alone keeps them small, and with them what rounding makes of a softmax
    processor = {"processor_class": "Gemma4Processor"}
    return Tiny(config, images, processor, TURNS, "<|image|>", GEMMA_TURNS, named, quiet=".self_attn.q_norm.")


def deepseek_vl(kind: str, processor: str) -> Tiny:
    """DeepSeek-VL, its hybrid of two towers, and Janus: 8 x 8 tokens."""
    config = {
        "model_type": kind, "text_config": {**TEXT, "model_type": "llama"}, "image_token_id": "<image_placeholder>",
        "vision_config": {**SIGLIP, "image_size": 64, "patch_size": 8},
    }  # fmt: skip
    images = {
        **RESIZED, "size": {"height": 64, "width": 64}, "min_size": 14, "do_pad": True,
        "image_processor_type": processor.replace("Processor", "ImageProcessor"), "processor_class": processor,
    }  # fmt: skip
    named = {"boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    if kind == "janus":
        config["vision_config"] = {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 64,
            "mlp_ratio": 2, "projection_dim": 32, "num_image_tokens": 64,
        }  # fmt: skip
        config["vq_config"] = {
            "embed_dim": 8, "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1, 1],
            "latent_channels": 8,
            "num_res_blocks": 1, "image_token_embed_dim": 32, "projection_dim": 32, "num_patches": 8,
        }  # fmt: skip
    if kind == "deepseek_vl_hybrid":
        config["high_res_vision_config"] = {
            "model_type": "sam_vision_model", "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 128, "patch_size": 4, "window_size": 4, "mlp_dim": 32,
            "global_attn_indexes": [0, 1],
        }  # fmt: skip
        images |= {
            "high_res_size": {"height": 128, "width": 128}, "high_res_image_mean": [0.5] * 3,
            "high_res_image_std": [0.5] * 3, "high_res_resample": 3,
        }  # fmt: skip
    token = {"processor_class": processor, "num_image_tokens": 64}
    quiet = "high_res_vision_proj"  # convolutions of the second tower mix neighbouring cells
    return Tiny(config, images, token, USER, "<image_placeholder>", (), named, quiet=quiet)


def pixtral(kind: str) -> Tiny:
    """Mistral 3 and LightOnOCR (2 x 2 patches a token), and Pixtral itself, whose model_type is llava."""
    merge = 1 if kind == "llava" else 2
    text = {**TEXT, "model_type": "qwen3" if kind == "lighton_ocr" else "mistral", "sliding_window": None}
    config = {
        "model_type": kind, "text_config": text, "image_token_index": "[IMG]", "spatial_merge_size": merge,
        "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 8, "image_size": 256, "patch_size": 8 // merge},
        "multimodal_projector_bias": False, "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
        "projector_hidden_act": "gelu", "image_seq_length": 1,
    }  # fmt: skip
    if kind == "lighton_ocr":
        config["image_token_id"] = config.pop("image_token_index")
    name = "LightOnOcrProcessor" if kind == "lighton_ocr" else "PixtralProcessor"
    images = {
        **RESIZED, "size": {"longest_edge": 256}, "patch_size": {"height": 8, "width": 8},
        "image_processor_type": "PixtralImageProcessor", "processor_class": name,
    }  # fmt: skip
    processor = {"processor_class": name, "patch_size": 8 // merge, "spatial_merge_size": merge}
    named = {}
    if kind == "lighton_ocr":
        named = {"image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    else:
        processor |= {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    return Tiny(config, images, processor, USER, "[IMG]", ("[IMG_BREAK]", "[IMG_END]"), named)


CANVASES = [[32 * rows, 32 * cols] for rows in range(1, 5) for cols in range(1, 5) if rows * cols > 1]


def llava_onevision() -> Tiny:
    """LLaVA-OneVision: 8 x 8 tokens a tile, at most twice as many tokens of tiles as the shrinking allows."""
    config = {
        "model_type": "llava_onevision", "text_config": {**TEXT, "model_type": "qwen2"}, "image_token_index": "<image>",
        "video_token_index": "<video>", "vision_config": {**SIGLIP, "vision_use_head": False},
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_4", "projector_hidden_act": "gelu",
        "image_grid_pinpoints": CANVASES, "multimodal_projector_bias": True, "image_seq_length": 64,
    }  # fmt: skip
    images = {
        **RESIZED, "image_grid_pinpoints": CANVASES, "image_processor_type": "LlavaOnevisionImageProcessor",
        "do_pad": True,
        "processor_class": "LlavaOnevisionProcessor",
    }  # fmt: skip
    processor = {
        "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 64, "vision_aspect_ratio": "anyres_max_4",
        "vision_feature_select_strategy": "full", "image_token": "<image>", "video_token": "<video>",
    }  # fmt: skip
    return Tiny(config, images, processor, CHATML, "<image>", ("<video>", *CHATML_TOKENS))


def vipllava() -> Tiny:
    """ViP-LLaVA: features of several layers, a class token that is left out."""
    config = {
        "model_type": "vipllava", "text_config": {**TEXT, "model_type": "llama"}, "image_token_index": "<image>",
        "vision_config": {**TOWER, "model_type": "clip_vision_model", "num_hidden_layers": 3},
        "vision_feature_layers": [-2, -1, 1], "projector_hidden_act": "gelu", "image_seq_length": 64,
    }  # fmt: skip
    images = {
        **RESIZED, "size": {"shortest_edge": 32}, "crop_size": PIXELS, "do_center_crop": True,
        "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor",
    }  # fmt: skip
    processor = {
        "processor_class": "LlavaProcessor", "patch_size": 4, "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1, "image_token": "<image>",
    }  # fmt: skip
    return Tiny(config, images, processor, USER, "<image>")


def mllama() -> Tiny:
    """Llama 3.2 Vision: 8 x 8 tokens a tile and a class token; one layer of cross-attention."""
    text = {key: value for key, value in TEXT.items() if key != "head_dim"}
    config = {
        "model_type": "mllama", "text_config": {**text, "vocab_size": ROWS - 8, "cross_attention_layers": [1]},
        "image_token_index": "<|image|>",
        "vision_config": {
            "image_size": 64, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_global_layers": 1, "attention_heads": 2, "vision_output_dim": 48, "max_num_tiles": 4,
            "intermediate_layers_indices": [0, 1],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
    }  # fmt: skip
    images = {
        **RESIZED, "size": {"height": 64, "width": 64}, "max_image_tiles": 4, "do_pad": True,
        "image_processor_type": "MllamaImageProcessor", "processor_class": "MllamaProcessor",
    }  # fmt: skip
    template = "{{ bos_token }}" + CHATML
    return Tiny(config, images, {"processor_class": "MllamaProcessor"}, template, "<|image|>", CHATML_TOKENS)


CHAT_FAMILIES: dict[str, Callable[[Path], Path]] = {
    "qwen2_vl": qwen("qwen2_vl", "Qwen2VLProcessor", **QWEN_TOWER),
    "qwen2_5_vl": qwen("qwen2_5_vl", "Qwen2_5_VLProcessor", **QWEN25_TOWER),
    "qwen3_vl": qwen("qwen3_vl", "Qwen3VLProcessor", **QWEN3_TOWER),
    "qwen3_vl_moe": qwen("qwen3_vl_moe", "Qwen3VLProcessor", **QWEN3_TOWER),
    "qwen3_5": qwen("qwen3_5", "Qwen3VLProcessor", **QWEN35_TOWER),
    "qwen3_5_moe": qwen("qwen3_5_moe", "Qwen3VLProcessor", **QWEN35_TOWER),
    "glm4v": qwen("glm4v", "Glm4vProcessor", **GLM_TOWER),
    "glm46v": qwen("glm46v", "Glm46VProcessor", **GLM_TOWER),
    "internvl": internvl(),
    "aya_vision": aya_vision(),
    "idefics3": idefics3("idefics3", "Idefics3Processor"),
    "smolvlm": idefics3("smolvlm", "SmolVLMProcessor"),
    "ovis2": ovis2(),
    "paligemma": paligemma("gemma"),
    "paligemma2": paligemma("gemma2"),
    "gemma3": gemma3(),
    "gemma3, pan and scan": gemma3(do_pan_and_scan=True),
    "gemma4": gemma4(),
    "deepseek_vl": deepseek_vl("deepseek_vl", "DeepseekVLProcessor"),
    "deepseek_vl_hybrid": deepseek_vl("deepseek_vl_hybrid", "DeepseekVLHybridProcessor"),
    "janus": deepseek_vl("janus", "JanusProcessor"),
    "mistral3": pixtral("mistral3"),
    "pixtral": pixtral("llava"),
    "lighton_ocr": pixtral("lighton_ocr"),
    "llava_onevision": llava_onevision(),
    "vipllava": vipllava(),
    "mllama": mllama(),
}


def _lacking() -> set[str]:
    """Transformers before 5.21 has Gemma 4's processor only beside torchvision."""
    try:
        return set() if transformers.Gemma4Processor else {"gemma4"}
    except ImportError:
        return {"gemma4"}


LACKING = _lacking()  # families that the packages at hand cannot load
for name in LACKING:
    del CHAT_FAMILIES[name]
