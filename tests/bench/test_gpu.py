"""The script for one GPU, tried on the CPU with a small shape."""

import pytest
import torch
from numpy.testing import assert_allclose

from collector import ask, prepare
from lab import smoke
from lab.attention.capture import use_attention
from lab.base.images import open_image
from lab.bench import collecting
from lab.bench.gpu import __main__ as script
from lab.bench.gpu import shapes, ways

CPU = torch.device("cpu")


@pytest.fixture
def _tiny(monkeypatch):
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 512,
    }
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setitem(smoke.SIZES, "tiny", (text, vision))
    monkeypatch.setattr(shapes, "SMALL", "tiny")
    monkeypatch.setitem(shapes.SHAPES, "tiny", shapes._llava("tiny"))
    few = {"text_config": {"num_hidden_layers": 2}, "vision_config": {"depth": 2, "fullatt_block_indexes": [1]}}
    monkeypatch.setitem(shapes.SHAPES, "tiny Qwen", shapes._qwen25_vl(few))
    monkeypatch.setattr(ways, "LEAST", 0.0)
    monkeypatch.setattr(ways, "MOST_PICTURES", 2)


@pytest.mark.usefixtures("_tiny")
def test_every_way_is_measured_at_one_and_seven_expressions_and_the_tables_hold_all(tmp_path, capsys):
    report = script.bench("tiny", CPU, 600, tmp_path)
    measured = {(one["way"], one["expressions"], one["pictures"]) for one in report["forwards"]}
    ours = {(way, number, pictures) for way in ("eager", "fused") for number in (1, 7) for pictures in (1, 2)}
    assert measured == ours | {("stock", 1, 1), ("stock", 7, 1)}
    assert all(one["samples_per_second"] > 0 and one["share"] > 0 for one in report["forwards"])
    assert list(report["to files"]) == ["fused, auto x 1", "eager, auto x 1", "fused, auto x 7", "eager, auto x 7"]
    printed = capsys.readouterr().out
    assert "TFLOP/s" in printed
    assert all(name in printed for name in report["to files"])


@pytest.mark.usefixtures("_tiny")
def test_nothing_is_begun_when_the_seconds_are_over(tmp_path, capsys):
    report = script.bench("tiny", CPU, 0, tmp_path)
    assert report["forwards"] == []
    assert report["to files"] == {}
    assert "was not begun: 0 seconds would not have sufficed" in capsys.readouterr().out


def test_the_large_shape_of_qwen_is_that_of_its_7b(tmp_path):
    shape = shapes.SHAPES["qwen2.5-vl-7b"]
    shape.write_small(tmp_path)
    with torch.device("meta"):
        model = shape.model._from_config(shape.config(tmp_path))
    assert sum(one.numel() for one in model.parameters()) == 8_292_166_656  # 8.29 billion, as published


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("shape", ["tiny", "tiny Qwen"])
def test_all_ways_give_the_same_rows(tmp_path, shape):
    loaded = shapes.build(shapes.SHAPES[shape], CPU, torch.float32)
    question = prepare(loaded, open_image(collecting.write_images(tmp_path, 1)[0]), ["the bird"])
    expected = collecting.stock_row(loaded, question)
    for way in ("eager", "fused"):
        use_attention(loaded.model, way)
        assert_allclose(ask(loaded, [question]).of(0)[0].attn, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("_tiny")
def test_memory_that_does_not_suffice_ends_a_way(monkeypatch, tmp_path):
    def refuse(*_):
        raise torch.OutOfMemoryError("full")

    loaded = shapes.build(shapes.SHAPES["tiny"], CPU, torch.float32)
    monkeypatch.setattr(ways, "ask", refuse)
    picture = collecting.write_images(tmp_path, 1)[0]
    assert [one.way for one in ways.forwards(loaded, picture, ways.Budget(600))] == ["stock", "stock"]


@pytest.mark.usefixtures("_tiny")
def test_every_way_is_measured_at_one_picture_before_any_at_more(tmp_path):
    loaded = shapes.build(shapes.SHAPES["tiny"], CPU, torch.float32)
    picture = collecting.write_images(tmp_path, 1)[0]
    order = [(one.pictures, one.expressions, one.way) for one in ways.forwards(loaded, picture, ways.Budget(600))]
    assert order[:6] == [(1, number, way) for number in (1, 7) for way in ("stock", "fused", "eager")]
    assert order[6:] == [(2, number, way) for number in (1, 7) for way in ("fused", "eager")]


class Clock:
    """A time that passes only as the work says."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_what_would_not_fit_is_not_begun(monkeypatch):
    clock, begun = Clock(), []

    def forward(_loaded, way, number, pictures, *_):
        begun.append((way, number, pictures))
        clock.now += number * pictures
        return ways.Forward(way, number, pictures, 1.0, None, 1.0)

    monkeypatch.setattr(ways.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(ways, "_questions", lambda *_: None)
    monkeypatch.setattr(ways, "_forward", forward)
    budget = ways.Budget(40)
    list(ways.forwards(None, None, budget))
    assert begun == [
        *[(way, 1, 1) for way in ways.WAYS], *[(way, 7, 1) for way in ways.WAYS],
        ("fused", 1, 2), ("eager", 1, 2), ("fused", 1, 4), ("eager", 1, 4),
    ]  # fmt: skip
    assert clock.now <= 40
    assert budget.short
