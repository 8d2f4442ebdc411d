"""The study's figures: an interval and a range of draws look different, and nothing overlaps or is too small."""

import itertools
from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.text import Text

from lab.measure.criteria import ALONE, NEEDS
from lab.measure.glance import CRITERIA, PUBLISHED
from lab.stages.evaluate import samples_with_truth
from lab.stages.study import make_study
from lab.study.figures import METRIC, RANGE, settings_figure, stagger
from lab.study.plan import REGIONS
from tests.conftest import configuration, study_settings


@pytest.fixture(scope="module")
def study(collect_scenes):
    data, out = collect_scenes(12, 5)
    quick = ("study.discovery=[4,8]", "study.draws=3", "evaluate.draws=3", "evaluate.resamples=100")
    options = (f"data.data_file={data}", f"data.output_dir={out}", "logic.select.trials=4", "logic.heads=[[3,0],[4,5]]")
    config = configuration("stage=study", *quick, *options)
    return make_study(samples_with_truth(config.data), out / "examples-models-picturebook", study_settings(config))


def test_a_range_of_several_settings_looks_unlike_an_interval(study):
    figure = settings_figure(study)
    axis, rows = figure.axes[0], study.plan.tables["heads"].rows
    several = [i for i, row in enumerate(rows) if len(row.cases) > 1]
    assert several
    drawn = [line for line in axis.lines if same_color(line.get_color(), RANGE["color"])]
    assert [line.get_xdata()[0] for line in drawn] == several
    for line, i in zip(drawn, several, strict=True):
        assert line.get_ydata().tolist() == pytest.approx([100 * end for end in study.estimate(rows[i], METRIC)[1:]])
    assert len(axis.containers) == 1 + len(rows) - len(several)  # the bars, and an interval for each of the others
    (key,) = figure.legends
    assert [text.get_text() for text in key.get_texts()] == [
        "95 % bootstrap interval",
        "range of 95 % of several draws",
    ]


def test_what_lies_at_100_percent_is_drawn_whole_and_a_range_cuts_no_bar(study):
    for axis in settings_figure(study).axes:
        assert not any(line.get_clip_on() for line in axis.lines)
    assert "path_effects" not in RANGE


def test_every_region_has_its_bars(study):
    axis = next(axis for axis in settings_figure(study).axes if axis.get_title(loc="left") == "Mask and box")
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names == [region.replace("_", " ") for region in REGIONS]
    assert sum(len(bars) for bars in axis.containers if hasattr(bars, "patches")) == len(study.plan.tables["mask"].rows)


def test_a_criterion_that_cannot_pick_per_sample_leaves_its_place_empty(study):
    criteria = study.plan.tables["criteria"]
    lacking = replace(criteria, rows=[row for row in criteria.rows if row.labels != ("per sample", "selection_v1")])
    plan = replace(study.plan, tables={**study.plan.tables, "criteria": lacking})
    axis = next(
        axis
        for axis in settings_figure(replace(study, plan=plan)).axes
        if axis.get_title(loc="left") == "Which criteria"
    )
    fixed, picked = (bars for bars in axis.containers if hasattr(bars, "patches"))
    names = [row.labels[1] for row in criteria.rows if row.labels[0] == "fixed"]
    left = [name for name in names if name != "selection_v1"]
    assert [round(bar.get_x() + bar.get_width() / 2 + 0.2) for bar in fixed] == list(range(len(names)))
    assert [names[round(bar.get_x() + bar.get_width() / 2 - 0.2)] for bar in picked] == left


def test_all_of_it_is_on_a_page_in_letters_that_can_be_read(study):
    figure = settings_figure(study)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    assert figure.get_figwidth() == 7.1
    told = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert min(text.get_fontsize() for text in told) >= 7
    boxes = [axis.get_tightbbox(renderer) for axis in figure.axes] + [figure.legends[0].get_window_extent(renderer)]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    every = [*CRITERIA, PUBLISHED, *ALONE, *NEEDS]  # as many as a study can have
    figure.axes[1].set_xticks(range(len(every)), every)
    stagger(figure.axes[1])
    figure.draw(renderer)
    for axis in figure.axes:
        names = [label.get_window_extent(renderer) for label in axis.get_xticklabels()]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(names, 2))
