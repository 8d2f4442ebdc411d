"""What the families with a processor of their own say to their users: options, prompts, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from collector import collect
from conf.schema import ModelConfig, as_dict
from lab.base.errors import UserError
from llava.families import FAMILIES, REFUSED
from llava.model.builder import load_model
from tests.conftest import configuration
from tests.llava.tiny_chat import CHAT_FAMILIES, Tiny, paligemma
from tests.llava.tiny_llava import write_json

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 192, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny checkpoints, each written when it is first asked for."""
    written = {}

    def folder(name: str) -> str:
        if name not in written:
            written[name] = CHAT_FAMILIES[name](tmp_path_factory.mktemp("chat") / "tiny")
        return str(written[name])

    return folder


def load(folder: str, **options):
    return load_model(folder, device="cpu", **options)


@pytest.mark.parametrize(
    ("name", "options", "grids"),
    [
        ("qwen2_vl", {"max_pixels": 9216}, [(8, 16)]),  # 192 x 96 pixels are too many
        ("qwen3_vl", {"size": {"shortest_edge": 4096, "longest_edge": 9216}}, [(8, 16)]),
        ("internvl", {"max_patches": 1}, [(8, 8)]),
        ("internvl", {"crop_to_patches": False}, [(8, 8)]),
        ("idefics3", {"do_image_splitting": False}, [(8, 8)]),
        ("smolvlm", {"do_image_splitting": False}, [(8, 8)]),
        ("ovis2", {"max_patches": 2, "use_covering_area_grid": False}, [(8, 8)] * 3),
        ("gemma3", {"do_pan_and_scan": True}, [(8, 8)] * 3),
        ("pixtral", {"size": {"longest_edge": 96}}, [(6, 12)]),
    ],
)
def test_options_of_the_image_processor_take_the_place_of_its_own(folders, name, options, grids):
    loaded = load(folders(name), image_processor=options)
    found = loaded.family.picture(IMAGE).grids
    assert [(grid.rows, grid.cols) for grid in found] == grids
    assert [(grid.rows, grid.cols) for grid in load(folders(name)).family.picture(IMAGE).grids] != grids


def test_options_are_typed_on_the_command_line():
    cfg = configuration("model=qwen2_5_vl_7b", "model.image_processor={max_pixels: 1003520, size: {longest_edge: 5}}")
    assert as_dict(cfg)["model"]["image_processor"] == {"max_pixels": 1003520, "size": {"longest_edge": 5}}
    with pytest.raises(UserError, match="must be options and values"):
        configuration("model.image_processor=5")
    for question in ("where", "{query} or {query}"):
        with pytest.raises(UserError, match=r"must hold \{query\}, .* once"):
            ModelConfig(name="a/b", question=question)


def test_an_unknown_option_is_refused_with_those_that_exist(folders):
    with pytest.raises(UserError, match=r"takes no max_pixel here; it takes min_pixels, max_pixels, size"):
        load(folders("qwen2_vl"), image_processor={"max_pixel": 1})


@pytest.mark.parametrize("options", [{"image_aspect_ratio": "pad"}, {"base": "a/b"}])
def test_options_of_llava_are_refused(folders, options):
    with pytest.raises(UserError, match=r"model\.(image_aspect_ratio|base)"):
        load(folders("qwen2_vl"), **options)


# prompts


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "deepseek_vl", "llava_onevision"])
def test_the_prompt_is_that_of_the_checkpoints_own_template(folders, name):
    loaded = load(folders(name))
    prompt = loaded.family.prompt("a bird", loaded.family.picture(IMAGE))
    content = [{"type": "image"}, {"type": "text", "text": "a bird"}]
    turn = {"role": "user", "content": content}
    assert prompt.text == loaded.image_processor.apply_chat_template([turn], add_generation_prompt=True)
    told = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, turn]
    prompt = loaded.family.prompt("a bird", loaded.family.picture(IMAGE), system="Be brief.")
    assert prompt.text == loaded.image_processor.apply_chat_template(told, add_generation_prompt=True)
    assert text_of(loaded, prompt, "system") == "Be brief."


def text_of(loaded, prompt, station: str) -> str:
    return loaded.tokenizer.decode([prompt.ids[i] for a, b in prompt.stations[station] for i in range(a, b)])


@pytest.mark.parametrize("name", CHAT_FAMILIES)
def test_the_expression_is_known_by_its_letters(folders, name):
    loaded = load(folders(name))
    query = "a Bird'S nést {in} <b> 鳥"
    prompt = loaded.family.prompt(query, loaded.family.picture(IMAGE), question="Where is {query}, {please}?")
    assert text_of(loaded, prompt, "query") == query
    assert f"Where is {query}, {{please}}?" in prompt.text
    for start, end in prompt.query_spans.values():
        assert 0 <= start < end <= len(query)


def test_a_system_text_is_where_the_template_has_it(folders):
    loaded = load(folders("qwen2_vl"))
    picture = loaded.family.picture(IMAGE)
    for system in ("im", "user", "a bird"):
        prompt = loaded.family.prompt("a bird", picture, system=system)
        assert text_of(loaded, prompt, "system") == system
        assert text_of(loaded, prompt, "query") == "a bird"
    assert "<|im_start|>system\n<|im_end|>" in loaded.family.prompt("a bird", picture, system="").text
    assert text_of(loaded, loaded.family.prompt("a bird", picture, "vicuna_v1"), "system").startswith("A chat between")


@pytest.mark.parametrize("words", [{"question": "{query} <image>"}, {"system": "<|image_pad|>"}])
def test_what_stands_around_the_query_holds_no_placeholder(folders, words):
    loaded = load(folders("qwen2_vl"))
    (key,) = words
    with pytest.raises(UserError, match=rf"model\.{key} contains"):
        loaded.family.prompt("a bird", loaded.family.picture(IMAGE), **words)


@pytest.mark.parametrize("options", [{"do_resize": False}, {"resize": 1}])
def test_options_that_the_weights_cannot_take_are_refused(folders, options):
    with pytest.raises(UserError, match="this family takes none"):
        load(folders("vipllava"), image_processor=options)


def test_an_open_turn_ends_with_the_expression(folders):
    loaded = load(folders("qwen2_vl"))
    prompt = loaded.family.prompt("a bird", loaded.family.picture(IMAGE), "chat_open")
    assert prompt.stations["query"][-1][1] == len(prompt.ids)


def test_a_template_of_llava_may_ask_another_family(folders):
    loaded = load(folders("qwen2_vl"))
    prompt = loaded.family.prompt("a bird", loaded.family.picture(IMAGE), "plain")
    assert prompt.text == "<|image_pad|>\na bird\n"


def test_question_and_system_are_kept_in_the_record(folders):
    config = ModelConfig(question="Where is {query}?", system="Be brief.")
    meta = collect(load(folders("qwen2_vl")), IMAGE, "a bird", config).meta
    assert (meta["question"], meta["system"], meta["conv_mode"]) == ("Where is {query}?", "Be brief.", "chat")
    assert "Where is a bird?" in meta["prompt"]
    assert "Be brief." in meta["prompt"]


@pytest.mark.parametrize("query", ["", "a <|image_pad|>", "<image> a cat", "\u2060query\u2060"])
def test_queries_that_are_refused(folders, query):
    loaded = load(folders("qwen2_vl"))
    with pytest.raises(UserError, match="query"):
        loaded.family.prompt(query, loaded.family.picture(IMAGE))


def test_options_of_prompts_that_have_no_place(folders, tmp_path):
    loaded = load(folders("qwen2_vl"))
    with pytest.raises(UserError, match="drop_space_tokens"):
        loaded.family.prompt("a bird", loaded.family.picture(IMAGE), drop_space_tokens=True)
    without = load(str(paligemma("gemma")(tmp_path / "tiny")))
    with pytest.raises(UserError, match="no chat template"):
        without.family.prompt("a bird", without.family.picture(IMAGE), system="Be brief.")
    with pytest.raises(UserError, match="No prompt template 'chit'"):
        loaded.family.prompt("a bird", loaded.family.picture(IMAGE), "chit")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0].content[1].text }}", "leaves the picture or the expression out"),
        ("IMAGE {{ nothing.at.all }}", "cannot be filled in"),
        ("IMAGE {{ ''.__class__.__mro__ }}", "cannot be filled in"),  # jinja2's sandbox
    ],
)
def test_a_chat_template_that_cannot_be_used(tmp_path, template, reason):
    tiny: Tiny = CHAT_FAMILIES["qwen2_vl"]
    folder = tiny(tmp_path / "tiny")
    (folder / "chat_template.jinja").write_text(template.replace("IMAGE", tiny.image_token))
    loaded = load(str(folder))
    with pytest.raises(UserError, match=reason):
        loaded.family.prompt("a bird", loaded.family.picture(IMAGE))


# what is refused


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_place_in_the_picture_is_refused_by_name(tmp_path, kind):
    write_json(tmp_path / "config.json", {"model_type": kind})
    with pytest.raises(UserError, match="cannot be asked where it looks"):
        load(str(tmp_path))


def test_an_unknown_family_gets_the_known_ones_and_how_to_add_it(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(UserError) as refused:
        load(str(tmp_path))
    assert all(kind in str(refused.value) for kind in FAMILIES)
    assert "llava/README.md" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("preprocessor_config.json", None, "load image processor"),
        ("tokenizer.json", None, "token"),
        ("preprocessor_config.json", "{", "preprocessor_config.json"),
        ("processor_config.json", '{"processor_class": "os"}', "'os'"),
        ("model.safetensors", "", "model.safetensors"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path, name, damage, reason):
    folder = CHAT_FAMILIES["internvl"](tmp_path / "tiny")
    (folder / name).unlink()
    if damage is not None:
        (folder / name).write_text(damage)
    with pytest.raises(UserError, match=reason) as refused:
        load(str(folder))
    assert "\n" not in str(refused.value)


def test_a_picture_that_the_processor_refuses_is_one_line(folders):
    loaded = load(folders("qwen2_vl"))
    with pytest.raises(UserError, match="1000 x 3 pixels cannot be prepared"):
        loaded.family.picture(Image.new("RGB", (1000, 3)))


def test_a_processor_that_needs_an_absent_package_is_one_line(folders, monkeypatch):
    class Lazy:
        """Imports what is asked for, as transformers does."""

        def __getattr__(self, name: str) -> None:
            try:
                raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision.transforms")
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(f"Could not import module {name}") from error

    monkeypatch.setattr("llava.checkpoint.processor.transformers", Lazy())
    with pytest.raises(UserError, match=r"InternVLProcessor needs torchvision.*: pip install") as refused:
        load(folders("internvl"))
    assert "\n" not in str(refused.value)
