"""Records that are there, read again by other rules: where the results go, and what stays as it was."""

import json

import pytest
import yaml
from PIL import Image

from lab.base.errors import UserError
from lab.base.paths import PROJECT
from lab.records.files import load_record
from pipeline import run
from tests.conftest import configuration

MODEL = "examples-models-picturebook"
QUICK = ("save_fig=false", "evaluate.resamples=50", "study.top_k=[1,3]", "logic.select.samples=null")
WRITES = {
    "analyze": "5_000000_analysis.json",
    "visualize": "5_000000_bbox.json",
    "select": "localization_heads.json",
    "evaluate": "metrics.json",
    "study": "study.json",
    "report": "report.html",
}


@pytest.fixture(scope="module")
def scenes(collect_scenes):
    """The data file and the folder of records."""
    data, out = collect_scenes(6, 5)
    return data, out / MODEL


def again(scenes, stage: str, *overrides: str) -> int:
    data, records = scenes
    return run(
        configuration(f"stage={stage}", f"data.data_file={data}", f"data.attention_dir={records}", *QUICK, *overrides)
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("stage", WRITES)
def test_results_go_where_output_dir_says_with_their_configuration_and_records_stay_alone(stage, scenes, tmp_path):
    before = contents(scenes[1])
    assert again(scenes, stage, "logic.mask.method=mean_relu", f"data.output_dir={tmp_path}") == 0
    assert contents(scenes[1]) == before
    assert (tmp_path / MODEL / WRITES[stage]).exists()
    saved = yaml.safe_load((tmp_path / MODEL / f"config.{stage}.yaml").read_text())
    assert saved["logic"]["mask"]["method"] == "mean_relu"


@pytest.mark.parametrize("stage", WRITES)
def test_without_output_dir_results_lie_beside_the_records_and_so_does_their_own_configuration(
    stage, collected_copy, scenes
):
    folder = collected_copy
    before = (folder / "config.yaml").read_bytes()
    assert again((scenes[0], folder), stage, "logic.mask.method=mean_relu") == 0
    assert (folder / WRITES[stage]).exists()
    assert (folder / "config.yaml").read_bytes() == before  # the one that made the records
    saved = yaml.safe_load((folder / f"config.{stage}.yaml").read_text())
    assert (saved["stage"], saved["logic"]["mask"]["method"]) == (stage, "mean_relu")


@pytest.fixture
def collected_copy(scenes, tmp_path):
    folder = tmp_path / MODEL
    folder.mkdir()
    for path in scenes[1].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_one_record_goes_there_too(scenes, tmp_path):
    record = f"data.attention_file={scenes[1] / '5_000000.pkl'}"
    before = contents(scenes[1])
    for stage in ("analyze", "visualize"):
        assert run(configuration(f"stage={stage}", record, f"data.output_dir={tmp_path}", "save_fig=false")) == 0
        assert (tmp_path / MODEL / WRITES[stage]).exists()
    assert contents(scenes[1]) == before


def test_two_settings_over_the_same_records_are_compared_without_copying_them(scenes, tmp_path):
    for name, method in (("a", "otsu"), ("b", "mean_relu")):
        assert again(scenes, "evaluate", f"data.output_dir={tmp_path / name}", f"logic.mask.method={method}") == 0
    runs = f"data.runs=[{tmp_path / 'a' / MODEL},{tmp_path / 'b' / MODEL}]"
    data = f"data.data_file={scenes[0]}"
    assert run(configuration("stage=report", runs, data, f"data.output_dir={tmp_path}", "evaluate.resamples=50")) == 0
    page = (tmp_path / "compare.html").read_text()
    assert "logic.mask.method" in page
    found = [json.loads((tmp_path / name / MODEL / "metrics.json").read_text())["metrics"] for name in "ab"]
    chosen = [
        next(e["value"] for e in one["chosen"] if e["metric"] == "box IoU" and e["group"] == "all") for one in found
    ]
    assert chosen[0] != chosen[1]
    assert all(f"{100 * value:.1f}" in page for value in chosen)


# one picture after another


@pytest.fixture
def ask(tmp_path, picturebook, monkeypatch):
    """ask(stage, overrides) -> the exit code, on the shipped model, with outputs in tmp_path."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)

    def asked(stage: str, *overrides: str) -> int:
        return run(configuration(f"stage={stage}", f"data.output_dir={tmp_path}", "save_fig=false", *overrides))

    return asked


def test_a_second_expression_about_a_picture_does_not_overwrite_the_first(ask, tmp_path, caplog):
    caplog.set_level("INFO")
    folder, picture = tmp_path / MODEL, "data.image_file=examples/images/bird.png"
    for query in ("the bird", "the umbrella", "the bird"):
        assert ask("collect", picture, f"data.query='{query}'") == 0
    assert sorted(path.name for path in folder.glob("*.pkl")) == ["bird-2.pkl", "bird.pkl"]
    assert [load_record(folder / name).meta["query"] for name in ("bird.pkl", "bird-2.pkl")] == [
        "the bird",
        "the umbrella",
    ]
    assert [line for line in caplog.messages if "bird-2" in line] == [
        "bird holds another expression or picture: this record is bird-2"
    ]
    assert ask("analyze", picture, "data.query='the umbrella'") == 0
    assert (folder / "bird-2_analysis.json").exists()
    with pytest.raises(UserError, match=r"holds bird.pkl, bird-2.pkl: say which one, with data.query"):
        ask("analyze", picture)
    with pytest.raises(UserError, match=r"is of another expression than data.query=\"a cat\""):
        ask("visualize", picture, "data.query='a cat'")
    assert ask("collect", picture, "data.query='a cat'", "data.save_id=bird") == 0  # named: written as asked
    assert load_record(folder / "bird.pkl").meta["query"] == "a cat"


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [
        ("pipeline", "data.query=''"),
        ("pipeline", "logic.heads=[[99,1]]"),
        ("collect", "logic.top_k=999"),
        ("visualize", "logic.heads=picturebook"),
        ("analyze", "data.save_id=nowhere"),
    ],
)
def test_what_is_wrong_is_all_that_is_said(ask, caplog, stage, wrong):
    caplog.set_level("INFO")
    with pytest.raises(UserError):  # visualize: there is no record
        ask(stage, wrong)
    assert caplog.messages == []


def test_a_folder_without_the_record_says_what_it_holds(ask, tmp_path):
    picture = "data.image_file=examples/images/bird.png"
    with pytest.raises(UserError, match=r"no record .*bird\.pkl: set data\.attention_file"):
        ask("visualize", picture)
    (tmp_path / MODEL).mkdir()
    (tmp_path / MODEL / "other.pkl").write_bytes(b"rubbish")
    for stage in ("analyze", "visualize"):
        with pytest.raises(UserError, match=r"no record .*bird\.pkl: the folder holds other\.pkl; name one as"):
            ask(stage, picture)


def test_a_damaged_record_of_a_picture_is_named_and_does_not_stand_for_another(ask, tmp_path):
    folder, picture = tmp_path / MODEL, "data.image_file=examples/images/bird.png"
    for query in ("the bird", "the umbrella"):
        ask("collect", picture, f"data.query='{query}'")
    (folder / "bird.pkl").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"holds bird\.pkl \(cannot be read\), bird-2\.pkl: say which one"):
        ask("visualize", picture)
    assert ask("visualize", picture, "data.query='the umbrella'") == 0
    assert (folder / "bird-2_bbox.json").exists()
    with pytest.raises(UserError, match=r"bird\.pkl: .*collect it again"):
        ask("visualize", picture, "data.query='the bird'")


def test_a_picture_without_an_expression_is_refused_and_nothing_at_all_is_the_shipped_one(ask, tmp_path, caplog):
    caplog.set_level("INFO")
    with pytest.raises(UserError, match=r"data.query is empty: say what to look for"):
        ask("collect", "data.image_file=examples/images/cat.png")
    assert ask("collect") == 0
    assert 'no data.image_file: the shipped examples/images/bird.png, asked for "birds."' in caplog.messages
    assert load_record(tmp_path / MODEL / "bird.pkl").meta["query"] == "birds."


def test_a_picture_that_is_named_is_the_one_that_a_record_is_drawn_on(ask, tmp_path):
    assert ask("collect") == 0
    drawn = (f"data.attention_file={tmp_path / MODEL / 'bird.pkl'}", "save_fig=true")
    with pytest.raises(UserError, match=r"nope\.png"):
        ask("visualize", *drawn, f"data.image_file={tmp_path / 'nope.png'}")
    with Image.open("examples/images/bird.png") as bird:
        bird.crop((0, 0, 60, 60)).save(tmp_path / "part.png")
        Image.new("RGB", bird.size, "red").save(tmp_path / "red.png")
    with pytest.raises(UserError, match=r"the picture is 60 x 60 pixels, the record's"):
        ask("visualize", *drawn, f"data.image_file={tmp_path / 'part.png'}")
    figure = tmp_path / MODEL / "bird_top3.png"
    assert ask("visualize", *drawn) == 0
    own = figure.read_bytes()
    assert ask("visualize", *drawn, f"data.image_file={tmp_path / 'red.png'}") == 0
    assert figure.read_bytes() != own


@pytest.mark.parametrize("stage", ["collect", "pipeline"])
def test_records_to_read_are_refused_where_one_is_made(stage, ask, tmp_path):
    with pytest.raises(UserError, match=f"stage={stage} makes one: run stage=analyze or visualize"):
        ask(stage, f"data.attention_dir={tmp_path}")


@pytest.mark.parametrize(("stage", "errors"), [("visualize", "visualize_errors"), ("analyze", "analysis_errors")])
def test_a_folder_of_broken_records_alone_is_listed(stage, errors, tmp_path):
    broken = tmp_path / MODEL
    broken.mkdir()
    for name in ("a", "b"):
        (broken / f"{name}.pkl").write_bytes(b"no record")
    assert run(configuration(f"stage={stage}", f"data.attention_dir={broken}", f"data.output_dir={tmp_path}/e")) == 1
    lines = (tmp_path / "e" / MODEL / f"{errors}.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b"]


def test_a_folder_is_drawn_whole_and_a_bad_record_listed(scenes, tmp_path, collected_copy):
    (collected_copy / "5_000003.pkl").write_bytes(b"no record")
    code = run(
        configuration("stage=visualize", f"data.attention_dir={collected_copy}", f"data.output_dir={tmp_path}/e")
    )
    assert code == 1
    out = tmp_path / "e" / MODEL
    assert len(list(out.glob("*_top3.png"))) == len(list(out.glob("*_mask.png"))) == 5
    (line,) = (out / "visualize_errors.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "5_000003"
    with pytest.raises(UserError, match="show_plot=true opens a window for one record"):
        run(configuration("stage=visualize", f"data.attention_dir={collected_copy}", "show_plot=true"))
