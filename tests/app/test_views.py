"""What was found as HTML: text stays text, maps lie where they belong, and a thousand heads stay light."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from analyze import score_all
from lab.app import views
from lab.app.knock_out import Said
from lab.app.pictures import Place, entropy_colour, part_of_sheet, reduced, sheet, sum_colour
from lab.app.state import Side, State
from lab.figures.heads import NO_ENTROPY
from llava.grid import Grid


@pytest.fixture(scope="module")
def found(desk):
    return desk.find(State("bird.png", (Side("the bird on the branch"),)), 0)


def pixels(url: str) -> np.ndarray:
    """Of a data URL, [height, width, 4]."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))


def test_a_sheet_holds_every_map_in_its_place():
    maps = np.zeros((2, 3, 4, 5), np.float32)
    maps[1, 2, 3, 0] = 0.5
    maps[0, 1, 0, 4] = 0.1
    shown = pixels(sheet(maps))
    assert shown.shape == (2 * 4, 3 * 5, 4)
    assert np.argwhere(shown[..., 3]).tolist() == [[0, 9], [7, 10]]
    assert shown[0, 9, 3] == shown[7, 10, 3]  # each to its own highest value
    assert pixels(sheet(np.zeros((1, 1, 2, 2), np.float32)))[..., 3].max() == 0


def test_a_part_of_a_sheet_is_its_own_share_of_the_background():
    assert part_of_sheet(0, 0, (1, 1)) == "background-position:0.0000% 0.0000%;background-size:100% 100%"
    assert part_of_sheet(2, 1, (3, 5)) == "background-position:25.0000% 100.0000%;background-size:500% 300%"


def test_large_maps_are_averaged_and_keep_their_places():
    maps = np.random.default_rng(0).random((1, 2, 70, 33)).astype(np.float32)
    small = reduced(maps, 20)
    assert small.shape == (1, 2, 20, 20)
    np.testing.assert_allclose(small.mean((2, 3)), maps.mean((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(reduced(maps, 35)[0, 1, 3, 4], maps[0, 1, 6:8, 4].mean(), rtol=1e-5)
    right = np.zeros((1, 1, 1, 73), np.float32)
    right[..., 72] = 1
    assert np.argmax(reduced(right, 24)) == 23
    np.testing.assert_allclose(reduced(maps[..., :8, :8], 24), maps[..., :8, :8], rtol=1e-6)


def test_a_map_lies_where_its_grid_does():
    grid = Grid(start=0, rows=4, cols=4, extent_xyxy=(0.0, -80.0, 640.0, 560.0), stride=4, kind="whole")
    assert Place.of(grid, (640, 480)) == Place(0, -100 * 80 / 480, 100, 100 * 640 / 480)


def test_colours_tell_low_from_high_and_nothing_from_something():
    assert sum_colour(0, 1) == entropy_colour(2.0, 2.0)
    assert sum_colour(1, 1) == entropy_colour(0.0, 2.0)
    assert entropy_colour(np.inf, 2.0) == NO_ENTROPY


def test_the_text_of_a_visitor_is_never_markup(found):
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    pages = [
        views.cards([(replace(found, expression=evil), [(evil, found.heat)])]),
        views.take([evil], evil, lasting=True),
        views.message(evil, "wrong"),
        views.masthead(evil, (8, 8)),
        views.answers([Said("untouched", (), evil, 1.0), Said("chosen", ((1, 2),), evil, 0.5)], False),
    ]
    assert not any("<script" in page or "<img src=x" in page for page in pages)


def test_every_head_has_a_button_that_tells_its_scores(found):
    table = score_all(found.record, found.logic)
    page = views.head_grid(found, table)
    assert page.count("data-head=") == table.attn_sum.size
    assert re.search(r'aria-label="L1 H5: attention sum 1\.00, entropy 0\.00, 1 place"', page)
    assert len(re.findall(r"<button[^>]*data-head(?![^>]*tabindex)", page)) == 1  # one of them is reached by Tab


def test_the_maps_of_all_heads_are_sent_once_and_inherited_by_none(found):
    page = views.head_grid(found, score_all(found.record, found.logic))
    assert page.count("data:image/png") == 1
    assert not re.search(r'style="[^"]*data:', page)  # a thousand cells would each carry it


def test_marks_name_the_chosen_heads_and_those_below_the_threshold(found):
    told = views.marks(found, score_all(found.record, found.logic))
    assert "&#34;chosen&#34;: [&#34;L1H5&#34;, &#34;L1H6&#34;, &#34;L2H4&#34;]" in told
    assert "L0H0" in told.partition("below")[2]


def test_presence_is_told_where_the_heads_are_calibrated(found):
    told = replace(found, localization=replace(found.localization, presence=0.957))
    assert "96 % sure that it is there" in views.cards([(told, [])])
    silent = replace(found, localization=replace(found.localization, presence=None))
    assert "Presence" not in views.cards([(silent, [])])


def test_nothing_found_is_said(found):
    empty = replace(found.localization, mask=np.zeros_like(found.mask), box_xyxy=None, box_xywh=None)
    page = views.cards([(replace(found, localization=empty), [])])
    assert "none: the mask is empty, nothing stands out" in page
    assert "lh-box" not in page.replace("lh-boxtext", "")


def test_a_box_that_presence_forbids_is_not_said_to_be_an_empty_mask(found):
    gone = replace(found.localization, mask=np.zeros_like(found.mask), box_xyxy=None, box_xywh=None, presence=0.1234)
    page = views.cards([(replace(found, localization=replace(gone, absent=True)), [])])
    assert "none: presence is 0.1234, below logic.presence.threshold" in page
    assert "the mask is empty" not in page


def test_answers_mark_the_words_that_changed():
    said = [
        Said("untouched", (), "blue plain", 0.99),
        Said("chosen", ((1, 5),), "green plain", 0.1),
        Said("others", ((1, 3),), "blue plain", 0.98),
    ]
    page = views.answers(said, False)
    assert re.findall(r"<mark>(\w+)</mark>", page) == ["green"]
    assert "The answer changes; with others in their place it changes 0 of 1 times." in page
    assert "without the chosen heads" in page
    assert "only the chosen heads" in views.answers(said, True)
