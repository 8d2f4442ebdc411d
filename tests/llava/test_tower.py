"""Layers of a vision tower that nothing reads."""

from types import SimpleNamespace

import pytest

from llava.checkpoint.tower import drop_unread_layers


@pytest.mark.parametrize("key", ["vision_feature_layer", "vision_feature_layers"])
@pytest.mark.parametrize(("asked", "left", "told"), [([-2, 1], 3, [3, 1]), ([1], 1, [1]), (-1, 4, -1)])
def test_layers_behind_the_last_one_that_is_read_go(key, asked, left, told):
    encoder = SimpleNamespace(layers=list(range(4)))
    vision = SimpleNamespace(model_type="clip_vision_model", num_hidden_layers=4)
    model = SimpleNamespace(
        config=SimpleNamespace(vision_config=vision, **{key: asked}),
        model=SimpleNamespace(vision_tower=SimpleNamespace(encoder=encoder)),
    )
    drop_unread_layers(model)
    assert (len(encoder.layers), vision.num_hidden_layers) == (left, left)
    assert getattr(model.config, key) == told
