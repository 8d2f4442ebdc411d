"""Templates, token ids and stations against SentencePiece itself; pixels and grids against the original's algorithm."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from lab.base.errors import UserError
from lab.stations import check_stations, positions, to_ranges
from llava.checkpoint.parts import load_tokenizer
from llava.conversation import CONVERSATIONS, conversation
from llava.prompt import ImageTokens, build_prompt
from llava.square import ImageGeometry, pixel_values
from tests.llava import tiny_llava
from tests.llava.tiny_llava import MEAN, SIDE, STD, original_ids, original_pixels

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
HELPFUL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, "
    "and assist the user with a variety of tasks using natural language."
)
IMAGE = ImageTokens(token_id=0, count=16)


# templates


@pytest.mark.parametrize(
    ("conv_mode", "expected"),
    [
        ("referseg", f"{HELPFUL}\n<image>\nQ"),
        ("vicuna_v1", f"{HUMAN.replace('human', 'user')} USER: <image>\nQ ASSISTANT:"),
        ("v1", f"{HUMAN.replace('human', 'user')} USER: <image>\nQ ASSISTANT:"),
        ("llava_v1", f"{HUMAN} USER: <image>\nQ ASSISTANT:"),
        ("llava_v0", f"{HUMAN}###Human: <image>\nQ###Assistant:"),
        ("llava_llama_2", f"[INST] <<SYS>>\n{HELPFUL}\n<</SYS>>\n\n<image>\nQ [/INST]"),
        ("mistral_instruct", "[INST] <image>\nQ [/INST]"),
        ("plain", "<image>\nQ\n"),
        ("v0_plain", "<image>\nQ\n"),
        (
            "chatml_direct",
            "<|im_start|>system\nAnswer the "
            "questions.<|im_end|><|im_start|>user\n<image>\nQ<|im_end|><|im_start|>assistant\n",
        ),
        (
            "mpt",
            "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
            "The assistant gives helpful and honest "
            "answers.<|im_end|><|im_start|>user\n<image>\nQ<|im_end|><|im_start|>assistant\n",
        ),
    ],
)
def test_templates_are_the_originals(conv_mode, expected, tokenizer):
    assert build("Q", conv_mode, tokenizer).text == expected


@pytest.mark.parametrize("conv_mode", sorted(CONVERSATIONS))
def test_every_template_has_one_image_and_the_query_as_it_is(conv_mode, tokenizer):
    query = "a {red} 100% {query}"
    text = build(query, conv_mode, tokenizer).text
    assert text.count("<image>") == 1
    assert query in text


def test_unknown_template_lists_the_known():
    with pytest.raises(UserError, match=r"'vicuna'.*llava_v0.*referseg.*vicuna_v1"):
        conversation("vicuna")


# ids

QUERIES = [
    "a bird", "A Bird.", " a bird", "   three  spaces", "a bird ", "two\nlines", "\nnext line", "tab\there",
    "the small dog's collar",
    "100% red", "zebra crossing", "grüner Vogel", "鳥",
    "птица на ветке", "🐦", "a 🐦 on a 🌳", "e\u0301 composed", "USER: a bird ASSISTANT:",
    "###", "a bird " * 20,
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_llava.write_sentencepiece(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def json_tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer_json")
    tiny_llava.write_tokenizer_json(folder)
    return load_tokenizer(folder)


def build(query, conv_mode, tokenizer, **options):
    return build_prompt(query, conv_mode, tokenizer, options.pop("image", IMAGE), **{"context": 1000, **options})


def spelled_out(query: str, conv_mode: str, *, drop_spaces: bool) -> list[int]:
    template = conversation(conv_mode)
    before, after = template.frame.format(system=template.system, query=query).split("<image>")
    first, second = original_ids(before, after, drop_spaces=drop_spaces)
    return [*first, *[0] * 16, *second]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("conv_mode", ["referseg", "vicuna_v1", "llava_v0", "plain"])
def test_ids_follow_the_chunk_wise_rule(tokenizer, json_tokenizer, query, conv_mode):
    expected = spelled_out(query, conv_mode, drop_spaces=conv_mode == "referseg")
    assert list(build(query, conv_mode, tokenizer).ids) == expected
    assert list(build(query, conv_mode, json_tokenizer).ids) == expected


@pytest.mark.parametrize(
    "settings",
    [
        None,
        {},
        {"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": {"__type": "AddedToken", "content": "<s>"}},
    ],
)
def test_settings_that_old_files_leave_out(tmp_path, settings):
    (tmp_path / "tokenizer.model").write_bytes(tiny_llava.sentencepiece_model())
    if settings is not None:
        tiny_llava.write_json(tmp_path / "tokenizer_config.json", settings)
    assert list(build("a bird", "referseg", load_tokenizer(tmp_path)).ids) == spelled_out(
        "a bird", "referseg", drop_spaces=True
    )


def test_tokenizer_json_alone(tmp_path):
    tiny_llava.write_tokenizer_json(tmp_path)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        tiny_llava.write_json(tmp_path / name, {"bos_token": "<s>", "unk_token": "<unk>"})
    assert list(build("a bird", "referseg", load_tokenizer(tmp_path)).ids) == spelled_out(
        "a bird", "referseg", drop_spaces=True
    )


@pytest.mark.parametrize(("conv_mode", "drop"), [("referseg", False), ("vicuna_v1", True)])
def test_dropping_space_tokens_can_be_set(tokenizer, conv_mode, drop):
    query = "a  bird 🐦"
    found = list(build(query, conv_mode, tokenizer, drop_space_tokens=drop).ids)
    assert found == spelled_out(query, conv_mode, drop_spaces=drop)
    assert found != spelled_out(query, conv_mode, drop_spaces=not drop)


@pytest.mark.parametrize("legacy", [None, True, False])
def test_image_marks_surround_the_image(tmp_path, legacy):
    tiny_llava.write_sentencepiece(tmp_path, **({"legacy": legacy} if legacy is not None else {}))
    if legacy is None:  # as in checkpoints from before the setting existed
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        tiny_llava.write_json(tmp_path / "tokenizer_config.json", {k: v for k, v in settings.items() if k != "legacy"})
    marked = load_tokenizer(tmp_path)
    marked.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    start, end = marked.convert_tokens_to_ids(["<im_start>", "<im_end>"])
    found = build("a bird", "vicuna_v1", marked, image=ImageTokens(0, 16, marked=True))
    plain = spelled_out("a bird", "vicuna_v1", drop_spaces=False)
    first = plain.index(0)
    rest = (
        plain[first + 16 :] if legacy in (None, True) else plain[first + 17 :]
    )  # the space that the old way puts after a mark
    assert list(found.ids) == [*plain[:first], start, *[0] * 16, end, *rest]
    assert {first, first + 17} <= set(positions(found.stations, "role"))


@pytest.mark.parametrize("query", ["", "  ", "\n\t"])
def test_empty_queries_are_refused(tokenizer, query):
    with pytest.raises(UserError, match="query is empty"):
        build(query, "referseg", tokenizer)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("a <image> b", "contains <image>"),
        ("a <unk> b", "reserved"),
        ("▁", "Nothing is left"),
        ("a \ud800 b", "half a"),
    ],
)
def test_queries_that_break_the_prompt_are_refused(tokenizer, query, reason):
    with pytest.raises(UserError, match=reason):
        build(query, "referseg", tokenizer)


def test_too_long_queries_are_refused_not_cut(tokenizer):
    exact = len(build("a bird", "referseg", tokenizer).ids)
    assert len(build("a bird", "referseg", tokenizer, context=exact).ids) == exact
    with pytest.raises(UserError, match=f"{exact} tokens, 16 of them for the image, but the model reads {exact - 1}"):
        build("a bird", "referseg", tokenizer, context=exact - 1)


# stations


@pytest.mark.parametrize("query", ["a bird", "two  spaces", "a 🐦 on a tree.", "naïve"])
@pytest.mark.parametrize("conv_mode", ["referseg", "vicuna_v1", "llava_llama_2", "llava_v0"])
def test_stations_hold_their_texts(tokenizer, query, conv_mode):
    found = build(query, conv_mode, tokenizer, drop_space_tokens=False)

    def text(station: str) -> str:
        return tokenizer.decode([found.ids[i] for i in positions(found.stations, station)])

    assert text("query").strip() == query
    assert text("system").strip() == CONVERSATIONS[conv_mode].system
    assert positions(found.stations, "bos") == [0]
    assert [found.ids[i] for i in positions(found.stations, "image")] == [0] * 16


def test_query_station_when_space_tokens_are_dropped(tokenizer):
    found = build("two  spaces", "referseg", tokenizer)
    assert positions(found.stations, "query")[-1] == len(found.ids) - 1


def test_stations_that_do_not_fit_the_ids_are_refused():
    good = {"bos": [[0, 1]], "image": [[1, 3]], "query": [[3, 4]]}
    check_stations(good, [1, 9, 9, 5], 9)
    assert to_ranges(["bos", "image", "image", "query"]) == good
    for bad, reason in [
        ({**good, "query": [[3, 5]]}, "do not cover"),
        ({**good, "system": [[0, 1]]}, "do not cover"),
        ({"bos": [[0, 1]], "image": [[1, 2]], "query": [[2, 4]]}, "not where the ids"),
        ({**good, "sky": []}, "Unknown stations"),
    ]:
        with pytest.raises(UserError, match=reason):
            check_stations(bad, [1, 9, 9, 5], 9)


# pixels and grids


def processor(*, pad: bool) -> LlavaImageProcessorPil:
    size = {"shortest_edge": SIDE}
    return LlavaImageProcessorPil(
        do_pad=pad, size=size, crop_size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD
    )


def geometry(*, pad: bool, start: int = 0) -> ImageGeometry:
    return ImageGeometry(side=4, start=start, pad=pad, resize_to=SIDE, crop_to=SIDE)


SIZES = [(28, 28), (50, 50), (61, 30), (30, 61), (100, 33), (7, 20), (20, 7), (1, 1), (1, 40)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pad", [True, False])
def test_pixels_are_exactly_the_originals(size, pad):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    found = pixel_values(image, processor(pad=pad), geometry(pad=pad))
    assert found.dtype == torch.float32
    assert torch.equal(found, original_pixels(image, pad=pad))


@pytest.mark.parametrize("size", [(80, 80), (160, 60), (60, 160), (101, 37)])
@pytest.mark.parametrize("pad", [True, False])
def test_each_cell_covers_the_pixels_that_it_came_from(size, pad):
    geo = geometry(pad=pad)
    grid = geo.grid(size)
    x0, y0, x1, y1 = grid.extent_xyxy
    width, height = (x1 - x0) / grid.cols, (y1 - y0) / grid.rows
    seen = 0
    for row in range(grid.rows):
        for col in range(grid.cols):
            box = [x0 + col * width, y0 + row * height, x0 + (col + 1) * width, y0 + (row + 1) * height]
            inside = [
                max(0, round(box[0])),
                max(0, round(box[1])),
                min(size[0], round(box[2])),
                min(size[1], round(box[3])),
            ]
            if inside[2] - inside[0] < width / 2 or inside[3] - inside[1] < height / 2:
                continue  # mostly padding
            image = Image.new("RGB", size, "black")
            image.paste("white", inside)
            values = (
                pixel_values(image, processor(pad=pad), geo)[0, 0].reshape(4, 7, 4, 7).mean((1, 3))
            )  # [row, y, col, x] -> [row, col]
            assert divmod(int(values.argmax()), 4) == (row, col)
            seen += 1
    assert seen >= 4


def test_extents():
    assert geometry(pad=True).grid((300, 500)).extent_xyxy == (-100, 0, 400, 500)
    assert geometry(pad=True, start=1).grid((500, 300)).start == 1
    assert geometry(pad=False).grid((500, 300)).extent_xyxy == pytest.approx(
        (100, 0, 400, 300), abs=6
    )  # whole pixels of the resized picture


def test_cropping_needs_a_reasonable_shape():
    with pytest.raises(UserError, match="image_aspect_ratio=pad"):
        pixel_values(Image.new("RGB", (1000, 10)), processor(pad=False), geometry(pad=False))
