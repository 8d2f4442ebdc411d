"""What visitors ask for: pictures that are taken or refused, records that are kept, heads that are knocked out."""

import json
import shlex
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from conf.schema import configuration, free_text
from lab.api import load
from lab.app.desk import FOLDER, MOST_BYTES, places_of_words
from lab.app.files import write_files
from lab.app.kept import Kept
from lab.app.knock_out import CHOSEN, OTHERS, WAYS, head_sets
from lab.app.state import RANKED, RULES, Side, State, command
from lab.app.visit import Handlers, Visit
from lab.base.arguments import hydra_arguments
from lab.base.errors import UserError
from lab.records.files import load_record
from pipeline import run

BIRD = State("bird.png", (Side("the bird on the branch"),))
VALUES = {"expression": "the bird", "compare": False, "second": "", "which": 0, "heads": "own", "way": "zero"}


@pytest.fixture
def handlers(desk, tmp_path):
    return Handlers(desk, tmp_path)


# pictures


def test_a_picture_is_taken_under_a_key_that_its_content_and_name_give(desk, tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (60, 40), "red").save(path)
    key = desk.take(path, "photo.jpg")
    assert desk.take(path, "photo.jpg") == key
    assert desk.picture(key).image.size == (60, 40)
    assert desk.file_of(key) == "photo.jpg"
    assert len(key) == 32


def test_every_visitor_sees_the_own_picture_under_its_own_name(handlers, tmp_path):
    def dropped(colour: str, name: str) -> State:
        path = tmp_path / "upload.png"
        Image.new("RGB", (60, 40), colour).save(path)
        return handlers.dropped(Visit(None, VALUES, {"path": str(path), "name": name}))["state"]

    states = [dropped("red", "mine.png"), dropped("red", "\ud800 yours.png"), dropped("blue", "mine.png")]
    assert len({state.picture for state in states}) == 3
    desk = handlers.desk
    assert [desk.file_of(state.picture) for state in states] == ["mine.png", "\ud800 yours.png", "mine.png"]
    seen = [desk.picture(state.picture).image.getpixel((0, 0)) for state in states]
    assert seen == [(255, 0, 0), (255, 0, 0), (0, 0, 255)]


def test_who_brings_the_same_picture_at_the_same_moment_has_it_too(desk, tmp_path):
    path = tmp_path / "same.png"  # for both: gradio names a file by its content
    Image.new("RGB", (60, 40), "green").save(path)
    key = desk.take(path, "same.png")
    path.unlink()
    assert desk.take(path, "same.png") == key
    with pytest.raises(UserError, match=r"other\.png did not arrive: choose it again"):
        desk.take(path, "other.png")


def test_a_picture_is_there_once_it_was_read_whatever_becomes_of_its_file(desk, tmp_path, monkeypatch):
    def read_and_removed(path: Path, most: int) -> bytes:
        content = path.read_bytes()
        path.unlink()  # by another visitor, who brought the same
        return content

    monkeypatch.setattr("lab.app.desk.read_regular", read_and_removed)
    path = tmp_path / "same.png"
    Image.new("RGB", (61, 40), "green").save(path)
    assert desk.picture(desk.take(path, "same.png")).image.size == (61, 40)


def test_what_is_no_picture_or_too_large_is_refused_by_its_own_name(desk, tmp_path):
    path = tmp_path / "abc123"
    path.write_text("hello")
    with pytest.raises(UserError, match=r"The image notes\.png cannot be read: not an image") as caught:
        desk.take(path, "notes.png")
    assert str(tmp_path) not in str(caught.value)
    Image.new("L", (8000, 6000)).save(path, format="png")
    with pytest.raises(UserError, match=r"wide\.png has 8,000 x 6,000 pixels; choose a picture of at most 40 million"):
        desk.take(path, "wide.png")
    with pytest.raises(UserError, match=r"gone\.png did not arrive: choose it again"):
        desk.take(tmp_path / "gone", "gone.png")
    with path.open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)
    with pytest.raises(UserError, match=r"heavy\.png is larger than 25 MB"):
        desk.take(path, "heavy.png")


def test_only_pictures_that_were_uploaded_are_read(handlers, tmp_path):
    for path in (FOLDER / "bird.png", tmp_path / ".." / "bird.png", "/etc/passwd"):
        with pytest.raises(UserError, match="Only pictures that were uploaded here are read"):
            handlers.dropped(Visit(BIRD, VALUES, {"path": str(path), "name": "bird.png"}))
    assert (FOLDER / "bird.png").exists()


def test_an_upload_leaves_no_file_behind(handlers, desk, tmp_path):
    path = tmp_path / "upload.png"
    Image.open(FOLDER / "cat.png").save(path)
    changed = handlers.dropped(Visit(BIRD, VALUES, {"path": str(path), "name": "../my cat.png"}))
    assert desk.file_of(changed["state"].picture) == "my cat.png"
    assert not path.exists()


def test_a_picture_stays_when_it_comes_before_the_text(handlers, desk, tmp_path):
    path = tmp_path / "upload.png"
    Image.open(FOLDER / "cat.png").resize((320, 240)).save(path)
    silent = VALUES | {"expression": " "}
    changed = handlers.dropped(Visit(BIRD, silent, {"path": str(path), "name": "mine.png"}))
    assert "Type what to look for" in changed["message"]
    assert (changed["results"], changed["grid"], changed["take"]) == ("", "", "")  # those of the bird go
    assert "data-photo" in changed["photo"]
    state = changed["state"]
    assert desk.file_of(state.picture) == "mine.png"
    assert handlers.read(Visit(state, silent)) == {}
    with pytest.raises(UserError, match="Ask the model first"):
        handlers.chose(Visit(state, silent, {"heads": ["L1H6"]}))
    asked = handlers.asked(Visit(state, VALUES | {"expression": "a cat"}))
    assert "data.image_file=mine.png" in asked["take"]


def test_a_picture_that_is_not_kept_any_more_is_asked_for_again(desk):
    with pytest.raises(UserError, match="not kept here any more: choose it again"):
        desk.picture("0" * 32)


def test_what_was_not_used_for_longest_is_forgotten_first():
    kept = Kept(10, len)
    for key in "abc":
        kept.put(key, "1234")
        kept.get("a")
    assert [kept.get(key) for key in "abc"] == ["1234", None, "1234"]
    kept.put("d", "x" * 99)  # heavier than all that may be kept: it alone stays
    assert (len(kept), kept.get("d")) == (1, "x" * 99)


# answers


def test_other_rules_and_heads_do_not_ask_the_model_again(desk, monkeypatch):
    first = desk.find(BIRD, 0)
    monkeypatch.setattr("lab.api.Model.find", None)
    assert desk.find(replace(BIRD, rules={"logic.top_k": 1}), 0).heads == first.heads[:1]
    ranked = desk.find(State("bird.png", (Side("the bird on the branch", RANKED),)), 0)
    assert ranked.heads == tuple((score.layer, score.head) for score in first.ranking[:3])
    with pytest.raises(UserError, match=r"\[99, 0\] is not a head of this model"):
        desk.find(State("bird.png", (Side("the bird on the branch", ((99, 0),)),)), 0)


@pytest.mark.parametrize(
    "state",
    [
        BIRD,
        State("cat.png", (Side("a cat's tail", ((1, 6), (2, 4))),), {"logic.smoothing.sigma": 0.5}),
        State("dog.png", (Side("a dog", RANKED),), {"logic.mask.method": "quantile", "logic.box.region": "all"}),
    ],
)
def test_the_command_line_does_the_same(desk, state, tmp_path):
    (tmp_path / "page").mkdir()
    written = [
        path.rpartition("/")[2]
        for path in write_files(desk.find(state, 0), desk.file_of(state.picture), tmp_path / "page")
    ]
    typed = shlex.split(command(state, 0, desk.file_of(state.picture), desk.model.options))[2:]
    assert run(configuration(hydra_arguments([*typed, f"data.output_dir={tmp_path}/typed"], free_text()))) == 0
    here, there = next((tmp_path / "page").iterdir()), tmp_path / "typed" / "examples-models-picturebook"
    assert {path.name for path in there.iterdir()} == {*written, "config.yaml"}
    name = state.picture.removesuffix(".png")
    for ending in ("_bbox.json", "_mask.png", "_analysis.json", f"_top{len(desk.find(state, 0).heads)}.png"):
        assert (here / f"{name}{ending}").read_bytes() == (there / f"{name}{ending}").read_bytes()
    ours, theirs = (load_record(folder / f"{name}.pkl") for folder in (here, there))
    assert_array_equal(ours.attn, theirs.attn)
    assert ours.meta == theirs.meta


@pytest.mark.parametrize(
    ("file", "name"), [("what is it?.png", "what_is_it"), ("a..b.png", "a_b"), ("???.png", "picture")]
)
def test_a_picture_of_any_name_can_be_taken_along(desk, file, name, tmp_path):
    written = write_files(desk.find(BIRD, 0), file, tmp_path)
    assert Path(written[0]).name == f"{name}.pkl"
    assert load_record(written[0]).meta["image_file"] == file


def test_each_word_has_the_map_of_its_tokens(desk):
    whole = desk.find(BIRD, 0)
    words = desk.words(BIRD, 0, whole)
    assert [word for word, _ in words] == ["the", "bird", "on", "the", "branch"]
    np.testing.assert_allclose(words[-1][1], whole.heat, atol=1e-5)  # the last token of the prompt is of that word
    alone = load("picturebook", "model.read=word:bird").find(FOLDER / "bird.png", BIRD.sides[0].expression)
    np.testing.assert_allclose(words[1][1], alone.heat, atol=1e-5)


@pytest.mark.parametrize(
    ("expression", "tokens", "places"),
    [
        ("the cup", ["the", " cup"], [[0], [1]]),
        ("a teacup, red", ["a", " tea", "cup", ",", " red"], [[0], [1, 2, 3], [4]]),
        ("dog dog", ["dog", "dog"], [[0], [1]]),
        ("鳥 x", ["鳥", "鳥", "鳥", " x"], [[0, 1, 2], [3]]),
    ],
)
def test_tokens_are_told_to_words(expression, tokens, places):
    assert places_of_words(expression, tokens) == list(zip(expression.split(), places, strict=True))


def test_the_untouched_answer_is_what_the_model_generates(desk):
    said = desk.knock_out(BIRD, 0, "zero")
    asked = desk.model.with_options("model.use_generate=true").find(FOLDER / "bird.png", BIRD.sides[0].expression)
    assert said[0].answer == asked.record.meta["generated_text"]
    assert [one.name for one in said] == ["untouched", CHOSEN, OTHERS, OTHERS, OTHERS]
    assert 0.9 < said[0].first <= 1


def test_with_all_other_heads_blind_the_chosen_ones_are_enough_and_others_are_not(desk):
    untouched, chosen, *others = desk.knock_out(BIRD, 0, "keep_uniform")
    assert chosen.answer == untouched.answer
    assert all(one.answer != untouched.answer and one.first < 0.01 for one in others)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_changing_heads_can_be_asked(desk, way):
    every = State("bird.png", (Side("the bird", tuple((layer, head) for layer in range(8) for head in range(8))),))
    said = desk.knock_out(every, 0, way)
    assert [one.name for one in said] == ["untouched", CHOSEN]  # there are no others


def test_the_other_heads_are_always_the_same():
    assert head_sets([(1, 5), (2, 4)], 8) == head_sets([(1, 5), (2, 4)], 8)


# the page's events, without the page


def test_a_visit_from_asking_to_comparing(handlers, desk):
    opened = handlers.opened(Visit(None, VALUES, query={}))
    assert opened["state"] == BIRD
    assert opened["expression"] == "the bird on the branch"
    assert "L1 H5" in opened["grid"]
    chosen = handlers.chose(Visit(BIRD, VALUES, {"heads": ["L1H6", "L3H0"]}))
    assert chosen["state"].sides[0].heads == ((1, 6), (3, 0))
    assert chosen["heads"] == "clicked"
    assert handlers.chose(Visit(BIRD, VALUES, {"heads": []}))["heads"] == "own"
    refused = handlers.chose(Visit(BIRD, VALUES, {"heads": ["L99H0"], "choice": 7}))
    assert "[99, 0] is not a head of this model" in refused["message"]
    assert refused["state"] == BIRD
    assert "&#34;choice&#34;: 7" in refused["marks"]
    both = handlers.asked(Visit(chosen["state"], VALUES | {"compare": True}))
    assert [side.heads for side in both["state"].sides] == [((1, 6), (3, 0)), "own"]
    assert both["results"].count('class="lh-card"') == 2
    assert both["take"].count("python pipeline.py") == 4  # each to be read and to be copied
    typed = handlers.opened(Visit(None, VALUES, query={"expression": "the tree"}))  # a link that names no picture
    assert typed["state"] == State("bird.png", (Side("the tree"),))
    assert typed["expression"] == "the tree"
    linked = handlers.opened(Visit(None, VALUES, query={"picture": "bird.png", "expression": "a", "heads": "L0H0"}))
    told = unescape(linked["marks"]).partition('data-marks="')[2].partition('"></i>')[0]
    assert json.loads(told)["chosen"] == ["L0H0"]


@pytest.mark.parametrize("key", RULES)
@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-1", "2.5", "1e300", "1e999", "[1]", "null", "0"])
def test_a_link_with_any_value_is_followed_or_refused_in_one_line(handlers, key, value):
    query = {"picture": "cat.png", "expression": "a cat", key: value}
    opened = handlers.opened(Visit(None, VALUES, query=query))
    assert opened["state"].picture == "cat.png"
    assert opened["expression"] == "a cat"
    assert opened["state"].is_asked == ("message" not in opened)
    if not opened["state"].is_asked:
        assert key in opened["message"]


def test_a_wrong_link_leaves_its_picture_to_be_asked_about(handlers):
    query = {"picture": "cat.png", "expression": "a cat", "logic.top_k": "2.5"}
    opened = handlers.opened(Visit(None, VALUES, query=query))
    assert "logic.top_k=2.5: expected a whole number" in opened["message"]
    asked = handlers.asked(Visit(opened["state"], VALUES | {"expression": opened["expression"]}))
    assert asked["state"] == State("cat.png", (Side("a cat"),))
    gone = handlers.opened(Visit(None, VALUES, query={"picture": "0" * 32, "expression": "a cat"}))
    assert gone["expression"] == "a cat"
    with pytest.raises(UserError, match="not kept here any more: choose it again"):  # and no answer about another one
        handlers.asked(Visit(gone["state"], VALUES | {"expression": "a cat"}))


def test_nothing_can_be_done_before_something_was_asked(handlers):
    for does in (handlers.ruled, handlers.chose, handlers.knocked, handlers.made):
        with pytest.raises(UserError, match="Ask the model first"):
            does(Visit(None, VALUES))
