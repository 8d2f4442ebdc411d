"""What is typed for a text or a path is what arrives, whatever Hydra would make of it."""

import random
import sys
from dataclasses import dataclass, field
from operator import attrgetter

import pytest
from omegaconf import OmegaConf

from conf.schema import Config, as_dict, as_yaml, free_text, literally, plain
from lab.base.arguments import check_flags, hydra_arguments, typed_options
from lab.base.errors import UserError
from tests.conftest import configuration

TEXTS = [
    "the man's hat",
    "'cats' and 'dogs'",
    '"STOP"',
    "'a, b'",
    "${5}",
    "\\${data.query}",
    "a=b, (c) [d] {e} #f",
    "der Vögel, (left) man's = bird! [x] {y} & #2",
    "鸟",
    "back\\slash\\",
    "it's \\'quoted\\'",
    "bird:red",
    "true",
    "5",
    "two\nlines",
    "",
]
PATHS = ["a=b.png", "a,b.png", "a (1).png", "a[1].png", "#1.png", "{a}.png", "$HOME/${x}.png", "a b.png", "[a]", "'a'"]


def typed(*arguments: str) -> list[str]:
    return hydra_arguments(arguments, free_text())


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_may_be_a_query(text):
    assert configuration(*typed(f"data.query={text}")).data.query == text


@pytest.mark.parametrize("path", PATHS)
def test_any_path_may_be_the_value_of_every_key_that_takes_one(path):
    names = [name for name, takes in free_text().items() if takes not in ("text", "folders")]
    of = f"model.heads_of={path}"  # of another model than model.name nothing is known, its calibration neither
    config = configuration(*typed(*(f"{name}={path}" for name in names), of))
    assert {name: attrgetter(name)(config) for name in names} == dict.fromkeys(names, path)


def test_signs_in_any_order_arrive_and_are_read_back_from_what_is_written():
    rng = random.Random(0)
    signs = [*"ab\\'\"${}[](),:=#~ \t@|é鸟\n5&*+-?!<>/", "\\\\", "${", "\\${", "${a.b}", "\\'", "null"]
    names = [name for name, takes in free_text().items() if takes != "folders"]
    for _ in range(10):
        given = {name: "x" + "".join(rng.choices(signs, k=9)) for name in names}
        given["model.question"] += "{query}"  # which it must hold
        given["model.heads_of"] = given["model.name"]  # of another model nothing is known
        given["model.read"] = f"word:{given['model.read']}"
        given["data.shard"] = "1/2"  # which it must be
        config = configuration(*typed(*(f"{name}={text}" for name, text in given.items())))
        assert {name: attrgetter(name)(config) for name in names} == given
        for saved in (OmegaConf.create(as_yaml(as_dict(config))), literally(as_dict(config))):
            assert plain(OmegaConf.merge(OmegaConf.structured(Config), saved)) == config


@pytest.mark.parametrize(
    ("value", "folders"),
    [
        ("[A,B]", ["A", "B"]),
        ("[runs/a b, runs/c]", ["runs/a b", "runs/c"]),
        ("[a=1/(x),b#{2}/${y}]", ["a=1/(x)", "b#{2}/${y}"]),
        ("[John's,Mary's]", ["John's", "Mary's"]),
        ("[a\\,b,c]", ["a,b", "c"]),
        ("""['a,b',"c"]""", ["a,b", "c"]),
        ("[~/a,[b]]", ["~/a", "[b]"]),
        ("null", None),
    ],
)
def test_a_list_of_folders_is_split_at_its_commas(value, folders):
    assert configuration(*typed(f"data.runs={value}")).data.runs == folders


@pytest.mark.parametrize(
    ("value", "heads"),
    [
        ("null", None),
        ("preset", "preset"),
        ("[[14,24], [1, 2]]", [[14, 24], [1, 2]]),
        ("[[1,2]]/x=1.json", "[[1,2]]/x=1.json"),
        ("runs/a, b/localization_heads.json", "runs/a, b/localization_heads.json"),
    ],
)
def test_heads_are_a_list_of_numbers_or_a_file(value, heads):
    assert configuration(*typed(f"logic.heads={value}")).logic.heads == heads


def test_null_and_keys_that_take_no_text_are_left_as_they_are():
    given = ["data.save_id=null", "logic.heads=[[1,2]]", "stage=collect", "evaluate.controls=[all]", "--cfg", "job"]
    assert typed(*given) == given


@pytest.mark.parametrize("argument", ["+foo=3", "++model.foo=3", "~data", "+data.query=x"])
def test_keys_cannot_be_added_or_removed(argument):
    with pytest.raises(UserError, match=r"keys cannot be added or removed; write [a-z]"):
        typed(argument)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.query=caf\udce9", r"caf\\udce9.*UTF-8"),
        ("data.save_id=\ud800", "UTF-8"),
        ("logic.top_k=" + "9" * 400, "digits"),
        ("logic.top_k=" + "9" * 5000, "digits"),
        ("logic.heads=[[1," + "9" * 5000 + "]]", "digits"),
        ("data.runs=A", r"expected a list, data.runs=\[A,B\]"),
        ("logic=null", r"logic=null: choose from best, "),
    ],
)
def test_what_is_no_text_no_number_and_no_list_is_one_short_line(argument, message):
    with pytest.raises(UserError, match=message) as caught:
        typed(argument)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "arguments",
    [
        "stage=batch", "-m stage=batch", "--cfg job --resolve stage=batch", "-c all -p logic stage=batch",
        "-i defaults", "--config-dir examples stage=batch", "-5", "--hydra-help",
    ],
)  # fmt: skip
def test_flags_of_hydra_are_taken(arguments):
    check_flags(arguments.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--port", r"^--port: there is no such option; expected key=value, such as logic\.top_k=5 \(python pip"),
        ("--port=3 stage=batch", "^--port=3: there is no such option"),
        ("stage=batch -q", "^-q: there is no such option"),
        ("--multi stage=batch", "^--multi: there is no such option"),
        (
            "stage=batch --cfg job logic.top_k=2",
            r"^logic\.top_k=2: put options that begin with - before all key=value$",
        ),
        ("--cfg", "--cfg/-c: expected one argument"),
        ("--cfg jobs", "invalid choice: 'jobs'"),
        ("--info foo", "invalid choice: 'foo'"),
        ("--resolve", "--resolve does nothing without --cfg: write --cfg job --resolve"),
        ("-m --cfg job", "of --run, --multirun, --cfg and --info only one"),
        ("--experimental-rerun x", "do nothing here"),
        ("-sc install=bash", "do nothing here"),
    ],
)
def test_a_flag_that_cannot_be_taken_is_one_line(arguments, message, capfd):
    with pytest.raises(UserError, match=message) as caught:
        check_flags(arguments.split())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


# -m


@pytest.mark.parametrize(
    ("argument", "jobs"),
    [
        ("data.output_dir=a,b", "data.output_dir='a','b'"),
        ("data.query=the man's hat,a cat", "data.query='the man\\'s hat','a cat'"),
        ("data.query=the cup, on the left", "data.query='the cup, on the left'"),
        ("data.query=red\\,white,blue", "data.query='red,white','blue'"),
        ("data.query=red\\,white", "data.query='red,white'"),
        ("data.image_file=a[1,2].png,b.png", "data.image_file='a[1,2].png','b.png'"),
        ("data.runs=[A,B],[A,C]", "data.runs=['A','B'],['A','C']"),
        ("logic.heads=null,preset,[[1,2],[3,4]],x.json", "logic.heads=null,'preset',[[1,2],[3,4]],'x.json'"),
        ("logic.top_k=1,2", "logic.top_k=1,2"),
    ],
)
def test_with_m_commas_part_values_unless_a_space_follows_or_a_backslash_precedes(argument, jobs):
    assert typed("-m", argument) == ["-m", jobs]
    assert typed(argument, "--multirun") == ["--multirun", jobs]


def test_a_launcher_needs_m_and_hydras_own_none():
    assert typed("hydra/launcher=basic") == ["hydra/launcher=basic"]
    with pytest.raises(UserError, match="does nothing without -m"):
        typed("hydra/launcher=slurm")


def test_a_launcher_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("lab.base.arguments.find_spec", lambda name: None)
    assert typed("-m", "hydra/launcher=basic")
    for name, package in {"slurm": "submitit", "submitit_local": "submitit", "joblib": "joblib"}.items():
        with pytest.raises(UserError, match=rf"^hydra/launcher={name} needs .*pip install hydra-{package}-launcher$"):
            typed("-m", f"hydra/launcher={name}")


@dataclass
class Steps:
    steps: int = 3


@dataclass
class SmallCommand:
    out: str = "here"
    n: int = 5
    kinds: list[str] | None = None
    tower: Steps = field(default_factory=Steps)


def test_a_small_command_takes_its_own_keys():
    assert typed_options(SmallCommand, ["n=7", "kinds=[a,b]", "tower.steps=4", "out=x"]) == SmallCommand(
        "x", 7, ["a", "b"], Steps(4)
    )


@pytest.mark.parametrize("text", [*TEXTS, *PATHS])
def test_any_text_arrives_at_a_small_command_as_it_was_typed(text):
    assert typed_options(SmallCommand, [f"out={text}"]).out == text


@pytest.mark.parametrize(
    "argument", ["nokey=1", "tower.nokey=1", "tower=1", "n", "--halp", "", "out.x=1", "pipeline.py"]
)
def test_what_is_no_key_of_a_small_command_is_told_with_its_own(argument):
    with pytest.raises(UserError, match=r"expected key=value, with a key of out, n, kinds, tower\.steps$"):
        typed_options(SmallCommand, [argument])


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_a_small_command_says_what_it_does_and_which_keys_it_has(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", "Draws things.", raising=False)
    with pytest.raises(SystemExit) as end:
        typed_options(SmallCommand, ["n=7", flag])
    said = capsys.readouterr().out.split("\n")
    assert end.value.code == 0
    assert said[0] == "Draws things."
    assert [line.strip() for line in said if "=" in line] == ["out=here", "n=5", "kinds=null", "tower.steps=3"]


def test_a_wrong_type_is_told_with_its_key_by_a_small_command():
    with pytest.raises(UserError, match=r"^n=x: a whole number is expected$"):
        typed_options(SmallCommand, ["n=x"])


@pytest.mark.parametrize("argument", ["n=[", "n=" + "9" * 5000, "kinds=" + "[" * 5000, "n={", "n=\udcff"])
def test_what_cannot_be_read_is_told_by_a_small_command_too(argument):
    with pytest.raises(UserError, match=r"expected|UTF-8"):
        typed_options(SmallCommand, [argument])
