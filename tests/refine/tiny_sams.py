"""Tiny random SAMs in the real formats, one folder each, with the files that the published checkpoints have."""

import json
from pathlib import Path
from shutil import copy

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Sam2Config,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
)

SIDE, WIDTH = 64, 32


def _sam_config(kind):
    return kind(
        vision_config={
            **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "output_channels": WIDTH},
            **{"image_size": SIDE, "patch_size": 16, "window_size": 2, "global_attn_indexes": [1]},
            **{"num_pos_feats": WIDTH // 2, "initializer_range": 0.1},
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIDE, "patch_size": 16},
        mask_decoder_config={
            **{"hidden_size": WIDTH, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
            **({"vit_dim": 32} if kind is SamHQConfig else {}),
        },
        initializer_range=0.1,
    )


def _sam2_parts():
    return {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                **{"hidden_size": 16, "num_attention_heads": 1, "image_size": [SIDE, SIDE]},
                **{"patch_kernel_size": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3]},
                **{"blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [16, 32, 64, 128]},
                **{"num_attention_heads_per_stage": [1, 2, 4, 8], "window_size_per_stage": [4, 4, 2, 2]},
                **{"global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4]},
            },
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": WIDTH,
        },
        "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": SIDE, "patch_size": 16},
        "mask_decoder_config": {
            **{"hidden_size": WIDTH, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
        },
        "initializer_range": 0.1,
    }


PADDED = {
    "image_processor_type": "SamImageProcessor",
    "processor_class": "SamProcessor",
    "do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    "pad_size": {"height": SIDE, "width": SIDE}, "size": {"longest_edge": SIDE},
    "resample": 2, "rescale_factor": 1 / 255,
}  # fmt: skip
STRETCHED = {
    "image_processor_type": "Sam2ImageProcessorFast",
    "processor_class": "Sam2VideoProcessor",
    "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    "size": {"height": SIDE, "width": SIDE}, "mask_size": {"height": 16, "width": 16},
    "resample": 2, "rescale_factor": 1 / 255,
}  # fmt: skip


def _sam3_config():
    parts = _sam2_parts()
    parts["vision_config"] = {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"image_size": SIDE, "patch_size": 16, "window_size": 2, "global_attn_indexes": [1]},
            "pretrain_image_size": SIDE,
        },
        "fpn_hidden_size": WIDTH,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }
    return Sam3TrackerConfig(**parts)


MAKERS = {
    "sam": lambda: (SamModel(_sam_config(SamConfig)), PADDED),
    "sam_hq": lambda: (SamHQModel(_sam_config(SamHQConfig)), PADDED),
    "sam2": lambda: (Sam2Model(Sam2Config(**_sam2_parts())), STRETCHED),
    "sam3_tracker": lambda: (Sam3TrackerModel(_sam3_config()), STRETCHED),
}


def save_tiny(kind: str, folder: Path) -> Path:
    """A checkpoint of a kind with random weights, always the same."""
    torch.manual_seed(0)
    model, processor = MAKERS[kind]()
    for parameter in model.parameters():  # embeddings of 0 would hide what they are added to
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def as_sam2_video(folder: Path, target: Path) -> Path:
    """A tiny SAM 2 as its published checkpoints are: with the memory of the video model."""
    sizes = {
        **{f"memory_{part}_hidden_size": WIDTH for part in ("attention", "encoder")},
        **{"memory_encoder_output_channels": 16, "mask_downsampler_embed_dim": WIDTH, "memory_fuser_embed_dim": WIDTH},
        **{"memory_attention_feed_forward_hidden_size": 64, "memory_fuser_intermediate_dim": 64},
    }
    video = Sam2VideoModel(Sam2VideoConfig(**_sam2_parts(), image_size=SIDE, **sizes))
    video.load_state_dict(Sam2Model.from_pretrained(folder).state_dict(), strict=False)
    video.save_pretrained(target)
    copy(folder / "preprocessor_config.json", target)
    return target


def as_sam3_video(folder: Path, target: Path) -> Path:
    """A tiny tracker of SAM 3 as its published checkpoint holds it: beside a detector that has the vision encoder."""
    target.mkdir()
    tracker = json.loads((folder / "config.json").read_text())
    parts = {
        "tracker_config": {**tracker, "model_type": "sam3_tracker_video"},
        "detector_config": {"model_type": "sam3", "vision_config": tracker["vision_config"]},
    }
    (target / "config.json").write_text(json.dumps({"model_type": "sam3_video", **parts}))
    weights = load_file(folder / "model.safetensors")
    names = {key: key.removeprefix("tracker_model.") for key in weights}
    outside = ("detector_model.", "tracker_neck.")
    moved = {name if name.startswith(outside) else f"tracker_model.{name}": weights[key] for key, name in names.items()}
    surplus = {f"{part}.surplus": torch.zeros(2) for part in ("detector_model", "tracker_model.memory_attention")}
    save_file(moved | surplus, target / "model.safetensors", {"format": "pt"})
    copy(folder / "preprocessor_config.json", target)
    return target


OF_VIDEO = {"sam2_video": ("sam2", as_sam2_video), "sam3_video": ("sam3_tracker", as_sam3_video)}
