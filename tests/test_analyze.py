"""Scores, rankings and selection frequencies: against the literal rules, and on maps whose answer is known."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from analyze import (
    HeadScore,
    attention_sums,
    bottom_row_max,
    chord_elbow,
    measure_heads,
    most_selected,
    passes_threshold,
    rank_heads,
    score_heads,
    scores_of,
    selection_frequency,
    spatial_entropy,
    tied_at,
)
from conf.schema import EntropyConfig, FilterConfig, Grids, LogicConfig, ModelConfig, ThresholdConfig, Ties
from lab.base.errors import UserError
from lab.bench import reference_rules
from lab.heads.choice import head_choice
from lab.records.record import Record
from llava.grid import Grid
from tests.conftest import configuration

ROOT = Path(__file__).parents[1]
PAPER_ENTROPY = EntropyConfig(center=1.0, weight="area", flat_is_focused=False)
PAPER = LogicConfig(entropy=PAPER_ENTROPY, filter=FilterConfig(bottom_row=None))


def blobs(rng: np.random.Generator, layers: int, heads: int, side: int) -> np.ndarray:
    """Up to five bumps per head over a little noise."""
    y, x = np.mgrid[:side, :side]
    maps = np.zeros((layers, heads, side, side))
    for place in np.ndindex(layers, heads):
        for _ in range(rng.integers(1, 6)):
            cy, cx, width = *rng.uniform(0, side, 2), rng.uniform(0.4, side / 8)
            maps[place] += rng.random() * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
        maps[place] += 0.05 * rng.random((side, side))
        maps[place] *= rng.beta(1, 4) / maps[place].sum()
    return maps


def one_cell(rng: np.random.Generator, layers: int, heads: int, side: int) -> np.ndarray:
    """All heads alike but for the place they look at: only rounding tells them apart."""
    maps = np.full((layers, heads, side * side), 0.1 / side**2)
    for place in np.ndindex(layers, heads):
        maps[place][rng.integers(side * side)] += 0.6
    return maps


def one_blob(rng: np.random.Generator, layers: int, heads: int, side: int) -> np.ndarray:
    """One 3 x 3 place per head, with equal masses or almost."""
    maps = np.full((layers, heads, side, side), 1e-4)
    for place in np.ndindex(layers, heads):
        row, col = rng.integers(0, side - 2, 2)
        maps[place][row : row + 3, col : col + 3] += rng.random((3, 3)) * 0.1
    return maps


def noise(rng: np.random.Generator, layers: int, heads: int, side: int) -> np.ndarray:
    """Softmax rows of many temperatures, part of the weight on text."""
    logits = rng.normal(size=(layers, heads, side * side + 9)) * rng.uniform(0.2, 4, size=(layers, heads, 1))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True))[..., : side * side]


def diffuse(rng: np.random.Generator, layers: int, heads: int, side: int) -> np.ndarray:
    """Positive everywhere and nowhere by more than 0.001 above twice the mean, beside a few ordinary heads."""
    maps = 1e-4 * rng.random((layers, heads, side * side)) ** 4
    maps[-1, 0, 0] = 0.3
    return maps


def flat(rng: np.random.Generator, layers: int, heads: int, side: int) -> np.ndarray:
    return np.broadcast_to(rng.random((layers, heads, 1)) / side**2, (layers, heads, side * side))


def all_equal(_: np.random.Generator, layers: int, heads: int, side: int) -> np.ndarray:
    return np.full((layers, heads, side * side), 0.7 / side**2)


def bottom_row(rng: np.random.Generator, layers: int, heads: int, side: int) -> np.ndarray:
    """Many heads with weights around the limit of 0.05 in the last row."""
    maps = blobs(rng, layers, heads, side)
    maps[:, :, -1, rng.integers(side)] = rng.uniform(0.03, 0.07, (layers, heads))
    return maps


def all_at_the_bottom(rng: np.random.Generator, layers: int, heads: int, side: int) -> np.ndarray:
    maps = np.zeros((layers, heads, side, side))
    maps[:, :, -1, 0] = 0.5
    return maps


def one_strong_head(rng: np.random.Generator, layers: int, heads: int, side: int) -> np.ndarray:
    """The elbow is the largest sum, in a layer that must not be selected."""
    maps = 1e-3 * one_cell(rng, layers, heads, side)
    maps[0, 0, 0] = 0.9
    return maps


PATTERNS = [blobs, one_cell, one_blob, noise, diffuse, flat, all_equal, bottom_row, all_at_the_bottom, one_strong_head]
SHAPES = [(4, 3, 4), (3, 5, 7), (2, 4, 8), (1, 1, 5), (6, 8, 16), (5, 4, 24)]


def assert_as_the_rules(attn: np.ndarray, dtype: torch.dtype, min_keep: int) -> None:
    tensor = torch.from_numpy(np.ascontiguousarray(attn, np.float32)).to(dtype)
    got = rank_heads(Record.from_tensor(tensor), LogicConfig(threshold=ThresholdConfig(min_keep=min_keep)))
    assert [score.to_dict() for score in got] == reference_rules.ranking(tensor, min_keep)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_ranking_equals_the_literal_rules_to_the_last_bit(pattern, shape, dtype):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        attn = pattern(rng, *shape).reshape(*shape[:2], 1, -1)
        assert_as_the_rules(attn, dtype, min_keep=int(rng.integers(1, 6)))


@pytest.mark.parametrize("pattern", [blobs, noise, one_blob])
def test_ranking_equals_the_literal_rules_on_a_full_size_record(pattern):
    assert_as_the_rules(
        pattern(np.random.default_rng(7), 32, 32, 24).reshape(32, 32, 1, 576), torch.float32, min_keep=1
    )


def test_ranking_leaves_the_record_as_it_was():
    attn = blobs(np.random.default_rng(0), 3, 3, 8).reshape(3, 3, 1, 64).astype(np.float32)
    before = attn.copy()
    threads = torch.get_num_threads()
    rank_heads(Record(attn), LogicConfig())
    assert_array_equal(attn, before)
    assert torch.get_num_threads() == threads


def test_ranking_takes_the_configuration_of_the_command_line():
    record = Record(blobs(np.random.default_rng(0), 4, 3, 8).reshape(4, 3, 1, 64).astype(np.float32))
    composed = configuration("logic=selection_v1", "logic.heads=[[2,1],[0,0]]").logic
    assert rank_heads(record, composed) == rank_heads(record, LogicConfig())
    assert chosen_heads(record, [], composed) == [(2, 1), (0, 0)]


# threshold


@pytest.mark.parametrize(
    ("values", "elbow"),
    [
        ([], 0.0),
        ([0.3], 0.3),
        ([0.3, 0.2], 0.2),
        ([0.4, 0.4, 0.4], 0.4),
        ([9.0, 0.0, 1.0, 2.0, 1.0], 2.0),  # sorted 0 1 1 2 9: the last low one is farthest below the chord
        ([0.0, 8.0, 8.5, 9.0], 8.0),  # and the first high one farthest above it
    ],
)
def test_elbow_is_the_value_farthest_from_the_chord(values, elbow):
    assert chord_elbow(np.array(values)) == elbow


def test_threshold_keeps_its_own_head_and_none_keeps_all():
    sums = np.array([[0.0, 0.1, 0.1], [0.2, 0.9, 0.9]])
    assert_array_equal(passes_threshold(sums, ThresholdConfig()), sums >= chord_elbow(sums))
    blind = np.insert(sums, [0, 1, 1], 0, axis=0)  # layers that form no map of the image change no threshold
    assert_array_equal(
        passes_threshold(blind, ThresholdConfig())[[1, *range(4, len(blind))]], sums >= chord_elbow(sums)
    )
    assert passes_threshold(sums, ThresholdConfig()).sum() == 3
    assert passes_threshold(sums, ThresholdConfig(method="none")).all()


def test_unknown_methods_are_refused_with_the_choices():
    with pytest.raises(UserError, match=r"threshold\.method=elbow: choose from chord, value, none"):
        passes_threshold(np.ones((2, 2)), ThresholdConfig(method="elbow"))
    with pytest.raises(UserError, match=r"entropy\.weight=count: choose from mass, area"):
        spatial_entropy(np.eye(3, dtype=np.float32)[None], EntropyConfig(weight="count"))


def test_one_threshold_over_many_samples_replaces_the_samples_own():
    rng = np.random.default_rng(3)
    records = [Record(blobs(rng, 4, 4, 8).reshape(4, 4, 1, 64).astype(np.float32)) for _ in range(3)]
    passes = passes_threshold(np.mean([attention_sums(record) for record in records], axis=0), ThresholdConfig())
    for record in records:
        ranked = {(score.layer, score.head) for score in rank_heads(record, PAPER, passes)}
        assert ranked == {(layer, head) for layer, head in np.argwhere(passes).tolist() if layer >= 2}


# entropy


def quarters(*corners: float) -> np.ndarray:
    """An 8 x 8 map with one cell of the given weight in up to four corners."""
    cells = np.zeros((8, 8), np.float32)
    for (row, col), weight in zip([(0, 0), (0, 7), (7, 0), (7, 7)], corners, strict=False):
        cells[row, col] = weight
    return cells


def test_entropy_of_equal_places_is_the_logarithm_of_their_number():
    entropy, components = spatial_entropy(
        np.stack([quarters(0.2), quarters(0.2, 0.2), quarters(*4 * [0.2])]), EntropyConfig()
    )
    assert_allclose(entropy, np.log([1, 2, 4]), atol=1e-6)
    assert_array_equal(components, [1, 2, 4])


def test_entropy_weighs_places_by_mass_or_by_area():
    cells = quarters(0.3, 0.1)
    cells[1, 0] = 0.3  # the first place has two of three cells
    mass, area = (
        spatial_entropy(cells[None], EntropyConfig(center=0, weight=weight))[0][0] for weight in ("mass", "area")
    )
    assert_allclose(mass, -(6 / 7 * math.log(6 / 7) + 1 / 7 * math.log(1 / 7)), rtol=1e-6)
    assert_allclose(area, -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)), rtol=1e-12)


def test_cells_that_touch_at_a_corner_are_one_place_and_maps_do_not_touch_each_other():
    diagonal = np.diag([0.1, 0.1, 0.1]).astype(np.float32)
    assert_array_equal(spatial_entropy(np.stack([diagonal] * 4), EntropyConfig(center=1))[1], [1, 1, 1, 1])


def test_mass_too_small_for_a_place_still_counts_in_the_total():
    cells = quarters(0.5)
    cells[4, 4] = 0.0005
    entropy, components = spatial_entropy(cells[None], EntropyConfig(center=0))
    p = 0.5 / 0.5005
    assert components[0] == 1
    assert_allclose(entropy[0], -p * math.log(p), rtol=1e-3)


def test_a_map_without_places_is_focused_only_where_the_reference_is_followed():
    faint = np.zeros((1, 8, 8), np.float32)
    faint[0, 0, 0] = 0.0005
    assert spatial_entropy(faint, EntropyConfig())[0] == 0
    assert spatial_entropy(faint, PAPER_ENTROPY)[0] == np.inf


def test_a_map_with_nothing_above_its_mean_has_infinite_entropy():
    flat_maps = np.stack([np.zeros((4, 4)), np.full((4, 4), 0.0625)]).astype(np.float32)
    for config in (EntropyConfig(), PAPER_ENTROPY):
        assert_array_equal(spatial_entropy(flat_maps, config)[0], [np.inf, np.inf])


def test_entropy_of_no_maps_is_empty():
    entropy, components = spatial_entropy(np.zeros((0, 4, 4), np.float32), EntropyConfig())
    assert entropy.shape == components.shape == (0,)


def test_bottom_row_is_the_last_row():
    maps = np.zeros((2, 3, 4), np.float32)
    maps[0, 2, 1], maps[1, 1, 1] = 0.2, 0.3
    assert_allclose(bottom_row_max(maps), [0.2, 0])


# ranking


def layered(*heads: np.ndarray) -> Record:
    """One head per layer, after two layers of faint ones."""
    faint = np.full((8, 8), 1e-4, np.float32)
    return Record(np.stack([faint, faint, *heads]).reshape(-1, 1, 1, 64))


def test_focused_heads_come_first_and_ties_keep_layer_order():
    record = layered(quarters(0.3, 0.3), quarters(0.6), quarters(0.3, 0.3), quarters(0.15, 0.15, 0.15, 0.15))
    logic = LogicConfig(threshold=ThresholdConfig(method="none"), filter=FilterConfig(bottom_row=None))
    assert [score.layer for score in rank_heads(record, logic)] == [3, 2, 4, 5]


def test_the_paper_ranks_no_diffuse_head_that_the_reference_ranks_first():
    faint = (1e-3 * np.random.default_rng(0).random((8, 8)) ** 8).astype(np.float32)
    record = layered(quarters(0.3, 0.3), faint)
    layers = {}
    for entropy in (EntropyConfig(), PAPER_ENTROPY):
        logic = LogicConfig(threshold=ThresholdConfig(method="none"), entropy=entropy)
        layers[entropy.flat_is_focused] = [score.layer for score in rank_heads(record, logic)]
    assert layers == {True: [3, 2], False: [2]}


def test_first_layers_and_bottom_row_heads_are_kept_out_until_allowed():
    bottom = quarters(0.0, 0.0, 0.6)
    record = Record(np.stack([quarters(0.6), quarters(0.6), bottom, quarters(0.3, 0.3)]).reshape(4, 1, 1, 64))
    everything = ThresholdConfig(method="none")
    assert [s.layer for s in rank_heads(record, LogicConfig(threshold=everything))] == [3]
    assert [
        s.layer for s in rank_heads(record, LogicConfig(threshold=everything, filter=FilterConfig(min_layer=0)))
    ] == [0, 1, 3]
    assert [
        s.layer for s in rank_heads(record, LogicConfig(threshold=everything, filter=FilterConfig(bottom_row=None)))
    ] == [2, 3]


STATED = LogicConfig(
    ties=Ties.sum,
    threshold=ThresholdConfig(method="none"),
    entropy=EntropyConfig(digits=3, flat_is_focused=False),
    filter=FilterConfig(min_layer=0, bottom_row=None),
)


def test_equal_entropies_are_told_apart_by_the_stated_rule_and_not_by_noise():
    one_place = [quarters(weight) for weight in (0.5, 0.9000001, 0.7, 0.9)]
    record = Record(np.stack(one_place).reshape(4, 1, 1, 64))
    ranked = rank_heads(record, STATED)
    assert [score.layer for score in ranked] == [1, 3, 2, 0]  # 0.9 twice: then the lower layer
    assert [(score.spatial_entropy, score.attn_sum) for score in ranked] == [(0, 0.9), (0, 0.9), (0, 0.7), (0, 0.5)]
    assert [score.layer for score in rank_heads(record, replace(STATED, ties=Ties.order))] == [0, 1, 2, 3]
    assert tied_at(ranked, 2)
    assert not tied_at(ranked, 4)
    assert not tied_at(ranked, 0)


def test_entropies_with_digits_are_never_negative_and_flat_maps_not_focused():
    rng = np.random.default_rng(0)
    maps = one_blob(rng, 20, 25, 8).reshape(500, 64).astype(np.float32)
    record = Record(np.concatenate([maps, np.full((1, 64), 1 / 64, np.float32)]).reshape(3, 167, 1, 64))
    published = score_heads(record, LogicConfig(threshold=ThresholdConfig(method="none"))).spatial_entropy
    stated = score_heads(record, STATED).spatial_entropy
    assert (published < 0).any()
    assert stated.min() == 0
    assert not np.signbit(stated).any()
    assert_array_equal(stated.round(3), stated)
    assert stated[-1, -1] == np.inf


def test_ranking_with_digits_is_the_same_in_float16_and_float32():
    rng = np.random.default_rng(1)
    for _ in range(20):
        attn = rng.dirichlet(np.full(64, 0.1), 48).astype(np.float32).reshape(6, 8, 1, 64)
        full = Record.from_tensor(torch.from_numpy(attn))
        half = Record.from_tensor(torch.from_numpy(attn).half())
        assert rank_heads(full, STATED) == rank_heads(half, STATED)


def test_a_fixed_number_is_the_threshold_of_the_attention_sum():
    record = Record(np.stack([quarters(weight) for weight in (0.1, 0.24, 0.3)]).reshape(3, 1, 1, 64))
    logic = replace(STATED, threshold=ThresholdConfig(method="value"))
    assert {score.layer for score in rank_heads(record, logic)} == {1, 2}
    logic = replace(STATED, threshold=ThresholdConfig(method="value", value=0.25))
    assert {score.layer for score in rank_heads(record, logic)} == {2}


def test_the_papers_components_are_all_cells_above_the_mean():
    cells = np.full((8, 8), 0.01, np.float32)
    cells[0, 0], cells[4, 4], cells[4, 5] = 0.0112, 0.03, 0.03  # the first exceeds the mean by less than 0.001
    paper, floor = (
        configuration("model=llava15_7b", f"logic={name}").logic.entropy for name in ("paper", "paper_floor")
    )
    entropy, places = measure_heads(Record(cells.reshape(1, 1, 1, 64)), np.ones((1, 1), bool), paper)[:2]
    assert places.tolist() == [2]
    assert_allclose(entropy, -(1 / 3) * math.log(1 / 3) - (2 / 3) * math.log(2 / 3), atol=5e-4)
    assert measure_heads(Record(cells.reshape(1, 1, 1, 64)), np.ones((1, 1), bool), floor)[1].tolist() == [1]


def test_too_few_heads_are_made_up_for_by_the_largest_sums():
    sums = [0.1, 0.9, 0.2, 0.4]
    record = Record(np.stack([quarters(weight) for weight in sums]).reshape(4, 1, 1, 64))
    ranked = rank_heads(record, LogicConfig(threshold=ThresholdConfig(min_keep=3)))
    assert {score.layer for score in ranked} == {1, 2, 3}
    assert [math.isinf(score.spatial_entropy) for score in ranked] == sorted(
        math.isinf(score.spatial_entropy) for score in ranked
    )


def test_attention_sums_cover_all_grids_and_maps_only_those_that_count():
    attn = np.zeros((3, 1, 1, 10), np.float32)
    attn[2, 0, 0, [1, 6]] = 0.25, 0.5
    grids = [Grid(1, 2, 2, (0, 0, 8, 8)).to_dict(), Grid(5, 1, 5, (0, 0, 8, 8), kind="tile").to_dict()]
    record = Record(attn, {"grids": grids}).under(LogicConfig(grids=Grids.whole))
    assert attention_sums(record)[2, 0] == 0.75
    assert score_heads(record, LogicConfig()).num_components[2, 0] == 1


def test_scores_of_gives_heads_that_the_ranking_left_out():
    record = layered(quarters(0.6), quarters(0.05, 0.05))
    assert scores_of(record, [(3, 0), (2, 0)], LogicConfig())[0].num_components == 2
    assert scores_of(record, [(3, 0), (2, 0)], LogicConfig())[1] == rank_heads(record, LogicConfig())[0]
    assert scores_of(record, [], LogicConfig()) == []


# chosen heads


def chosen_heads(record, ranking, logic, preset=None):
    choice = head_choice(logic, ModelConfig(localization_heads=preset))
    return choice.of((record.num_layers, record.num_heads), ranking)


def ranking_of(*heads: tuple[int, int]) -> list[HeadScore]:
    return [HeadScore(layer, head, 0.5, 0.1, False, 1) for layer, head in heads]


RECORD = Record(np.full((4, 5, 1, 16), 0.01, np.float32))
RANKING = ranking_of((3, 1), (2, 0), (2, 4), (3, 3))


def test_ranked_heads_are_the_first_of_the_ranking_and_all_of_a_short_one():
    assert chosen_heads(RECORD, RANKING, LogicConfig(top_k=3)) == [(3, 1), (2, 0), (2, 4)]
    assert chosen_heads(RECORD, RANKING[:1], LogicConfig(top_k=3)) == [(3, 1)]
    assert chosen_heads(RECORD, [], LogicConfig(top_k=3)) == []


def test_a_list_of_heads_is_taken_whole_and_in_order():
    assert chosen_heads(RECORD, RANKING, LogicConfig(top_k=3, heads=[[1, 2]])) == [(1, 2)]
    assert chosen_heads(RECORD, RANKING, LogicConfig(top_k=1, heads=[(3, 4), (0, 0)])) == [(3, 4), (0, 0)]


def test_preset_heads_are_the_models_first():
    assert chosen_heads(RECORD, RANKING, LogicConfig(top_k=2, heads="preset"), [[1, 2], [3, 4], [0, 0]]) == [
        (1, 2),
        (3, 4),
    ]


@pytest.mark.parametrize(
    ("logic", "preset", "message"),
    [
        ({"top_k": 0}, None, "top_k=0: must be 1 or more"),
        ({"top_k": 21}, None, "top_k is 21; expected 1 to 20"),
        ({"heads": [[4, 0]]}, None, r"logic.heads: \[4, 0\] is not a head of this model"),
        ({"heads": [[0, -1]]}, None, r"\[0, -1\] is not a head"),
        ({"heads": [[0, 1], [0, 1]]}, None, "named twice"),
        ({"heads": [[0, 1, 2]]}, None, "not a head"),
        ({"heads": [14, 24]}, None, r"14 is not a head.*expected \[\[layer, head\], \.\.\.\]"),
        ({"heads": [[0.0, 1.0]]}, None, "not a head"),
        ({"heads": [[True, 1]]}, None, "not a head"),
        ({"heads": "best"}, None, "logic.heads=best: no such file; expected null, preset, "),
        ({"heads": 7}, None, "logic.heads: 7 is not a head"),
        ({"heads": []}, None, "logic.heads is empty"),
        ({"heads": "preset"}, None, "names no localization_heads"),
        ({"heads": "preset"}, [[0, 9]], r"model.localization_heads: \[0, 9\] is not a head"),
    ],
)
def test_impossible_choices_of_heads_are_refused(logic, preset, message):
    with pytest.raises(UserError, match=message):
        chosen_heads(RECORD, RANKING, LogicConfig(**logic), preset)


# over many samples


def test_selection_frequency_counts_the_best_of_each_sample():
    rankings = [ranking_of((0, 1), (1, 1), (0, 0)), ranking_of((1, 1), (0, 1)), ranking_of((1, 1)), []]
    assert_array_equal(selection_frequency(rankings, 2, (2, 2)), [[0, 2], [0, 3]])
    assert_array_equal(selection_frequency(iter(rankings), 1, (2, 2)), [[0, 1], [0, 2]])


def test_most_selected_orders_by_count_then_by_layer_and_head():
    counts = np.array([[2, 0, 5], [5, 2, 1]])
    assert most_selected(counts, 4) == [(0, 2), (1, 0), (0, 0), (1, 1)]


@pytest.mark.parametrize("k", [0, 6])
def test_more_localization_heads_than_were_ever_selected_are_refused(k):
    with pytest.raises(UserError, match=f"{k} localization heads asked for, but 5 heads were ever selected"):
        most_selected(np.array([[2, 0, 5], [5, 2, 1]]), k)


def test_importing_the_analysis_loads_neither_torch_nor_transformers():
    code = "import sys, analyze, bbox, lab.records; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.strip()
        == "[]"
    )
