"""Several grids on one canvas: what each cell gets, what counts, and that one grid stays as it is."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from conf.schema import EntropyConfig, Grids, LogicConfig
from lab.base.errors import UserError
from lab.records.canvas import Canvas, choose_grids
from lab.records.files import load_record, save_record
from lab.records.record import Record
from llava.grid import Grid

WHOLE = Grid(0, 2, 2, (0, 0, 8, 8))
TILES = Grid(4, 4, 4, (0, 0, 8, 8), stride=5, kind="tile")  # a token behind each row
BOTH = 4 + 4 * 5


def record(grids, vis: int, seed: int = 0, **meta) -> Record:
    weights = np.random.default_rng(seed).random((3, 2, 1, vis)).astype(np.float32) / vis
    return Record(weights, {"grids": [grid.to_dict() for grid in grids], "image_size": [8, 8], **meta})


def test_one_grid_is_its_own_canvas_and_its_maps_are_the_weights_themselves():
    one = record([Grid(1, 3, 3, (-1.5, 0, 7.25, 9))], 10)
    assert one.grid == one.grids[0]
    assert_array_equal(one.maps, one.attn[..., 0, 1:].reshape(3, 2, 3, 3))
    assert np.shares_memory(one.canvas.maps(one.attn[0, 0, 0]), one.attn)


def test_tokens_between_rows_are_in_no_map():
    strided = record([TILES], BOTH)
    expected = strided.attn[..., 0, 4:].reshape(3, 2, 4, 5)[..., :4]
    assert_array_equal(strided.maps, expected)


def test_the_canvas_is_as_fine_as_the_finest_grid_and_grids_are_added():
    joined = record([WHOLE, TILES], BOTH)
    assert joined.grid == Grid(0, 4, 4, (0, 0, 8, 8))
    whole, tiles = joined.attn[0, 0, 0, :4].reshape(2, 2), joined.attn[0, 0, 0, TILES.index]
    assert_allclose(joined.maps[0, 0], tiles + np.kron(whole, np.full((2, 2), 0.25)), rtol=1e-6)


@pytest.mark.parametrize(
    "grids",
    [
        [Grid(0, 3, 3, (0, 0, 10, 6)), Grid(9, 4, 7, (0, -1.3, 10, 7.1), stride=8, kind="tile")],
        [Grid(0, 3, 3, (0, 0, 10, 6)), Grid(9, 2, 7, (0, 1, 10, 5), kind="tile")],
        [
            Grid(0, 2, 2, (0, 0, 5, 6), kind="tile"),
            Grid(4, 2, 2, (5, 0, 10, 6), kind="tile"),
            Grid(8, 2, 2, (0, 0, 10, 6)),
        ],
    ],
    ids=["tiles reach beyond", "tiles end inside", "a grid for each tile"],
)
def test_no_weight_is_lost_and_the_finest_grid_is_not_blurred(grids):
    vis = max(grid.tokens.stop for grid in grids) + 1
    joined = record(grids, vis)
    held = [token for grid in grids for token in grid.index.ravel()]
    assert_allclose(joined.maps.sum((2, 3)), joined.attn[:, :, 0, held].sum(-1), rtol=1e-5)
    x0, y0, x1, y1 = joined.grid.extent_xyxy
    for grid in grids:
        assert x0 <= grid.extent_xyxy[0] + 1e-9
        assert y0 <= grid.extent_xyxy[1] + 1e-9
        assert x1 >= grid.extent_xyxy[2] - 1e-9
        assert y1 >= grid.extent_xyxy[3] - 1e-9
    fine = min(grids, key=lambda grid: -grid.rows * grid.cols / (grid.extent_xyxy[2] - grid.extent_xyxy[0]))
    weights = np.zeros(vis, np.float32)
    weights[fine.index[0, 1]] = 0.5
    assert sorted(joined.canvas.maps(weights).ravel())[-1] == 0.5


def test_a_weight_lands_where_its_token_looks():
    joined = record([Grid(0, 3, 3, (0, 0, 10, 6)), Grid(9, 4, 7, (0, -1.3, 10, 7.1), stride=8, kind="tile")], 9 + 32)
    x0, y0, x1, y1 = joined.grid.extent_xyxy
    columns = np.linspace(x0, x1, 2 * joined.grid.cols + 1)[1::2]
    rows = np.linspace(y0, y1, 2 * joined.grid.rows + 1)[1::2]
    for grid in joined.grids:
        gx0, gy0, gx1, gy1 = grid.extent_xyxy
        for row, col in np.ndindex(grid.rows, grid.cols):
            weights = np.zeros(9 + 32, np.float32)
            weights[grid.index[row, col]] = 1
            found = joined.canvas.maps(weights)
            centre = (found.sum(0) @ columns, found.sum(1) @ rows)
            cell = (gx1 - gx0) / grid.cols, (gy1 - gy0) / grid.rows
            assert_allclose(centre, (gx0 + (col + 0.5) * cell[0], gy0 + (row + 0.5) * cell[1]), atol=0.5 * max(cell))


def test_what_counts_is_chosen():
    assert choose_grids([WHOLE, TILES], Grids.joined) == (WHOLE, TILES)
    assert choose_grids([WHOLE, TILES], Grids.whole) == (WHOLE,)
    assert choose_grids([WHOLE, TILES], Grids.tiles) == (TILES,)
    assert choose_grids([WHOLE], Grids.tiles) == (WHOLE,)  # a narrow picture may have no tiles
    both = record([WHOLE, TILES], BOTH)
    assert both.under(LogicConfig(grids=Grids.whole)).maps.shape == (3, 2, 2, 2)
    assert_array_equal(both.under(LogicConfig(grids=Grids.tiles)).maps_of([(2, 1)])[0], both.attn[2, 1, 0, TILES.index])


def test_scores_of_a_record_that_keeps_some_maps_are_those_of_the_grids_that_counted(tmp_path):
    from analyze import rank_heads
    from lab.batch.storage import with_maps_of

    both = record([WHOLE, TILES], BOTH)
    save_record(tmp_path / "a.pkl", with_maps_of(both, [(2, 1)], EntropyConfig()))
    again = load_record(tmp_path / "a.pkl")
    assert_array_equal(again.maps_of([(2, 1)]), both.maps_of([(2, 1)]))
    assert [vars(score) for score in rank_heads(again, LogicConfig())] == [
        vars(score) for score in rank_heads(both, LogicConfig())
    ]
    with pytest.raises(UserError, match=r"measured with logic\.grids=joined, not whole"):
        rank_heads(load_record(tmp_path / "a.pkl", LogicConfig(grids=Grids.whole)), LogicConfig())


def test_grids_of_one_square_are_written_as_ever():
    assert WHOLE.to_dict() == {"start": 0, "rows": 2, "cols": 2, "extent_xyxy": [0, 0, 8, 8]}
    assert TILES.to_dict() == {**Grid(4, 4, 4, (0, 0, 8, 8)).to_dict(), "stride": 5, "kind": "tile"}
    assert Grid.from_dict(TILES.to_dict()) == TILES


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stride": 3}, "a stride of 4 or more"),
        ({"kind": "half"}, "a kind of whole or tile"),
        ({"stride": 5.5}, "5.5 is not a whole number"),
        ({"kind": ["tile"]}, "a kind of whole or tile"),
        ({"stride": 10**9}, "image tokens, but there are 24"),
        ({"extent_xyxy": [0, 0, 1e-3, 1e-3]}, "lie so far apart"),
    ],
)
def test_impossible_grids_are_refused(tmp_path, change, reason):
    bad = record([WHOLE, TILES], BOTH)
    bad.meta["grids"][1] = {**bad.meta["grids"][1], **change}
    with pytest.raises(UserError, match=reason):
        save_record(tmp_path / "a.pkl", bad)


def test_a_far_corner_costs_no_memory(tmp_path):
    with pytest.raises(UserError, match="cells"):
        Canvas.over([WHOLE, Grid(4, 1, 1, (1e300, 1e300, 1.1e300, 1.1e300))])
