"""What a visitor has chosen: as a link and back, as the rules of a run, as a command line."""

import shlex
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest

from conf.schema import MaskMethod, Region
from lab.app.state import (
    LONGEST,
    OWN,
    RANKED,
    RULES,
    Side,
    State,
    as_query,
    command,
    differing,
    heads_of,
    kept_of_query,
    logic_of,
    matters,
    of_query,
    value_of,
    words,
)
from lab.base.errors import UserError
from tests.conftest import configuration

EXAMPLES = {"bird.png": "the bird", "cat.png": "the cat"}
BIRD = State("bird.png", (Side("the bird & the branch = 100 %"),))
STATES = [
    BIRD,
    State("bird.png", (Side("a"), Side("a", ((1, 5), (12, 31)))), {"logic.smoothing.sigma": 1.5}),
    State("0" * 32, (Side("птица 鳥", RANKED),), {"logic.mask.method": "quantile", "logic.top_k": 2}),
]


@pytest.mark.parametrize("state", STATES)
def test_a_link_leads_back_to_the_same_state(state):
    assert of_query(dict(parse_qsl(as_query(state))), EXAMPLES) == state


@pytest.mark.parametrize(
    ("query", "picture", "expressions"),
    [
        ({"__theme": "dark"}, "bird.png", ["the bird"]),
        ({"expression": "the tree"}, "bird.png", ["the tree"]),
        ({"picture": "", "expression2": "the tree"}, "bird.png", ["the bird", "the tree"]),
        ({"picture": "cat.png"}, "cat.png", ["the cat"]),
        ({"picture": "cat.png", "expression": ""}, "cat.png", ["the cat"]),
    ],
)
def test_what_a_link_leaves_out_is_that_of_an_example(query, picture, expressions):
    found = of_query(query | {"heads": RANKED, "logic.top_k": "2"}, EXAMPLES)
    heads = (RANKED, OWN)
    sides = tuple(Side(text, own) for text, own in zip(expressions, heads, strict=False))
    assert found == State(picture, sides, {"logic.top_k": 2})


def test_a_link_to_an_upload_says_what_to_look_for():
    with pytest.raises(UserError, match="Type what to look for"):
        of_query({"picture": "0" * 32}, EXAMPLES)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"expression": " "}, "Type what to look for"),
        ({"expression": "x" * (LONGEST + 1)}, f"has {LONGEST + 1} letters; write at most {LONGEST}"),
        ({"expression": "a", "heads": "L1H5,L1H5"}, "heads=L1H5,L1H5: expected own, ranked, or 1 to 64 heads"),
        ({"expression": "a", "heads": "all"}, "heads=all: expected own, ranked"),
        ({"expression": "a", "logic.top_k": "many"}, "logic.top_k=many: expected a whole number"),
        ({"expression": "a", "logic.top_k": "2.5"}, "logic.top_k=2.5: expected a whole number"),
        ({"expression": "a", "logic.top_k": "inf"}, "logic.top_k=inf: expected a whole number"),
        ({"expression": "a", "logic.smoothing.sigma": ""}, "logic.smoothing.sigma=: expected a number"),
        ({"expression": "a", "logic.topk": "2"}, "logic.topk: the page has no such rule; choose from logic.top_k, "),
    ],
)
def test_a_link_that_no_page_made_is_refused_in_one_line(query, message):
    with pytest.raises(UserError, match=message):
        of_query({"picture": "bird.png"} | query, EXAMPLES)


def test_of_a_link_that_cannot_be_followed_picture_and_texts_are_kept():
    query = {"picture": "cat.png", "expression": "a cat", "expression2": "it", "logic.top_k": "2.5"}
    assert kept_of_query(query, EXAMPLES) == State("cat.png", (Side("a cat"), Side("it")))
    assert kept_of_query({"logic.top_k": "2.5"}, EXAMPLES) == State("bird.png", (Side("the bird"),))
    assert kept_of_query({"picture": "0" * 32}, EXAMPLES) == State("0" * 32, (Side(""),))


def test_rules_of_a_state_are_checked_as_those_of_the_command_line():
    logic = configuration().logic
    state = replace(BIRD, rules={"logic.mask.method": "quantile", "logic.box.region": "all", "logic.top_k": 2})
    changed = logic_of(logic, state, 0)
    assert (changed.mask.method, changed.box.region, changed.top_k) == (MaskMethod.quantile, Region.all, 2)
    assert (logic.mask.method, logic.top_k) == (MaskMethod.otsu, 3)
    for key, value, message in (
        ("logic.top_k", 0, "must be 1 or more"),
        ("logic.mask.method", "median", "choose from mean_relu"),
        ("logic.mask.quantile", 1.0, "must lie between 0 and 1"),
    ):
        with pytest.raises(UserError, match=message):
            logic_of(logic, replace(BIRD, rules={key: value}), 0)


@pytest.mark.parametrize("preset", ["best", "paper", "selection_v1"])
def test_every_rule_of_every_preset_lies_on_its_slider(preset):
    logic = configuration(f"logic={preset}").logic
    values = {key: value_of(logic, key) for key in RULES}
    assert differing(logic, values) == {}
    numbers = {key: value for key, value in values.items() if not isinstance(value, str)}
    assert all(RULES[key].low <= value <= RULES[key].high for key, value in numbers.items())


def test_every_choice_that_has_a_number_of_its_own_shows_it_alone():
    values = {"logic.mask.method": "peak", "logic.threshold.method": "chord"}
    depending = [key for key in RULES if RULES[key].only]
    assert [key for key in depending if matters(key, values)] == ["logic.mask.peak"]
    assert all(RULES[key].only[1] in words(RULES[key].only[0]) for key in depending)


def test_only_what_differs_from_the_models_own_rules_is_told():
    logic = configuration().logic
    values = {key: value_of(logic, key) for key in RULES} | {"logic.smoothing.sigma": 0.5}
    assert differing(logic, values) == {"logic.smoothing.sigma": 0.5}


def test_the_command_line_can_be_typed():
    text = command(STATES[1], 1, "my photo's.jpg", ("model=llava15_7b", "device=auto"))
    assert shlex.split(text) == [
        "python", "pipeline.py", "model=llava15_7b", "data.image_file=my photo's.jpg", "data.query=a",
        "logic.smoothing.sigma=1.5", "logic.heads=[[1,5],[12,31]]",
    ]  # fmt: skip
    assert "logic.heads=null" in command(STATES[2], 0, "x.jpg", ())
    assert "logic.heads" not in command(BIRD, 0, "x.jpg", ())


def test_heads_are_written_as_words_or_as_layers_and_heads():
    assert heads_of("L14H24,L2H4") == ((14, 24), (2, 4))
    assert [heads_of(word) for word in (OWN, RANKED)] == [OWN, RANKED]
