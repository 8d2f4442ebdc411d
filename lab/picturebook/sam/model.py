"""The untrained SAM in miniature and its processor, in the standard transformers layout."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel, SamConfig, SamModel, SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from lab.picturebook.model import MEAN, STD

IMAGE_SIZE = 256
PATCH_SIZE = 16
GRID = IMAGE_SIZE // PATCH_SIZE  # cells of the image embedding along a side
MASK_SIZE = 4 * GRID  # of the masks that come out, and of a mask that is put in
WIDTH = 64  # of the embedding and of the decoder


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


@torch.no_grad()
def start_tower(sam: SamModel, clip: CLIPVisionModel, pixels: Tensor) -> None:
    """Puts the picture-book model's tower into SAM's: both have five layers of 128 and 16 x 16 patches.

    A patch shows the same part of a picture, only finer. SAM has no class token, which is left out, and no norm before
    its layers: that becomes part of the patches and positions, with the mean spread of some `pixels`, float
    [B, 3, S, S], in the place of each token's own.
    """
    tower, norm = sam.vision_encoder, clip.pre_layrnorm
    kernel = F.interpolate(clip.embeddings.patch_embedding.weight, (PATCH_SIZE, PATCH_SIZE), mode="bilinear")
    kernel = kernel * (clip.embeddings.patch_embedding.weight[0, 0].numel() / PATCH_SIZE**2)
    positions = clip.embeddings.position_embedding.weight[1:].reshape(1, GRID, GRID, -1)
    tokens = F.conv2d(pixels, kernel, stride=PATCH_SIZE).permute(0, 2, 3, 1) + positions  # [B, G, G, D]
    scale = norm.weight / tokens.std(-1).mean()
    tower.patch_embed.projection.weight.copy_((kernel - kernel.mean(0)) * scale[:, None, None, None])
    tower.patch_embed.projection.bias.zero_()
    tower.pos_embed.copy_((positions - positions.mean(-1, keepdim=True)) * scale + norm.bias)
    for own, other in zip(tower.layers, clip.encoder.layers, strict=True):
        own.layer_norm1.load_state_dict(other.layer_norm1.state_dict())
        own.layer_norm2.load_state_dict(other.layer_norm2.state_dict())
        own.attn.proj.load_state_dict(other.self_attn.out_proj.state_dict())
        own.mlp.lin1.load_state_dict(other.mlp.fc1.state_dict())
        own.mlp.lin2.load_state_dict(other.mlp.fc2.state_dict())
        parts = [getattr(other.self_attn, f"{name}_proj") for name in "qkv"]
        own.attn.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
        own.attn.qkv.bias.copy_(torch.cat([part.bias for part in parts]))


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
