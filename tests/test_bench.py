"""The measuring commands measure what they say."""

import pytest

from analyze import rank_heads
from lab import bench, smoke
from lab.errors import UserError
from lab.records import check_record
from tests import reference_rules
from tests.conftest import configuration


def test_both_rankings_that_are_timed_are_the_same_ranking():
    record = bench.record()
    check_record(record, "bench")
    ranking = rank_heads(record, configuration("model=llava15_7b").logic)
    assert len(ranking) > 20
    assert [score.to_dict() for score in ranking] == reference_rules.ranking(record.tensor())


def test_the_median_ignores_the_first_run():
    calls = []
    assert bench.median_seconds(lambda: calls.append(0), 3) >= 0
    assert len(calls) == 4


def test_smoke_goes_through_the_real_loader_and_collector(monkeypatch):
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setitem(smoke.SIZES, "tiny", (text, vision))
    rows = dict(smoke.smoke(smoke.SmokeConfig(size="tiny", device="cpu", samples=1)))
    assert rows["record"] == "[2, 4, 1, 576]"
    assert "float32 on cpu" in rows["weights"]


def test_smoke_names_the_sizes_there_are(tmp_path):
    with pytest.raises(UserError, match="1/8, 7b"):
        smoke.write_checkpoint(tmp_path, "70b")
