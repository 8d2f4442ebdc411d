"""Records that hold the attention of several tokens, and which of them counts."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from analyze import rank_heads, scores_of
from bbox import localize
from conf.schema import Contrast, LogicConfig
from lab.base.errors import UserError
from lab.batch.storage import with_maps_of
from lab.records.files import load_record, save_record
from lab.records.record import Record
from tests.test_analyze import blobs

READ = 3
META = {"image_size": [80, 80], "read": "expression", "tokens": [{"place": i, "text": "cup"} for i in range(READ)]}


@pytest.fixture(scope="module")
def several() -> Record:
    """6 layers x 4 heads, three read tokens, two of the generic prompt."""
    rng = np.random.default_rng(0)
    rows = [blobs(rng, 6, 4, 8).reshape(6, 4, 64).astype(np.float32) for _ in range(READ + 2)]
    return Record(np.stack(rows[:READ], 2), META, generic=np.stack(rows[READ:], 2))


def alone(record: Record, token: str | int) -> Record:
    """The record of one token."""
    rows = record.attn, record.generic
    places = [{"first": 0, "last": rows[i].shape[2] - 1}.get(token, token) for i in (0, 1)]
    one = [np.ascontiguousarray(rows[i][:, :, min(places[i], rows[i].shape[2] - 1)][:, :, None]) for i in (0, 1)]
    return Record(one[0], {"image_size": [80, 80]}, generic=one[1])


@pytest.mark.parametrize("token", ["first", "last", 0, 1, 2])
def test_a_record_of_several_tokens_is_that_of_the_one_that_counts(several, token):
    logic = LogicConfig(token=token, contrast=Contrast.ratio)
    seen, expected = several.under(logic), alone(several, token)
    ranking = rank_heads(seen, logic)
    assert ranking == rank_heads(expected, logic)
    heads = [(score.layer, score.head) for score in ranking[:2]]
    assert_array_equal(localize(seen, heads, logic).heat, localize(expected, heads, logic).heat)
    assert np.shares_memory(seen.weights, several.attn)


def test_the_mean_is_that_of_the_maps(several):
    seen = several.under(LogicConfig())
    assert_allclose(seen.maps, np.mean([several.under(LogicConfig(token=i)).maps for i in range(READ)], 0), atol=1e-7)
    assert_allclose(seen.generic_maps_of([(1, 2)])[0].ravel(), several.generic[1, 2].mean(0), atol=1e-7)


def test_a_token_that_is_not_there_is_refused(several):
    with pytest.raises(UserError, match=r"logic\.token=3: the record holds 3 read tokens, numbered from 0"):
        rank_heads(several.under(LogicConfig(token=3)), LogicConfig())


@pytest.mark.parametrize("name", ["a.pkl", "a.pkl.gz", "a.safetensors"])
def test_several_tokens_survive_their_file(several, tmp_path, name):
    save_record(tmp_path / name, several)
    again = load_record(tmp_path / name, LogicConfig(token=1))
    assert_array_equal(again.attn, several.attn)
    assert_array_equal(again.generic, several.generic)
    assert (again.meta, again.token) == (META, 1)


def test_scores_that_are_kept_are_those_of_the_token_that_counted(several, tmp_path):
    logic, heads = LogicConfig(token="first"), [(2, 1), (4, 3)]
    save_record(tmp_path / "a.pkl", with_maps_of(several.under(logic), heads, logic.entropy))
    again = load_record(tmp_path / "a.pkl", logic)
    assert again.attn.shape == several.attn.shape
    assert rank_heads(again, logic) == rank_heads(several.under(logic), logic)
    assert_array_equal(again.maps_of(heads), several.under(logic).maps_of(heads))
    other = replace(logic, token="mean")
    with pytest.raises(UserError, match=r"keeps scores measured with logic\.token=first, not mean: set it so"):
        scores_of(again.under(other), heads, other)
