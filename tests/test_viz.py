"""Figures: maps where the model saw them, one scale for all, text that fits in any script, and windows only where there
are any.
"""

import itertools
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image

import viz
from analyze import (
    attention_sums,
    chord_elbow,
    components,
    passes_threshold,
    score_all,
    score_heads,
    scores_of,
    spatial_entropy,
)
from bbox import localize
from conf.schema import EntropyConfig
from lab.figures import style
from lab.records.record import Record
from llava.grid import Grid
from tests.conftest import configuration

CFG = configuration("model=llava15_7b", "viz.components=true")
SHAPES = {"landscape": (640, 360), "portrait": (360, 640), "square": (400, 400)}


def make_record(size: tuple[int, int], grid: Grid | None = None, query: str = "the bird") -> Record:
    """4 layers of 8 heads; each head looks at one place of its own."""
    grid = grid or Grid.padded_square(24, size)
    y, x = np.mgrid[: grid.rows, : grid.cols]
    rng = np.random.default_rng(0)
    maps = [np.exp(-((y - row) ** 2 + (x - col) ** 2) / 8) for row, col in rng.uniform(8, 16, (32, 2))]
    share = rng.uniform(0, 1, 32) ** 3
    attn = np.stack([s * m / m.sum() for s, m in zip(share, maps, strict=True)]).reshape(4, 8, 1, -1).astype(np.float32)
    return Record(attn, {"query": query, "image_size": list(size), "grids": [grid.to_dict()]})


def make_figures(size=(640, 360), k=3, query="the bird", record=None, cfg=CFG):
    record = record or make_record(size, query=query)
    heads = [(i // 8, i % 8) for i in range(8, 8 + k)]
    return viz.sample_figures(
        record, localize(record, heads, cfg.logic), Image.new("RGB", size, "white"), cfg.logic, cfg.viz
    )


def overlays(figure) -> list[AxesImage]:
    return [axis.images[1] for axis in figure.axes if len(axis.images) == 2]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


# the chosen heads over the picture


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", ["padded", "cropped"])
def test_a_cell_is_coloured_exactly_where_the_model_saw_it(shape, grid):
    size = SHAPES[shape]
    place = Grid.padded_square(12, size) if grid == "padded" else Grid.centre_crop(12, size, 336)
    record = make_record(size, place)
    record.attn[:] = 0
    record.attn[1, 0, 0, 5 * 12 + 6] = 0.5  # row 5, column 6
    figure = make_figures(size, 1, record=record)["top1"]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    seen = np.asarray(canvas.buffer_rgba())[..., :3].sum(2).astype(int)
    axis = next(a for a in figure.axes if a.get_title().startswith("L1 H0"))
    box = axis.get_window_extent().extents.round().astype(int)  # left, bottom, right, top
    panel = seen[seen.shape[0] - box[3] + 3 : seen.shape[0] - box[1] - 3, box[0] + 3 : box[2] - 3]
    dark = np.argwhere(panel < 300)
    (top, left), (bottom, right) = dark.min(0) + 3, dark.max(0) + 4
    scale = size[0] / (box[2] - box[0])
    x0, y0, x1, y1 = place.extent_xyxy
    cell = (x1 - x0) / 12, (y1 - y0) / 12
    expected = (x0 + 6 * cell[0], y0 + 5 * cell[1], x0 + 7 * cell[0], y0 + 6 * cell[1])
    assert np.array([left, top, right, bottom]) * scale == pytest.approx(expected, abs=2 * scale)


def test_all_maps_share_one_scale_which_the_colour_bar_tells():
    figure = make_figures()["top3"]
    assert len(overlays(figure)) == 4
    assert len({id(image.norm) for image in overlays(figure)}) == 1
    assert all(image.get_interpolation() == "nearest" for image in overlays(figure))
    assert "attention per cell, %" in [axis.get_ylabel() for axis in figure.axes]


def test_titles_name_head_attention_sum_and_entropy():
    record = make_record((640, 360))
    score = scores_of(record, [(1, 2)], CFG.logic)[0]
    assert (
        viz.score_title(replace(score, layer=14, head=24, attn_sum=0.612, spatial_entropy=0.416))
        == "L14 H24\nsum 0.61, entropy 0.42"  # no letter but those of the head's name
    )
    assert viz.score_title(replace(score, spatial_entropy=np.inf)).endswith("entropy ∞")
    titles = [axis.get_title() for axis in make_figures()["top3"].axes]
    assert {title.split("\n")[0] for title in titles} >= {"L1 H0", "L1 H1", "L1 H2", "together"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 3, 5, 10])
def test_panels_and_titles_never_touch_and_stay_on_the_sheet(shape, k):
    figure = make_figures(SHAPES[shape], k)[f"top{k}"]
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    assert figure.get_figwidth() <= style.PAGE
    boxes = [axis.get_window_extent(renderer) for axis in figure.axes]
    boxes += [axis.title.get_window_extent(renderer) for axis in figure.axes if axis.get_title()]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    boxes += [axis.get_legend().get_window_extent(renderer) for axis in figure.axes if axis.get_legend()]
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_of_very_many_heads_the_first_are_shown_and_said_to_be():
    figure = make_figures(k=24)["top24"]
    assert len(overlays(figure)) == viz.MAX_HEADS_SHOWN + 1
    assert "all 24 together\nsmoothed" in [axis.get_title() for axis in figure.axes]


def test_the_outline_of_a_mask_at_the_edge_runs_along_the_edge():
    record = make_record((640, 360))
    result = localize(record, [(1, 0)], CFG.logic)
    result = replace(result, mask=np.ones_like(result.mask), box_xyxy=(0, 0, 639, 359))
    figure = viz.top_heads_figure(
        Image.new("RGB", (640, 360)),
        "",
        record.maps[1, :1],
        scores_of(record, [(1, 0)], CFG.logic),
        result,
        record.grid,
    )
    (outline,) = [c for c in figure.axes[0].collections if len(c.get_paths())]
    corners = outline.get_paths()[0].vertices
    assert (corners.min(0).tolist(), corners.max(0).tolist()) == ([0, 0], [640, 360])


def test_an_empty_mask_is_said_in_words():
    record = make_record((640, 360))
    record.attn[:] = 0
    figure = make_figures(record=record)["top3"]
    assert [t.get_text() for axis in figure.axes if axis.get_legend() for t in axis.get_legend().get_texts()] == [
        "no mask, no box"
    ]


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (1, 1)])
def test_a_picture_of_one_pixel_across_is_stretched_until_it_can_be_seen(size, tmp_path):
    figures = make_figures(size)
    for name, figure in figures.items():
        viz.save_figure(figure, tmp_path / f"{name}.png", dpi=40)
    figure = figures["top3"]
    assert all(axis.get_window_extent().width > 50 and axis.get_window_extent().height > 50 for axis in figure.axes[:5])
    assert (figure.axes[0].get_title(loc="right") == "stretched to be seen") == (size != (1, 1))


def test_colours_keep_their_order_in_grey_print():
    grey = style.HEAT(np.linspace(0, 1, 64))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) < 0).all()  # more attention is darker
    bar = make_figures()["top3"].axes[-1].images[0].get_array()[:, 0] @ [0.299, 0.587, 0.114]
    assert (np.diff(bar) < 0).all()  # over the pale picture too


# text


def test_long_expressions_wrap_within_the_sheet_and_end_in_an_ellipsis():
    for query in ("the cat that sits beside the umbrella " * 40, "W" * 3000, "床の上の猫" * 200):
        figure = make_figures(SHAPES["portrait"], 1, query=query)["top1"]
        (caption,) = figure.texts
        assert 2 <= len(caption.get_text().splitlines()) <= style.CAPTION_LINES
        assert caption.get_text().endswith("…")
        with style.any_glyphs():
            box = caption.get_window_extent(FigureCanvasAgg(figure).get_renderer())
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_expressions_from_right_to_left_begin_at_the_right():
    assert make_figures(query="القطة على الأرض")["top3"].texts[0].get_horizontalalignment() == "right"
    assert make_figures(query="12 החתול")["heads"].texts[0].get_horizontalalignment() == "right"
    assert make_figures(query="cat القطة")["top3"].texts[0].get_horizontalalignment() == "left"


def test_characters_without_a_font_are_reported_once_and_not_by_warnings(tmp_path, monkeypatch, caplog):
    style._tell_of_missing_fonts.cache_clear()
    monkeypatch.setattr(style, "_family_with", lambda character: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.png", "b.svg"):
            viz.save_figure(make_figures(query="猫 ह")["top3"], tmp_path / name, dpi=40)
    assert caplog.text.count("no font on this machine") == 1


@pytest.mark.parametrize(
    "said",
    ["Glyph 2361 (\\N{DEVANAGARI LETTER HA}) missing", "Matplotlib currently does not support Devanagari natively."],
)
def test_whatever_matplotlib_says_of_missing_characters_is_not_passed_on(said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with style.any_glyphs():
            warnings.warn(said, UserWarning, stacklevel=1)


def test_what_cannot_be_seen_or_turns_the_text_around_is_left_out():
    assert texts(make_figures(query="a\x00 \x07b\n\u202ec\ud800 $x^2$ ")["top3"]) == ["“a b c $x^2$”"]


# all heads


def test_the_map_of_all_heads_marks_the_chosen_and_the_elbow():
    record = make_record((640, 360))
    figure = make_figures(record=record)["heads"]
    sums, entropy, curve = figure.axes[:3]
    for axis in (sums, entropy):
        assert {(p.get_x() + 0.5, p.get_y() + 0.5) for p in axis.patches} == {
            (0, 1),
            (1, 1),
            (2, 1),
        }  # x is the head, y the layer
    lines = {line.get_label(): line for line in curve.lines}
    elbow = chord_elbow(attention_sums(record))
    assert lines["elbow"].get_ydata() == pytest.approx([elbow])
    assert f"threshold {elbow:.3f}" in lines
    assert sorted(lines["chosen heads"].get_ydata()) == pytest.approx(sorted(record.attn[1, :3].sum((1, 2))))
    passing = int(passes_threshold(attention_sums(record), CFG.logic.threshold).sum())
    assert curve.get_title(loc="left") == f"{passing} of 32 heads pass"
    assert entropy.images[0].get_alpha() is None  # every colour is one of the bar's
    (struck,) = entropy.collections
    centres = {tuple(line.mean(0).round().astype(int).tolist()) for line in struck.get_segments()}
    below = np.argwhere(attention_sums(record) < elbow)
    assert centres == {(head, layer) for layer, head in below.tolist()}
    assert "below threshold" in [text.get_text() for text in entropy.get_legend().get_texts()]


def test_without_a_threshold_every_head_passes_and_no_chord_is_drawn():
    cfg = configuration("model=llava15_7b", "logic.threshold.method=none")
    curve = make_figures(cfg=cfg)["heads"].axes[2]
    assert "32 of 32" in curve.get_title(loc="left")
    assert "chord" not in [line.get_label() for line in curve.lines]


def test_all_heads_get_an_entropy_and_those_that_pass_the_same_as_in_the_ranking():
    record = make_record((640, 360))
    everything, ranked = score_all(record, CFG.logic), score_heads(record, CFG.logic)
    assert (everything.passes == ranked.passes).all()
    assert not everything.passes.all()
    assert (everything.spatial_entropy[ranked.passes] == ranked.spatial_entropy[ranked.passes]).all()
    assert np.isfinite(everything.spatial_entropy).sum() > np.isfinite(ranked.spatial_entropy).sum()


@pytest.mark.parametrize("weight", ["mass", "area"])
def test_the_places_that_are_drawn_are_those_that_the_entropy_counts(weight):
    config = EntropyConfig(weight=weight)
    maps = (np.random.default_rng(0).random((20, 12, 12)) ** 30).astype(np.float32) * 0.1
    entropies, counts = spatial_entropy(maps, config)
    assert counts.max() > 5
    for attention, entropy, count in zip(maps, entropies, counts, strict=True):
        labels, shares = components(attention, config)
        assert labels.max() == len(shares) == count
        assert -(shares * np.log(shares)).sum() == pytest.approx(entropy, rel=1e-5)


def test_components_are_drawn_with_their_shares_on_request_only():
    figure = make_figures()["components"]
    assert [axis.get_title() for axis in figure.axes] == [a.get_title() for a in make_figures()["top3"].axes[1:4]]
    assert all(axis.texts for axis in figure.axes)
    assert set(make_figures(cfg=configuration("model=llava15_7b"))) == {"top3", "heads"}
    assert set(make_figures(cfg=configuration("model=llava15_7b", "viz.heads=false"))) == {"top3"}


@pytest.mark.parametrize("size", [*SHAPES.values(), (60, 1000), (1000, 40)])
def test_shares_lie_on_the_picture_and_never_on_each_other(size):
    record = make_record(size, replace(Grid.padded_square(12, size), extent_xyxy=(0, 0, *size)))
    rng = np.random.default_rng(3)
    record.attn[1] = rng.random(record.attn[1].shape) ** 12 / 40  # many places, close together
    figure = make_figures(size, 8, record=record)["components"]
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for axis in figure.axes:
        frame = axis.get_window_extent(renderer)
        boxes = [patch.get_window_extent(renderer) for patch in axis.patches if patch.get_facecolor()[:3] == (1, 1, 1)]
        assert len(boxes) == len(axis.texts) == 6
        for i, box in enumerate(boxes):
            assert frame.x0 - 1 <= box.x0 < box.x1 <= frame.x1 + 1
            assert frame.y0 - 1 <= box.y0 < box.y1 <= frame.y1 + 1
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        for text in axis.texts:
            inner = text.get_window_extent(renderer)
            assert any(box.x0 <= inner.x0 and inner.x1 <= box.x1 for box in boxes)


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("name", ["top", "heads", "components"])
def test_no_figure_is_wider_than_a_page_and_no_text_smaller_than_seven_points(k, name):
    figures = make_figures(k=k, query="the very long expression " * 30)
    figure = figures[f"top{k}" if name == "top" else name]
    assert figure.get_figwidth() <= style.PAGE == 7.1
    told = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert len(told) > 2
    assert min(text.get_fontsize() for text in told) >= 7


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (2, 40)])
def test_figures_over_many_samples_are_as_wide_as_a_page_and_mark_the_chosen_heads(shape):
    rng = np.random.default_rng(0)
    values = rng.random(shape)
    chosen = [(0, 1), (1, 3)]
    quality = viz.head_quality_figure(values, values, 0.5, chosen)
    assert {(p.get_x() + 0.5, p.get_y() + 0.5) for p in quality.axes[0].patches} == {(1, 0), (3, 1)}
    points = {one.get_label(): one.get_offsets() for one in quality.axes[2].collections}
    assert points["chosen heads"][:, 0].tolist() == pytest.approx([100 * values[head] for head in chosen])
    assert len(points["other heads"]) == values.size - 2
    for figure in (quality, viz.selection_figure(values, values / 9, chosen, 2, "a model " * 30)):
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        assert figure.get_figwidth() == 7.1
        told = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
        assert min(text.get_fontsize() for text in told) >= 7
        boxes = [axis.get_tightbbox(renderer) for axis in figure.axes]
        low, high = np.min([box.min for box in boxes], axis=0), np.max([box.max for box in boxes], axis=0)
        assert (low >= 0).all()
        assert (high <= figure.bbox.max).all()
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


# files and windows


def test_the_text_of_a_pdf_is_text(tmp_path):
    viz.save_figure(make_figures()["heads"], tmp_path / "figure.pdf")
    written = (tmp_path / "figure.pdf").read_bytes()
    assert b"/Subtype /Type3" not in written  # shapes of letters, which no reader can search or copy
    assert b"/CIDFontType2" in written or b"/TrueType" in written


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_saved_in_the_format_asked_for_the_same_bytes_each_time(tmp_path, suffix, start):
    path = tmp_path / f"figure.{suffix}"
    saved = []
    for _ in range(2):
        viz.save_figure(make_figures()["top3"], path, dpi=60)
        saved.append(path.read_bytes())
    assert saved[0].startswith(start)
    assert saved[0] == saved[1]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_display_that_does_not_answer_is_reported_once(monkeypatch, caplog):
    def broken():
        raise ImportError("cannot load backend\n'tkagg'")

    viz.can_show.cache_clear()
    before = plt.get_fignums()
    monkeypatch.setattr("matplotlib.pyplot.get_backend", broken)
    for _ in range(3):
        viz.show(*make_figures().values())
    assert caplog.text.count("no window is opened") == 1
    assert "cannot load backend 'tkagg'" in caplog.text
    assert plt.get_fignums() == before
    viz.can_show.cache_clear()
