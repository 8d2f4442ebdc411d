"""The measuring commands measure what they say."""

import argparse
import importlib
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, linear, scaled_dot_product_attention

from analyze import rank_heads
from collector import collect
from lab import smoke
from lab.attention.capture import use_attention
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.base.paths import PROJECT
from lab.bench import ceiling, collecting, folders, lanes, ranking, reference_rules, refining
from lab.bench.__main__ import PARTS, bench
from lab.bench.machine import matmul_rate, peak_memory
from lab.picturebook.sam.model import make_sam, save
from lab.records.files import check_record, load_record
from lab.refine.sam import Sam
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
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 512,
    }
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
    there = collecting.write_images(tmp_path, 2)
    parts = collecting.parts(picturebook, configuration(), case, there, tmp_path)
    assert collecting.seconds(picturebook, configuration(), case, there, tmp_path)[0] > 0
    use_attention(picturebook.model, "eager")
    assert set(parts) == (set() if case.attention == "stock" else set(PARTS))
    for sample in collecting.asked(case.images(there), case.expressions):
        expected = collect(picturebook, open_image(sample.image_file), sample.query).attn
        np.testing.assert_allclose(
            load_record(tmp_path / f"{sample.id}.pkl").attn, expected, rtol=0, atol=5e-4
        )  # stock writes float16


def test_every_way_has_a_process_of_its_own_and_the_tables_hold_all(tmp_path, capsys):
    options = argparse.Namespace(images=2, batch=[1, None], repeats=1, limit=True, device="cpu")
    report = bench("picturebook", tmp_path, options)
    cases = {case.name for case in collecting.cases()}
    assert set(report) == {"device", "model", "limit", *cases}
    assert all(report[name]["samples_per_second"] > 0 and report[name]["peak_bytes"] > 0 for name in cases)
    assert all(
        one["share"] > 0 and one["alone"] > 0 for one in report["limit"].values()
    )  # below 1 on a machine at rest
    printed = capsys.readouterr().out
    assert all(name in printed for name in cases)
    assert "1 per image  7 per image" in printed


def test_a_lane_loads_its_model_once_and_passes_errors_on(tmp_path):
    with lanes.Lane([f"data.output_dir={tmp_path}", "device=cpu"]) as lane:
        assert lane.run(identity) == lane.run(identity) != identity(None, None)
        with pytest.raises(UserError, match="of a lane"):
            lane.run(refuse)
        with pytest.raises(UserError, match="choose a smaller --size"):
            lane.run(end)


def identity(loaded, _cfg):
    return os.getpid(), id(loaded)


def end(_loaded, _cfg):
    os._exit(1)


def refuse(_loaded, _cfg):
    raise UserError("of a lane")


def test_peak_memory_counts_what_is_freed_again():
    kept = []  # what is there before does not count
    tensors, resident = peak_memory(lambda: kept.append(torch.ones(50_000_000).sum()), torch.device("cpu"))
    assert 200e6 <= tensors < 201e6
    assert 190e6 < resident < 260e6


def test_freed_memory_is_kept_and_given_back():
    code = """
        import resource
        import numpy as np
        from lab.base.memory import give_back, keep_freed_memory

        def faults():
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        def use():  # 160 MB, more than glibc ever keeps by itself
            before = faults()
            np.ones(20_000_000)
            return faults() - before

        use()
        print(use())
        keep_freed_memory()
        use()
        print(use())
        give_back()
        print(use())
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    anew, kept, given_back = map(int, run.stdout.split())
    assert kept < anew / 10
    assert kept < given_back / 10


def test_a_matmul_rate_is_operations_by_time():
    assert 1e8 < matmul_rate(torch.device("cpu"), torch.float32, [(64, 64, 64)], seconds=0.01) < 1e14


def test_sharp_masks_are_timed_by_picture_prompt_and_expression(tmp_path, monkeypatch):
    save(make_sam(seed=0), tmp_path)
    monkeypatch.setattr(refining, "TIMES", 1)
    monkeypatch.setattr(refining, "BATCH", 8)
    found = refining.measure(str(tmp_path), "cpu")
    assert len(found) == 2 + len(refining.EXPRESSIONS)
    assert all(value > 0 for value in found.values())
    kept = refining.keeping(Sam.load(str(tmp_path), "cpu"))
    assert kept["size, MB"] == pytest.approx(4 * 64 * 16 * 16 / 1e6, rel=0.01)
    assert all(value > 0 for value in kept.values())


@pytest.mark.parametrize("causal", [True, False])
def test_operations_of_fused_attention_count_and_of_causal_attention_half(causal):
    query = torch.zeros(1, 2, 30, 8)
    once = 2 * (2 * 30 * 30 * 2 * 8)  # two products of all pairs of tokens, a multiplication and an addition each
    found, _ = ceiling.counted(lambda: scaled_dot_product_attention(query, query, query, is_causal=causal))
    assert found == (once / 2 if causal else once)
    weight = torch.zeros(8, 5)
    assert ceiling.counted(lambda: query @ weight)[0] == 2 * (2 * 30) * 8 * 5


def test_the_products_of_a_run_are_known_by_their_shapes():
    text, weight, picture = torch.zeros(2, 5, 8), torch.zeros(3, 8), torch.zeros(1, 3, 6, 6)

    def run():
        linear(text, weight), linear(text, weight, torch.zeros(3)), text @ text.transpose(1, 2)
        conv2d(picture, torch.zeros(4, 3, 2, 2), stride=2)
        scaled_dot_product_attention(*[torch.zeros(1, 2, 7, 4)] * 3, is_causal=True)

    operations, products = ceiling.counted(run)
    assert operations == sum(times * product.operations for product, times in products.items())
    assert products == {
        (1, 10, 8, 3): 2,  # with a bias and without
        (2, 5, 8, 5): 1,
        (1, 3 * 3, 3 * 2 * 2, 4): 1,  # patches times kernels
        (2, 7, 4, 7): 0.5,  # queries with keys, half of which are ahead
        (2, 7, 7, 4): 0.5,
    }


def test_what_is_told_of_a_forward_are_its_seconds_beside_those_of_products():
    turns = [(2.0, 10e9, 1.0), (4.0, 30e9, 3.0), (3.0, 20e9, 2.4)]
    reached = ceiling.median_of(turns, operations=36e9)
    assert (reached.seconds, reached.rate, reached.plain) == (3.0, 12e9, 20e9)
    assert reached.share == pytest.approx(0.6)
    assert reached.alone == pytest.approx(0.75)  # of one half, three quarters and four fifths


def test_a_sample_of_a_large_model_is_measured_by_every_preset(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "TIMES", 1)
    found = folders.large(tmp_path)
    assert len(found) == len(folders.PRESETS)
    assert all(seconds > 0 for seconds in found.values())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["lab.bench", "--size", "picturebook", "--repeats", "0"], "--repeats: '0': expected a whole number, at least"),
        (["lab.bench", "--images", "-1"], "--images: '-1': expected a whole number, at least 1"),
        (["lab.bench", "--samples", "many"], "--samples: 'many': expected a whole number"),
        (["lab.bench", "--batch", "0"], "--batch: '0': expected a whole number"),
        (["lab.bench", "--size", "nothing"], "--size: invalid choice: 'nothing'"),
        (["lab.bench", "--json", "/nonexistent/x"], "--json: '/nonexistent/x': expected a file in a folder that is"),
        (["lab.bench", "--json", ""], "--json: '': expected a file"),
        (["lab.bench", "--size", "7b", "--device", "foo"], "Unknown device 'foo'; choose auto, cpu, cuda or cuda:N"),
        (["lab.bench.gpu", "--json", "lab"], "--json: 'lab': expected a file"),
        (["lab.bench.gpu", "--seconds", "nan"], "--seconds: 'nan': expected a number of seconds, zero or more"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_the_work(given, told, monkeypatch):
    command = importlib.import_module(f"{given[0]}.__main__")
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(UserError) as caught:
        command.main()
    assert told in str(caught.value)
