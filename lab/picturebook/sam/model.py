"""The untrained SAM in miniature and its processor, in the standard transformers layout."""

from pathlib import Path

import torch
from torch import nn
from transformers import SamConfig, SamModel, SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

IMAGE_SIZE = 256
PATCH_SIZE = 16
GRID = IMAGE_SIZE // PATCH_SIZE  # cells of the image embedding along a side
MASK_SIZE = 4 * GRID  # of the masks that come out, and of a mask that is put in
WIDTH = 64  # of the embedding and of the decoder
MEAN = (0.485, 0.456, 0.406)  # those of SAM
STD = (0.229, 0.224, 0.225)


def make_sam(*, seed: int) -> SamModel:
    """Random weights: a tower of five layers that see the whole picture, and SAM's own decoder of two layers.

    transformers makes the positional embedding with a scale of half the tower's width. Neighbouring points then look
    unrelated, and a model that starts from nothing never learns what a box is: the scale here is 1. It also makes the
    tower's matrices all but zero (a range of 1e-10, meant for weights that are loaded).
    """
    config = SamConfig(
        vision_config={
            "hidden_size": 128,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "output_channels": WIDTH,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "window_size": 0,
            "global_attn_indexes": [0, 1, 2, 3, 4],
            "num_pos_feats": WIDTH // 2,
            "initializer_range": 0.02,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
        mask_decoder_config={
            "hidden_size": WIDTH,
            "mlp_dim": 4 * WIDTH,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": WIDTH,
        },
    )
    torch.manual_seed(seed)
    model = SamModel(config)
    positions = model.shared_image_embedding.positional_embedding
    nn.init.normal_(positions, std=1.0)
    positions.requires_grad_(False)
    return model


def make_processor() -> SamProcessor:
    """Resizes the longer side to `IMAGE_SIZE`, normalises, and pads below and to the right, as SAM's own does."""
    image_processor = SamImageProcessorPil(
        size={"longest_edge": IMAGE_SIZE},
        mask_size={"longest_edge": MASK_SIZE},
        pad_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        mask_pad_size={"height": MASK_SIZE, "width": MASK_SIZE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return SamProcessor(image_processor)


def save(model: SamModel, folder: Path) -> None:
    """Writes the model (float16 safetensors) and its processor as `from_pretrained` reads them."""
    model.to(torch.float16).save_pretrained(folder)
    make_processor().save_pretrained(folder)
