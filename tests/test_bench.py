"""The measuring commands measure what they say."""

import numpy as np
import pytest
import torch

from analyze import rank_heads
from collector import collect
from lab import smoke
from lab.attention import use_attention
from lab.bench import collecting, ranking
from lab.bench.__main__ import PARTS
from lab.bench.machine import matmul_rate, peak_memory
from lab.errors import UserError
from lab.images import open_image
from lab.records import check_record, load_record
from tests import reference_rules
from tests.conftest import configuration


def test_both_rankings_that_are_timed_are_the_same_ranking():
    record = ranking.record()
    check_record(record, "bench")
    found = rank_heads(record, configuration("model=llava15_7b").logic)
    assert len(found) > 20
    assert [score.to_dict() for score in found] == reference_rules.ranking(record.tensor())


def test_the_median_ignores_the_first_run():
    calls = []
    assert ranking.median_seconds(lambda: calls.append(0), 3) >= 0
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


@pytest.mark.parametrize(
    "case", [case for case in collecting.cases() if case.batch == 1 or case.attention == "fused"], ids=lambda c: c.name
)
def test_every_way_that_is_timed_collects_the_same_records(tmp_path, picturebook, case):
    images = collecting.write_images(tmp_path, 2)
    measured = collecting.measure(case, picturebook, configuration(), images, tmp_path, repeats=1)
    use_attention(picturebook.model, "eager")
    assert measured.samples_per_second > 0
    assert set(measured.seconds) == (set() if case.attention == "stock" else set(PARTS))
    for sample in collecting.asked(images, case.expressions):
        expected = collect(picturebook, open_image(sample.image_file), sample.query).attn
        np.testing.assert_allclose(load_record(tmp_path / f"{sample.id}.pkl").attn, expected, rtol=0, atol=5e-4)  # stock writes float16


def test_peak_memory_counts_what_is_freed_again():
    with peak_memory(torch.device("cpu")) as peak:
        torch.ones(50_000_000)
    assert 190e6 < peak() < 260e6


def test_a_matmul_rate_is_operations_by_time():
    assert 1e8 < matmul_rate(torch.device("cpu"), torch.float32, [(64, 64, 64)], seconds=0.01) < 1e14
