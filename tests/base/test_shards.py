"""Parts of the samples: how they are named, and what is missing of them."""

import json

import pytest

from lab.base.errors import UserError
from lab.base.processes import Processes, only_run
from lab.base.shards import WHOLE, Shard, files_of_shards, missing_shards, remove_otherwise_divided


def test_a_part_is_read_and_names_its_files():
    shard = Shard.read("2/8")
    assert (shard.number, shard.of, str(shard)) == (2, 8, "2/8")
    assert shard.name("summary.json") == "summary-2of8.json"
    assert shard.name(".running.lock") == ".running-2of8.lock"
    assert Shard.read(None) == WHOLE
    assert WHOLE.name("summary.json") == "summary.json"
    assert Shard.read("1/1") == WHOLE


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1 / 4", "1/4\n", "1/99999"])
def test_what_is_no_part_is_one_line(text):
    with pytest.raises(UserError, match=r"^data\.shard=.*: expected k/n, such as 1/8") as caught:
        Shard.read(text)
    assert "\n" not in str(caught.value)


def test_missing_parts_and_failed_samples_are_told_in_a_line(tmp_path):
    assert missing_shards(tmp_path) is None
    (tmp_path / "summary-1of4.json").write_text("{}")
    (tmp_path / "summary-3of4.json").write_text("{}")
    (tmp_path / "errors-3of4.jsonl").write_text(json.dumps({"id": "bird"}) + "\n")
    told = missing_shards(tmp_path)
    assert told == f"{tmp_path}: 2 of 4 parts are not finished: run data.shard=2/4,4/4; 1 sample failed (bird)"
    for number in (2, 4):
        (tmp_path / f"summary-{number}of4.json").write_text("{}")
    (tmp_path / "errors-3of4.jsonl").write_text("damaged")
    assert missing_shards(tmp_path) is None


def test_parts_that_have_begun_and_not_ended_are_missing(tmp_path):
    with only_run(tmp_path, Processes(), Shard(1, 2)):
        pass
    assert missing_shards(tmp_path) == f"{tmp_path}: 2 of 2 parts are not finished: run data.shard=1/2,2/2"
    (tmp_path / "summary.json").write_text("{}")
    assert missing_shards(tmp_path) is None  # one job has done everything since


def test_files_of_other_names_are_no_parts(tmp_path):
    for name in ("summary-1of2.json", "summary.json", "summary-x.json", "summary-1of2-3of4.json", "summary-1of2.txt"):
        (tmp_path / name).write_text("{}")
    assert {path.name for _, path in files_of_shards(tmp_path, "summary.json")} == {"summary-1of2.json", "summary.json"}


def test_what_runs_that_were_divided_otherwise_have_told_is_removed(tmp_path):
    for name in ("summary.json", "summary-1of2.json", "errors-2of2.jsonl", "summary-1of3.json", "finished-1of3.json"):
        (tmp_path / name).write_text("")
    remove_otherwise_divided(tmp_path, Shard(1, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "errors-2of2.jsonl",
        "finished-1of3.json",
        "summary-1of2.json",
    ]


def test_parts_may_be_done_beside_each_other_but_not_beside_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.base.processes.PATIENCE", 0.1)
    alone = Processes()
    with only_run(tmp_path, alone, Shard(1, 2)), only_run(tmp_path, alone, Shard(2, 2)):
        for other in (WHOLE, Shard(1, 2)):
            with pytest.raises(UserError, match="another run writes to"), only_run(tmp_path, alone, other):
                pass
    beside = pytest.raises(UserError, match="another run writes to")
    with only_run(tmp_path, alone), beside, only_run(tmp_path, alone, Shard(1, 2)):
        pass
