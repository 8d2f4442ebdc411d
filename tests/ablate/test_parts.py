"""Answers, things, sets and estimates of an ablation, each by itself."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lab.ablate.answers import Answer, against_answer, divergence, read_answer, tokenized
from lab.ablate.estimates import estimates
from lab.ablate.interventions import check_interventions
from lab.ablate.report import shown
from lab.ablate.sets import HeadSet, check_kinds, head_sets
from lab.ablate.things import Thing, distribution, mask_in_cells, of_another, share_of_cells, things_beside
from lab.ablate.trial import gains
from lab.base.errors import UserError
from lab.datasets import Sample
from llava.grid import Grid

# answers


def logits(*tokens: int) -> torch.Tensor:
    """[1, tokens, 9], in which these are the most probable ones."""
    return 10 * torch.nn.functional.one_hot(torch.tensor([tokens]), 9).float()


def test_an_answer_is_measured_word_by_word():
    answer = Answer("spotted medium", (3, 4, 5), (0, 0, 1))
    right = against_answer(logits(3, 4, 5, 2), answer, [2])
    assert {name: value.item() for name, value in right.items() if name != "logprob"} == {
        "exact": 1, "words": 1, "first_word": 1,
    }  # fmt: skip
    assert right["logprob"].item() == pytest.approx(3 * torch.log_softmax(logits(3)[0, 0], -1)[3].item(), abs=1e-6)
    assert against_answer(logits(3, 4, 5, 6), answer, [2])["exact"] == 0  # it goes on
    half = against_answer(logits(3, 8, 5, 2), answer, [2])
    assert [half[name].item() for name in ("exact", "words", "first_word")] == [0, 0.5, 0]


def test_a_gain_counts_the_unchanged_heads_behind_the_first_changed_one():
    looked = torch.zeros(3, 3, 2, 2)  # copies layers heads places, of which the last is the whole picture
    looked[..., 1] = 0.5
    looked[..., 0] = 0.1  # untouched: a fifth
    looked[1, 1, 0, 0] = 0.5  # the changed head itself, which does not count
    looked[1, 1, 1, 0] = 0.5  # beside it: cannot have been changed by it
    looked[1, 2, :, 0] = torch.tensor([0.3, 0.5])  # behind it: four fifths of all their attention
    changed = torch.zeros(3, 3, 2, dtype=torch.bool)
    changed[1, 1, 0] = changed[2, 2, 0] = True
    found = gains(looked, changed)
    assert found.shape == (1, 3)
    assert found[0, :2].tolist() == pytest.approx([0, 0.8 - 0.2])
    assert found[0, 2].isnan()  # nothing is behind the last layer


def test_tokens_belong_to_words(picturebook):
    answer = tokenized("spotted medium left", picturebook.tokenizer)
    assert answer.number == 3
    assert picturebook.tokenizer.decode(answer.ids).split() == ["spotted", "medium", "left"]
    spelled = tokenized("zyx red", picturebook.tokenizer)  # an unknown word is spelled
    assert spelled.words[0] == 0
    assert spelled.words.count(0) > 1
    assert spelled.words[-1] == 1


def test_an_answer_is_a_text():
    assert read_answer(None) is None
    assert read_answer(" ") is None
    assert read_answer(3) == "3"
    with pytest.raises(UserError, match="expected a text"):
        read_answer(["red"])


def test_divergence_is_zero_for_the_same_and_the_true_one_else():
    even, uneven = torch.zeros(2), torch.log(torch.tensor([0.9, 0.1]))
    assert divergence(even[None], even).item() == 0
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert divergence(uneven[None], even).item() == pytest.approx(expected, abs=1e-6)


# things


def sample(name: str, box=(0, 0, 10, 10), **extra) -> Sample:
    return Sample(name, name, Path("a.png"), box, extra=extra)


def test_other_things_are_the_lines_own_or_those_of_other_lines():
    corners = {"bbox": [2, 0, 3, 4], "bbox_format": "xyxy", "segmentation": [[2, 0, 3, 0, 3, 4]]}
    assert things_beside(sample("a", others=[corners]), ()) == [Thing((2, 0, 3, 4), None, [[2, 0, 3, 0, 3, 4]])]
    own = sample("a", others=[{"bbox": [20, 0, 10, 10], "answer": "red"}])
    assert things_beside(own, [own, sample("b", (50, 50, 60, 60))]) == [Thing((20, 0, 30, 10), "red")]
    row = [
        sample("a"),
        sample("same", (1, 0, 10, 10)),
        sample("far", (50, 50, 60, 60), answer="blue"),
        sample("c", None),
    ]
    assert things_beside(row[0], row) == [Thing((50, 50, 60, 60), "blue")]
    for wrong in ("x", [3], [{"answer": "red"}], [{"bbox": [1]}]):
        with pytest.raises(UserError, match="sample a: others"):
            things_beside(sample("a", others=wrong), ())


def test_expressions_are_of_another_thing_unless_words_name_or_box_say_the_same():
    own, far = sample("a", thing="cat"), (50, 50, 60, 60)
    assert not of_another(own, own)
    assert not of_another(sample("the cat", far, thing="cat"), own), "the name decides before the box"
    assert of_another(sample("the mat", thing="mat"), own)
    assert not of_another(sample("the cat", (1, 0, 10, 10)), own), "without a name, the box does"
    assert of_another(sample("the mat", far), own)
    assert of_another(sample("the sky", None), own), "of what has no box, nothing is known"


def test_cells_count_by_how_much_of_them_lies_in_a_box():
    grids = (Grid(0, 2, 2, (0, 0, 20, 20)), Grid(5, 1, 2, (0, 0, 20, 20)))
    shares = share_of_cells(grids, 8, [(0, 0, 15, 10)])
    np.testing.assert_allclose(shares, [1, 0.5, 0, 0, 0, 0.5, 0.25, 0])
    np.testing.assert_allclose(distribution(shares).sum(), 1)
    assert distribution(np.zeros(3)) is None


def test_a_mask_covers_the_cells_that_it_lies_in():
    mask = np.zeros((20, 20), bool)
    mask[:10, :15] = True
    grids = (Grid(0, 2, 2, (0, 0, 20, 20)), Grid(5, 1, 2, (0, 0, 20, 20)))
    np.testing.assert_allclose(mask_in_cells(grids, 8, mask), share_of_cells(grids, 8, [(0, 0, 15, 10)]))
    padded = mask_in_cells([Grid(0, 2, 2, (0, -20, 40, 20))], 4, mask)  # a quarter of the square holds the picture
    np.testing.assert_allclose(padded, [0, 0, 150 / 400, 0])


# sets


def sets_of(kinds, draws=200, chosen=((0, 0), (1, 2))):
    sums = np.array([[0.9, 0.1, 0.2, 0.3], [0.0, 0.4, 0.2, 0.25]])
    ranked = [(1, 2), (0, 0), *((layer, head) for layer in (0, 1) for head in (1, 3))]
    rng = np.random.default_rng(0)
    return head_sets(kinds, chosen, ranked, sums, best=[1, 3, 50], draws=draws, rng=rng)


def test_every_kind_of_set_is_what_it_says():
    sets, note = sets_of(["alone", "best", "random", "any", "matched", "others", "all"])
    named: dict[str, list] = {}
    for one in sets:
        named.setdefault(one.name, []).append(one.heads)
    assert named["chosen"] == [((0, 0), (1, 2))]
    assert (named["L0 H0"], named["L1 H2"]) == ([((0, 0),)], [((1, 2),)])
    assert named["best 3"] == [((1, 2), (0, 0), (0, 1))]
    assert "best 50" not in named
    assert len(set(named["random"])) == 9
    assert note == "all 9 sets of other heads of the same layers"
    assert all(a[0] == 0 and b[0] == 1 and a != (0, 0) and b != (1, 2) for a, b in named["random"])
    assert len(named["any"]) == 15  # of 6 other heads 2
    assert all({(0, 3), (1, 1), (1, 3)} & set(heads) for heads in named["matched"])  # nearest to the sum of 0.9
    assert all(len(set(heads) - {(0, 0), (1, 2)}) == 2 for heads in named["matched"])
    assert set(named["others"][0]) == {(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 3)}
    assert len(named["all"][0]) == 8
    assert len([one for one in sets_of(["random"], draws=4)[0] if one.name == "random"]) == 4


def test_where_the_others_are_changed_the_set_is_spared():
    one = HeadSet("chosen", ((0, 1),))
    assert one.mask((1, 3), others=False).tolist() == [[False, True, False]]
    assert one.mask((1, 3), others=True).tolist() == [[True, False, True]]
    assert not HeadSet("untouched", ()).mask((1, 3), others=True).any()
    assert HeadSet("none", ()).mask((1, 3), others=True).all()
    assert HeadSet("none", ()).mask((1, 3), others=False) is None
    assert HeadSet("all", ((0, 0), (0, 1), (0, 2))).mask((1, 3), others=True) is None


# estimates


def test_differences_are_of_pairs_and_their_intervals_hold_the_draw_of_the_set():
    samples = 400
    hard = np.random.default_rng(0).random(samples) < 0.5  # whatever is done
    untouched = hard.astype(float)
    half = untouched * (np.arange(samples) % 2)
    sets = [HeadSet(name, ()) for name in ("untouched", "chosen", "random", "random", "L0 H0")]
    scores = {"exact": np.stack([untouched, np.zeros(samples), untouched, half, untouched])[None]}
    rows = estimates(scores, np.ones(samples, int), np.arange(samples), ["zero"], sets, resamples=500, seed=0)
    by_name = {row.name: row for row in rows}
    assert list(by_name) == ["untouched", "chosen", "random", "L0 H0", "chosen against random"]
    assert by_name["untouched"].difference == by_name["L0 H0"].difference == 0
    assert (by_name["L0 H0"].low, by_name["L0 H0"].high) == (0, 0)  # pairs: what is hard cancels
    assert by_name["chosen"].difference == -untouched.mean()
    random = by_name["random"]
    assert (random.sets, random.n) == (2, samples)
    assert random.difference == pytest.approx((half - untouched).mean() / 2)
    assert random.high == 0  # one of the sets does nothing
    assert random.low < (half - untouched).mean() + 0.01  # the other halves it
    against = by_name["chosen against random"]
    assert against.difference == pytest.approx(by_name["chosen"].value - random.value)
    assert against.low < against.difference < against.high < 0


def test_a_figure_counts_words_and_leaves_out_what_was_not_measured():
    sets = [HeadSet("untouched", ()), HeadSet("chosen", ((0, 0),)), HeadSet("none", ())]
    values = np.array([[1, 1, np.nan], [0, 1, np.nan], [np.nan, np.nan, np.nan]])
    rows = estimates({"words": values[None]}, np.array([3, 1, 5]), np.arange(3), ["zero"], sets, resamples=50, seed=0)
    assert [(row.name, row.value, row.n) for row in rows] == [("untouched", 1, 2), ("chosen", 0.25, 2)]


# keys


def test_wrong_names_are_refused_with_the_right_ones():
    with pytest.raises(UserError, match="names steer; choose from redirect, swap"):
        check_interventions(["steer"], None)
    with pytest.raises(UserError, match=r"set ablate\.box"):
        check_interventions(["box"], None)
    with pytest.raises(UserError, match="choose from alone, best"):
        check_kinds(["worst"])


@pytest.mark.parametrize(("metric", "value"), [("exact", -0.0004), ("divergence", -0.0004), ("exact", -0.0)])
def test_nothing_is_printed_as_less_than_nothing(metric, value):
    assert not shown(value, metric).startswith("-")
    assert shown(value, metric, sign=True).startswith("+0")
    assert shown(-0.004, "exact") == "-0.4"
    assert shown(float("nan"), metric) == ""
