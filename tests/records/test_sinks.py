"""Image tokens at which most heads look: found, left out everywhere, kept in partial files, named and hatched."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from analyze import attention_sums, rank_heads, scores_of
from bbox import localize
from conf.schema import Contrast, FilterConfig, LogicConfig
from lab.base.errors import UserError
from lab.batch.storage import with_maps_of
from lab.picturebook.sinks import SinkConfig, measure, report
from lab.records.files import load_record, save_record
from lab.records.record import Record
from lab.records.sinks import cells, sinks
from lab.stages.results import sinks_line, write_ranking
from llava.grid import Grid
from tests.conftest import configuration
from tests.test_analyze import blobs

SIDE, PLANTED = 12, (5, 138)  # in the first row and the last
SHARE = LogicConfig(filter=FilterConfig(sinks=0.5))


def record(*, planted: bool = True, generic: bool = False) -> Record:
    """6 layers x 4 heads; in most of them two cells hold half of the attention, or nothing."""
    attn = blobs(np.random.default_rng(0), 6, 4, SIDE).reshape(6, 4, 1, -1).astype(np.float32)
    attn[..., list(PLANTED)] = 0
    looks = np.arange(24).reshape(6, 4) % 4 != 0
    if planted:
        attn[looks] *= 0.5
        attn[..., list(PLANTED)] = looks[..., None, None] * attn.sum(-1, keepdims=True) / 2
    return Record(attn, {"image_size": [120, 60]}, generic=attn.copy() if generic else None)


def test_cells_at_which_most_heads_look_are_left_out_of_sums_entropies_and_maps():
    seen, plain = record().under(SHARE), record().under(LogicConfig())
    assert seen.left_out == PLANTED
    assert plain.left_out == ()
    cut = record()
    cut.attn[..., list(PLANTED)] = 0
    assert_array_equal(seen.weights, cut.weights)
    assert_array_equal(attention_sums(seen), attention_sums(cut))
    assert rank_heads(seen, SHARE) == rank_heads(cut, SHARE) != rank_heads(plain, LogicConfig())
    assert_array_equal(localize(seen, [(2, 1)], SHARE).heat, localize(cut, [(2, 1)], SHARE).heat)
    assert plain.weights[..., PLANTED[0]].max() > 0  # the record itself stays as it is


def test_nothing_is_left_out_where_most_heads_look_at_places_of_their_own():
    seen = record(planted=False).under(SHARE)
    assert seen.left_out == ()
    assert np.shares_memory(seen.weights, seen.attn)
    few = [np.eye(144, dtype=np.float32)[None, :10].repeat(2, 0)]  # ten heads a layer, each with a cell of its own
    assert sinks(few, 0.5).size == 0
    blind = np.concatenate([record().attn[:, :, 0], np.zeros((9, 4, 144), np.float32)])  # layers without a map
    assert sinks([blind], 0.5).tolist() == list(PLANTED)


def test_the_generic_prompt_tells_sinks_too_and_loses_them():
    logic = replace(SHARE, contrast=Contrast.difference)
    seen = replace(record(planted=False), generic=record().attn).under(logic)
    assert seen.left_out == PLANTED
    assert seen.generic_maps_of([(2, 1)]).reshape(-1)[list(PLANTED)].max() == 0


@pytest.mark.parametrize("name", ["a.pkl", "a.pkl.gz", "a.safetensors"])
def test_a_record_of_some_maps_knows_what_was_left_out(tmp_path, name):
    heads = [(2, 1), (4, 3)]
    whole = record(generic=True).under(SHARE)
    save_record(tmp_path / name, with_maps_of(whole, heads, SHARE.entropy))
    again = load_record(tmp_path / name, SHARE)
    assert again.left_out == PLANTED
    assert rank_heads(again, SHARE) == rank_heads(whole, SHARE)
    assert_array_equal(again.maps_of(heads), whole.maps_of(heads))
    for other in (LogicConfig(), LogicConfig(filter=FilterConfig(sinks=0.3))):
        with pytest.raises(UserError, match=r"measured with logic\.filter\.sinks=0\.5, not .*: set it so"):
            scores_of(again.under(other), heads, other)
    save_record(tmp_path / name, with_maps_of(record().under(LogicConfig()), heads, SHARE.entropy))
    with pytest.raises(UserError, match=r"measured with logic\.filter\.sinks=null, not 0\.5"):
        rank_heads(load_record(tmp_path / name, SHARE), SHARE)


def test_a_ranking_names_them_and_the_figure_hatches_them(tmp_path):
    import viz

    seen = record().under(SHARE)
    ranking = rank_heads(seen, SHARE)
    _, file = write_ranking(tmp_path / "a.pkl", ranking, seen.left_out)
    assert {tuple(row["sinks"]) for row in json.loads(file.read_text())} == {PLANTED}
    assert sinks_line(seen) == "\nleft out: 2 of 144 image tokens, at which most heads look"
    assert sinks_line(record().under(LogicConfig())) == ""
    result = localize(seen, [(2, 1), (3, 2)], SHARE)
    drawn = viz.sample_figures(seen, result, Image.new("RGB", (120, 60)), SHARE, configuration().viz)["top2"]
    hatched = [[p.get_bbox().extents.tolist() for p in axis.patches if p.get_hatch()] for axis in drawn.axes]
    place = [[50, 0, 60, 5], [60, 55, 70, 60]]  # a cell is 10 x 5 pixels
    assert [boxes for boxes in hatched if boxes] == [place, place, place]


def test_cells_of_several_grids():
    grids = [Grid.stretched(2, 2, (80, 40)), Grid(4, 2, 2, (40.0, 0.0, 80.0, 40.0), 3, "tile")]
    assert cells(grids, [3, 7]) == [(40, 20, 80, 40), (40, 20, 60, 40)]


def test_the_published_rules_leave_nothing_out():
    for rules in ("selection_v1", "paper", "paper_floor"):
        assert configuration(f"logic={rules}").logic.filter.sinks is None


def test_planted_sinks_are_found_and_the_rest_stays():
    found = measure(SinkConfig(n=2, find_n=2, top_n=3))
    numbers = [number for _, number in found.values()]
    assert numbers[:3] == [0, 0, 0]
    assert 0 < numbers[3] <= 3
    ious = [boxes for boxes, _ in found.values()]
    assert_array_equal(ious[0], ious[1])
    lines = report(found).splitlines()
    assert lines[2].startswith("| as they are | all | 0.0 | ")
    assert len(lines) == 6
