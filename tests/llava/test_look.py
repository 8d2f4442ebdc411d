"""What the command tells and draws of one picture."""

import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lab.base.errors import UserError
from llava.family import Picture
from llava.grid import Grid
from llava.layers import seen_tokens
from llava.model.builder import load_model, main
from llava.model.cells import drawn, figure_kind
from llava.model.look import grids, segments, size, spans, written
from llava.prompt import Prompt
from tests.llava.tiny_chat import CHAT_FAMILIES
from tests.llava.tiny_families import write_llava


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_llava(tmp_path_factory.mktemp("look") / "tiny")


def test_the_picture_and_the_expression_that_are_named_are_those_looked_at(folder, tmp_path, capsys):
    Image.new("RGB", (61, 30)).save(tmp_path / "a.png")
    asked = ["--image", str(tmp_path / "a.png"), "--query", "a bird", "--conv-mode", "vicuna_v1"]
    main([str(folder), "--device", "cpu", *asked, "--draw", str(tmp_path / "cells.svg")])
    told = capsys.readouterr().out
    assert "61 x 30 pixels" in told
    assert "over 0, -15 to 61, 46" in told  # padded to a square
    assert "[image: 64 tokens]" in told
    assert "USER: " in told
    assert "whole, 8 x 8: tokens 0 to 63" in (tmp_path / "cells.svg").read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--draw", "cells.txt"], "expected a name that ends in .png, .pdf, .svg"),
        (["--image", "nothing.png"], "No such image"),
        (["--query", " "], "The query is empty"),
        (["--conv-mode", "nothing"], "nothing"),
    ],
)
def test_wrong_wishes_are_one_line(folder, options, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        main([str(folder), "--device", "cpu", *options])


def test_cells_are_drawn_where_they_lie():
    blank = Image.new("RGB", (120, 60), "white")
    right = Grid(0, 1, 1, (60.0, 0.0, 120.0, 60.0), kind="tile")
    figure = np.asarray(Image.open(io.BytesIO(drawn(blank, Picture({}, 1, (right,))))).convert("RGB")).astype(int)
    figure = figure[: int(0.8 * len(figure))]  # without the legend
    coloured = (figure[..., 0] - figure[..., 2] > 60).any(0).nonzero()[0]
    assert coloured.min() == pytest.approx(figure.shape[1] / 2, abs=8)


def test_a_file_of_another_kind_is_refused():
    assert figure_kind("A.PNG") == "png"
    with pytest.raises(UserError, match="expected a name"):
        figure_kind("cells")


def test_the_prompt_is_marked_by_colours_or_by_names(tmp_path):
    loaded = load_model(str(CHAT_FAMILIES["pixtral"](tmp_path / "tiny")), device="cpu")
    picture = loaded.family.picture(Image.new("RGB", (64, 32)))
    prompt = loaded.family.prompt("the cup", picture)
    parts = segments(loaded, prompt)
    assert ("query", "the cup") in parts
    assert ("image", f"{picture.tokens} tokens, {picture.grids[0].rows - 1} others between") in parts
    assert "\033[1;32mthe cup\033[0m" in written(loaded, prompt, colour=True)
    assert "[query: the cup][role: \\nAssistant:]" in written(loaded, prompt)


def test_many_grids_of_one_shape_are_told_together():
    tiles = [Grid(n * 4, 2, 2, (n * 10.0, 0.0, n * 10.0 + 10, 9.5), kind="tile") for n in range(6)]
    assert grids([*tiles, Grid(24, 2, 2, (0.0, 0.0, 60.0, 9.5))]) == [
        "6 times 2 x 2, tile, from token 0, the first over 0, 0 to 10, 9.5, the last over 50, 0 to 60, 9.5",
        "2 x 2, whole, from token 24, over 0, 0 to 60, 9.5",
    ]


def test_numbers_in_words():
    assert spans([0, 1, 2, 4, 6, 7]) == "0-2, 4, 6-7"
    assert [size(count) for count in (512, 1_180_000, 13_520_000_000)] == ["512 bytes", "1.2 MB", "14 GB"]


def test_a_chunk_and_layers_without_a_map():
    prompt = Prompt(tuple(range(100)), {"role": [[0, 10], [90, 100]], "image": [[10, 90]]})
    text = SimpleNamespace(
        layer_types=["chunked_attention", "sliding_attention", "linear_attention", "full_attention"],
        attention_chunk_size=64, sliding_window=30,
    )  # fmt: skip
    assert seen_tokens(text, prompt) == {
        "chunked_attention": 26, "sliding_attention": 20, "linear_attention": 0, "full_attention": 80
    }  # fmt: skip
