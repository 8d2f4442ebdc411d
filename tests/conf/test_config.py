"""Every preset composes, and everything that cannot be is refused by name."""

import dataclasses
import re

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

import pipeline
from conf.help import help_text, value_of
from conf.keys import key_tables
from conf.schema import Choice, Config, Group, as_dict, as_yaml, free_text, keys, plain
from lab.base.arguments import hydra_arguments
from lab.base.console import one_line
from lab.base.errors import UserError
from lab.base.paths import PROJECT
from tests.conftest import configuration


def presets(group: str) -> list[str]:
    return sorted(path.stem for path in (PROJECT / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize("model", presets("model"))
def test_every_model_preset_composes_and_is_possible(model):
    cfg = configuration(f"model={model}", *(["model.name=a/b"] if model == "auto" else []))
    assert cfg.model.name


@pytest.mark.parametrize("logic", presets("logic"))
def test_every_logic_preset_composes_and_is_possible(logic):
    assert configuration(f"logic={logic}").logic.top_k


def test_the_defaults_are_the_published_rules():
    logic = configuration("model=llava15_7b").logic
    assert (logic.top_k, logic.heads, logic.threshold.method) == (5, None, "chord")
    assert (logic.entropy.center, logic.entropy.weight, logic.entropy.min_value) == (2.0, "mass", 0.001)
    assert logic.filter.bottom_row == 0.05
    assert (logic.mask.method, logic.box.region) == ("mean_relu", "all")


def test_the_preset_of_the_answer_changes_only_what_is_read():
    shipped, answer = (as_dict(configuration(f"model={name}")) for name in ("picturebook", "picturebook_answer"))
    heads = [[1, 6], [1, 5], [3, 7]]
    shipped["model"] |= {"read": "answer", "localization_heads": heads}
    shipped["data"]["share_image"] = False
    assert answer == shipped


def test_the_shipped_model_changes_only_what_its_card_says():
    shipped, published = (as_dict(configuration(f"model={name}"))["logic"] for name in ("picturebook", "llava15_7b"))
    assert shipped["heads"] == "preset"
    parts = ("threshold", "entropy", "filter", "smoothing", "mask", "box")
    different = {
        f"{part}.{key}" for part in parts for key in shipped[part] if shipped[part][key] != published[part][key]
    }
    assert different == {
        "entropy.digits",
        "entropy.flat_is_focused",
        "filter.min_layer",
        "filter.sinks",
        "smoothing.per_cells",
        "smoothing.power",
        "smoothing.sigma",
        "mask.cuts",
        "mask.method",
        "mask.power",
        "box.region",
    }
    assert (shipped["ties"], published["ties"]) == ("sum", "order")


def test_an_explicit_logic_wins_over_the_shipped_models():
    assert configuration("logic=selection_v1").logic == configuration("model=llava15_7b").logic
    assert configuration("logic=paper").logic == configuration("model=llava15_7b", "logic=paper").logic


def test_paper_differs_from_selection_v1_only_where_the_paper_does():
    paper, published = (
        as_dict(configuration("model=llava15_7b", f"logic={name}"))["logic"] for name in ("paper", "selection_v1")
    )
    parts = ("threshold", "entropy", "filter", "mask", "box")
    different = {f"{part}.{key}" for part in parts for key in paper[part] if paper[part][key] != published[part][key]}
    assert different == {
        "entropy.center",
        "entropy.weight",
        "entropy.min_value",
        "entropy.flat_is_focused",
        "entropy.digits",
        "filter.bottom_row",
        "box.region",
    }
    assert paper["entropy"]["min_value"] == 0  # A > mean
    floor = as_dict(configuration("model=llava15_7b", "logic=paper_floor"))["logic"]
    assert floor == {**paper, "entropy": {**paper["entropy"], "min_value": 0.001}}


def test_heads_and_first_layer_of_a_preset_belong_to_its_own_checkpoint(tmp_path):
    own, other = configuration(), configuration(f"model.name={tmp_path}")
    assert (own.logic.heads, own.model.localization_heads) == ("preset", [[1, 5], [1, 6], [2, 4]])
    assert (own.logic.filter.first_layer, other.logic.filter.first_layer) == (1, 2)
    assert (other.logic.heads, other.model.localization_heads) == (None, None)
    assert configuration("logic=best", "model=llava15_7b").logic.filter.first_layer == 2
    given = configuration(f"model.name={tmp_path}", "model.localization_heads=[[0,1]]", "model.heads_of=null")
    assert (given.logic.heads, given.model.localization_heads) == ("preset", [[0, 1]])
    assert configuration(f"model.name={tmp_path}", "logic.heads=[[0,1]]").logic.heads == [[0, 1]]
    shipped = configuration("model.name=examples/models/../models/picturebook")  # the same, written otherwise
    assert shipped.model.localization_heads == own.model.localization_heads
    assert configuration("logic.filter.min_layer=3").logic.filter.first_layer == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "logic.topk=3",
            "logic.topk: there is no such key (python pipeline.py --help lists the keys); did you mean logic.t",
        ),
        ("modle=picturebook", "; did you mean model?"),
        ("stag=batch", "stag: there is no such key (python pipeline.py --help lists the keys); did you mean stage?"),
        ("top_k=3", "; did you mean study.top_k or logic.top_k?"),
        ("logic.treshold.value=3", "; did you mean logic.threshold"),
        ("model=llava16", "model=llava16: there is no such preset; did you mean llava15_7b or llava_7b"),
        ("logic.top_k=1.5", "logic.top_k=1.5: a whole number is expected"),
        ("logic=paperr", "no such preset; did you mean paper or paper_floor? choose from best, cells, paper,"),
        ("logic.top_k=three", "logic.top_k=three: a whole number is expected"),
        ("logic.smoothing.sigma=abc", "logic.smoothing.sigma=abc: a number is expected"),
        ("logic.threshold=3", "logic.threshold is a group of keys, which are set one by one: logic.threshold.KEY=..."),
        ("save_fig=maybe", "save_fig=maybe: choose from true, false"),
        ("data.image=x.png", "did you mean data.image_file"),
        ("model=auto", "model.name has no value: set model.name=..."),
    ],
)
def test_unknown_keys_groups_and_types_are_refused_in_one_line_that_names_them(override, message):
    from omegaconf.errors import OmegaConfBaseException

    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        configuration(override)
    line = one_line(caught.value)
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage=colect", "stage=colect: choose from collect, analyze, visualize, pipeline, batch"),
        ("stage=colect", "calibrate, report; did you mean collect or select?"),
        ("logic.mask.method=ots", "stable; did you mean otsu?"),
        ("logic.top_k=0", "logic.top_k=0: must be 1 or more"),
        ("logic.smoothing.sigma=-1", "logic.smoothing.sigma=-1.0: must be 0 or more"),
        ("logic.smoothing.kernel=4", "must be odd"),
        ("logic.mask.method=magic", "choose from mean_relu, otsu, quantile"),
        ("logic.mask.quantile=1.5", "between 0 and 1"),
        ("model.dtype=int8", "choose from auto, float32, float16, bfloat16"),
        ("data.start_index=-1", "data.start_index=-1"),
        ("++data.end_index=0", "must lie after data.start_index"),
        ("model.read=words", "model.read=words: choose from last, expression, answer, answer_boxes, word:WORD"),
        ("model.read=word:", "model.read=word:: choose from"),
        ("logic.token=middle", "logic.token=middle: choose from mean, first, last, or give a number from 0"),
        ("logic.token=-1", "logic.token=-1: must be 0 or more"),
        ("logic.token=true", "logic.token=True: choose from"),
        ("data.record_format=null", "data.record_format=null: choose from pkl, pkl.gz, safetensors, shards"),
        ("save_fig=null", "save_fig=null: choose from true, false"),
        ("data.start_index=null", "data.start_index=null: a whole number is expected"),
        ("stage=null", "stage=null: it needs a value; python pipeline.py --help tells which"),
    ],
)
def test_impossible_values_are_refused_with_what_would_be_right(override, message):
    with pytest.raises((UserError, HydraException)) as caught:
        pipeline.run(configuration(override))
    assert message in one_line(caught.value)


PATHS = [name for name, takes in free_text().items() if takes != "text"]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("data:image/png;base64," + "iVBORw0KGgo" * 60, "file name too long"),
        ("~nobody_at_all/x", "there is no user nobody_at_all"),
        ("README.md/x", "README.md is a file, not a folder"),
    ],
)
def test_a_path_that_the_system_refuses_is_one_short_line_that_names_its_key(name, path, why, monkeypatch):
    monkeypatch.chdir(PROJECT)
    typed = f"[{path.replace(',', ';')},x]" if free_text()[name] == "folders" else path
    config = configuration(*hydra_arguments([f"{name}={typed}"], free_text()))
    with pytest.raises(UserError, match=re.escape(f"{name}=")) as caught:
        pipeline.run(config)
    assert str(caught.value).endswith(why)
    assert len(str(caught.value)) < 200


def set_key(name: str, value: object) -> Config:
    """A configuration that comes from a file, where anything may stand."""
    written = OmegaConf.create(as_dict(configuration()))
    OmegaConf.update(written, name, value)
    return plain(OmegaConf.merge(OmegaConf.structured(Config), written))


@pytest.mark.parametrize("name", free_text())
@pytest.mark.parametrize(("text", "why"), [("a\0b", "NUL"), ("caf\udce9", "UTF-8")])
def test_a_text_that_is_none_is_refused_by_key(name, text, why):
    with pytest.raises(UserError, match=rf"^{re.escape(name)}=.*{why}") as caught:
        set_key(name, [text] if free_text()[name] == "folders" else text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [name for name, takes in free_text().items() if takes in ("file", "folder", "heads")])
def test_an_empty_path_is_refused_by_key(name):
    with pytest.raises(UserError, match=f"^{name} is empty"):
        set_key(name, "")


def kind_of(value: object) -> type:
    return kind_of(value[0]) if isinstance(value, list) else int if value is None else type(value)


DEFAULTS = [(name, value_of(configuration(), name), str(one.type)) for name, one in keys()]
NUMBERS = [
    (name, kind_of(value), isinstance(value, list))
    for name, value, of in DEFAULTS
    if ("int" in of or "float" in of) and "Any" not in of
]


@pytest.mark.parametrize(("name", "kind", "many"), NUMBERS, ids=[name for name, *_ in NUMBERS])
def test_no_number_without_end_is_taken(name, kind, many):
    values = ["nan", "inf", "-inf", "1e400"] if kind is float else ["9" * 40, "-" + "9" * 40, "9" * 200]
    for value in values:
        with pytest.raises((UserError, HydraException), match=re.escape(name)) as caught:
            configuration(f"{name}=[{value}]" if many else f"{name}={value}")
        line = one_line(caught.value)
        assert len(line) < 300
        assert "must be" in line


@pytest.mark.parametrize("value", ["[[1,nan]]", "[[1,1e400]]", "[[1," + "9" * 30 + "]]"])
def test_no_layer_and_no_head_is_a_number_without_end(value):
    for name in ("logic.heads", "model.localization_heads"):
        with pytest.raises(UserError, match=f"^{name}="):
            configuration(f"{name}={value}")


def test_every_stage_that_may_be_named_is_a_function():
    assert list(pipeline.STAGES)[:5] == ["collect", "analyze", "visualize", "pipeline", "batch"]
    assert all(callable(stage.run) and stage.text for stage in pipeline.STAGES.values())


def test_every_key_of_the_schema_says_what_it_means():
    groups = {one.type for one in dataclasses.fields(Config) if dataclasses.is_dataclass(one.type)}
    assert all(group.__doc__ for group in groups)
    assert all(one.metadata["text"] for _, one in keys())


def test_words_are_named_as_they_are_written():
    assert all(one.name == one.value for choice in Choice.__subclasses__() for one in choice)


def test_a_configuration_reads_back_from_what_is_written(tmp_path):
    config = configuration("logic=paper", "data.record_format=pkl.gz", "data.save_dtype=float16")
    (tmp_path / "config.yaml").write_text(as_yaml(as_dict(config)))
    merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(tmp_path / "config.yaml"))
    assert plain(merged) == config
    assert plain(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(as_dict(config)))) == config


def test_the_path_of_a_group_is_where_it_stands():
    config = configuration()
    for name, _ in keys():
        parent = name.rpartition(".")[0]
        group = config
        for part in parent.split(".") if parent else ():
            group = getattr(group, part)
        assert isinstance(group, Group)
        assert group.path == parent


def test_help_fits_a_screen_and_names_every_stage():
    text = help_text({name: stage.text for name, stage in pipeline.STAGES.items()})
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"  {name} " in text for name in pipeline.STAGES)


def test_the_tables_of_keys_name_every_key():
    tables = key_tables()
    assert all(f"| `{name}` |" in tables for name, _ in keys())
