"""The table by family: checkpoints of the shapes that are told, and every way on them."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from lab.bench import families
from llava.model.builder import load_model

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def small(name: str) -> families.Kind:
    """The kind with a language model of next to nothing, and so as many image tokens."""
    kind = families.KINDS[name]
    config = json.loads(json.dumps(kind.config))  # a copy
    config["text_config"] |= SMALL
    vision = config["vision_config"]
    if "out_hidden_size" in vision:
        vision["out_hidden_size"] = 32
        config["text_config"]["rope_parameters"]["mrope_section"] = [2, 1, 1]
    vision |= {key: 2 for key in ("depth", "num_hidden_layers") if key in vision}
    return replace(kind, config=config)


@pytest.mark.parametrize(("name", "tokens"), [("Qwen2.5-VL", 391), ("InternVL3, 6 tiles", 1792), ("LLaVA-NeXT", 2340)])
def test_the_checkpoints_are_loaded_as_any_other(tmp_path, name, tokens):
    families.write_checkpoint(tmp_path, small(name))
    loaded = load_model(str(tmp_path), device="cpu")
    assert loaded.family.picture(Image.new("RGB", (640, 480))).tokens == tokens


def test_every_way_is_timed_and_compared_with_stock(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "peak_memory", lambda run, _device: (run() or 1, 1))  # tested for itself
    tokens, found = families.measure(tmp_path, small("Qwen2.5-VL"), 1)
    assert tokens == 391
    assert len(found) == 8
    assert all(one.seconds > 0 and one.peak_bytes > 0 for one in found.values())
    lines = {line[0]: line[1:] for line in families.rows(found)}
    assert lines[families.STOCK][1::2] == ("1.0", "1.000")
    faster = found[families.STOCK].seconds / found["fused, 7"].seconds
    assert lines["fused, 7"][1] == f"{faster:.1f}"
