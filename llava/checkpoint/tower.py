"""CLIP vision towers: what is checked of them, and what need not be computed."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lab.base.errors import UserError

READ = ("vision_feature_layer", "vision_feature_layers")  # the latter alone has ViP-LLaVA in transformers before 5.21


def check_clip(name: str, config: Any) -> None:
    """Raises UserError unless the checkpoint's vision tower is a CLIP."""
    kind = config.vision_config.model_type
    if kind != "clip_vision_model":
        raise UserError(
            f"{name} has a vision tower of the kind {kind}; only CLIP towers (clip_vision_model) are supported"
        )


def tower_side(config: Any, source: Path) -> int:
    """Image tokens along each side of what the tower sees.

    Raises UserError if its pixels are no whole number of patches, or if features of a layer that it lacks are asked
    for.
    """
    vision = config.vision_config
    if vision.image_size % vision.patch_size:
        raise UserError(
            f"{source}: {vision.image_size} pixels are no whole number of {vision.patch_size}-pixel patches"
        )
    layers, layer = vision.num_hidden_layers, config.vision_feature_layer
    if not all(-layers - 1 <= one <= layers for one in (layer if isinstance(layer, list) else [layer])):
        raise UserError(f"{source}: the vision tower has {layers} layers, but features of layer {layer} are asked for")
    return vision.image_size // vision.patch_size


def drop_unread_layers(model: PreTrainedModel) -> None:
    """Takes a CLIP tower's layers behind the last one that features are taken from out of the model.

    They cannot change anything.

    LLaVA-1.5 takes them from the last layer but one. The configuration then counts the layers that are left, and the
    features' from the front.
    """
    config = model.config
    vision: Any = getattr(config, "vision_config", None)
    if getattr(vision, "model_type", None) != "clip_vision_model":
        return
    key = next(name for name in READ if hasattr(config, name))
    layers, asked = vision.num_hidden_layers, getattr(config, key)
    from_front = [
        layer if layer >= 0 else layers + 1 + layer for layer in (asked if isinstance(asked, list) else [asked])
    ]
    left = max(1, *from_front)
    if left < layers:
        encoder = model.model.vision_tower.encoder
        encoder.layers = encoder.layers[:left]
        vision.num_hidden_layers = left
        setattr(config, key, from_front if isinstance(asked, list) else from_front[0])
