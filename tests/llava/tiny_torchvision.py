"""Tiny checkpoints of the families whose pictures torchvision prepares; see tiny_chat, and test_torchvision."""

from pathlib import Path
from typing import Any

from tests.llava.tiny_chat import CHATML, CHATML_TOKENS, RESIZED, SIGLIP, TEXT, TOWER, USER, Tiny
from tests.llava.tiny_llava import write_json

SQUARE = {"size": {"height": 64, "width": 64}}


def llama4() -> Tiny:
    """8 x 8 tokens a tile; layers with a chunk and without."""
    config = {
        "model_type": "llama4", "image_token_index": "<|patch|>", "boi_token_index": "<|image_start|>",
        "eoi_token_index": "<|image_end|>",
        "text_config": {
            **TEXT, "intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 96,
            "no_rope_layers": [1, 1, 0],
        },
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 4, "vision_output_dim": 32, "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
    }  # fmt: skip
    images = {
        **RESIZED, **SQUARE, "max_patches": 6, "image_processor_type": "Llama4ImageProcessor",
        "processor_class": "Llama4Processor",
    }  # fmt: skip
    processor = {"processor_class": "Llama4Processor", "patch_size": 4}
    tokens = ("<|image|>", "<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>")
    return Tiny(config, images, processor, USER, "<|patch|>", tokens, placeholder="<|image|>")


def lfm2_vl() -> Tiny:
    """A convolution, then two layers of attention."""
    config = {
        "model_type": "lfm2_vl", "image_token_id": "<image>", "projector_hidden_size": 32,
        "text_config": {
            **TEXT, "model_type": "lfm2", "layer_types": ["conv", "full_attention", "full_attention"],
            "block_auto_adjust_ff_dim": False,
        },
        "vision_config": {**TOWER, "model_type": "siglip2_vision_model", "num_patches": 256, "vision_use_head": False},
        "tie_word_embeddings": False,
    }  # fmt: skip
    images = {
        **RESIZED, "tile_size": 64, "encoder_patch_size": 4, "min_image_tokens": 16, "max_image_tokens": 64,
        "max_tiles": 6, "image_processor_type": "Lfm2VlImageProcessor", "processor_class": "Lfm2VlProcessor",
    }  # fmt: skip
    places = tuple(f"<|img_row_{row}_col_{col}|>" for row in range(1, 7) for col in range(1, 7))
    tokens = ("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *places, *CHATML_TOKENS)
    return Tiny(config, images, {"processor_class": "Lfm2VlProcessor"}, CHATML, "<image>", tokens)


def molmo2() -> Tiny:
    """Patches pooled 2 x 2, an odd number of them a side."""
    attention = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    config = {
        "model_type": "molmo2", "image_patch_id": "<im_patch>", "image_start_token_id": "<im_start>",
        "low_res_image_start_token_id": "<low_res_im_start>", "image_end_token_id": "<im_end>",
        "frame_start_token_id": "<frame_start>", "frame_end_token_id": "<frame_end>",
        "text_config": {**TEXT, "additional_vocab_size": 8},
        "vision_config": {**TOWER, **attention, "image_size": [60, 60], "num_position_embeddings": 225},
        "adapter_config": {
            **attention, "hidden_size": 16, "intermediate_size": 32, "text_hidden_size": 32,
            "vision_feature_layer": [-1, 0],
        },
    }  # fmt: skip
    images = {
        **RESIZED, "size": {"height": 60, "width": 60}, "patch_size": 4, "overlap_margins": [2, 2], "max_crops": 6,
        "image_processor_type": "Molmo2ImageProcessor", "processor_class": "Molmo2Processor",
    }  # fmt: skip
    marks = ("<im_col>", "<im_start>", "<low_res_im_start>", "<im_end>", "<frame_start>", "<frame_end>", "<im_low>")
    return Tiny(
        config, images, {"processor_class": "Molmo2Processor"}, USER, "<im_patch>", (*marks, "<|video|>"),
        {"image_token": "<|image|>"}, placeholder="<|image|>",
    )  # fmt: skip


def kimi_k25() -> Tiny:
    """2 x 2 patches a token; keys and values are unlike in width."""
    text: dict[str, Any] = {
        **TEXT, "model_type": "deepseek_v3", "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 16,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1,
        "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
    }  # fmt: skip
    text.pop("head_dim")
    config = {
        "model_type": "kimi_k25", "text_config": text, "image_token_id": "<|media_pad|>",
        "video_token_id": "<|kimi_k25_video_placeholder|>", "vision_start_token_id": "<|media_begin|>",
        "vision_end_token_id": "<|media_end|>", "projection_hidden_size": 16, "tie_word_embeddings": False,
        "vision_config": {**TOWER, "pos_emb_height": 16, "pos_emb_width": 16},
    }  # fmt: skip
    config["vision_config"].pop("image_size")
    images = {
        **RESIZED, "size": {"max_height": 64, "max_width": 64}, "patch_size": 4, "max_patches": 1024,
        "image_processor_type": "Kimi_K25ImageProcessor", "processor_class": "Kimi_K25Processor",
    }  # fmt: skip
    tokens = ("<|kimi_k25_video_placeholder|>", "<|media_begin|>", "<|media_end|>", *CHATML_TOKENS)
    return Tiny(config, images, {"processor_class": "Kimi_K25Processor"}, CHATML, "<|media_pad|>", tokens)


def cohere2_vision() -> Tiny:
    """Command A Vision: tiles as InternVL's."""
    config = {
        "model_type": "cohere2_vision", "image_token_id": "<|IMG_PATCH|>", "alignment_intermediate_size": 64,
        "text_config": {**TEXT, "model_type": "cohere2", "sliding_window": 4096},
        "vision_config": {**SIGLIP, "image_size": 64}, "tie_word_embeddings": False,
    }  # fmt: skip
    images = {
        **RESIZED, **SQUARE, "max_patches": 6, "patch_size": 8, "image_processor_type": "Cohere2VisionImageProcessor",
        "processor_class": "Cohere2VisionProcessor",
    }  # fmt: skip
    named = {
        "boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>", "img_line_break_token": "<|IMG_LINE_BREAK|>"
    }  # fmt: skip
    return Tiny(
        config, images, {"processor_class": "Cohere2VisionProcessor"}, CHATML, "<|IMG_PATCH|>", CHATML_TOKENS, named
    )


def write_perception_lm(folder: Path) -> Path:
    """The files of a processor alone: its tower is one of timm's."""
    named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    images = {"image_processor_type": "PerceptionLMImageProcessor", "processor_class": "PerceptionLMProcessor"}
    config = {"model_type": "perception_lm", "text_config": TEXT, "vision_config": {"model_type": "timm_wrapper"}}
    tiny = Tiny(config, images, {"processor_class": "PerceptionLMProcessor"}, USER, "<|image|>", (), named)
    tiny.write_processor(folder)
    write_json(folder / "config.json", config)
    return folder


TORCHVISION_FAMILIES = {
    "llama4": llama4(),
    "lfm2_vl": lfm2_vl(),
    "molmo2": molmo2(),
    "kimi_k25": kimi_k25(),
    "cohere2_vision": cohere2_vision(),
}
