"""Records of many samples in one file: written whole, read one by one, and not trusted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load

from conf.schema import RecordFormat
from lab.base.errors import UserError
from lab.records.files import load_record, save_record
from lab.records.folder import find_record, home_of, list_samples, pack_record, sibling, write_record
from lab.records.record import Record
from lab.records.shards import FOLDER, read_member, remove_superseded, shard_files, write_shard

RULES = "0123456789abcdef"


def record(value: float = 0.25, query: str = "the bird") -> Record:
    return Record(np.full((2, 3, 1, 4), value, np.float32), {"query": query})


def packed(**values: float) -> dict[str, bytes]:
    return {name: pack_record(record(value), name) for name, value in values.items()}


def write(folder: Path, generation: int = 1, **values: float) -> Path:
    return write_shard(folder, packed(**values), [RULES] * len(values), generation)


def test_a_record_in_a_shard_is_read_as_from_its_own_file(tmp_path):
    shard = write(tmp_path, bird=0.1, cat=0.2)
    save_record(tmp_path / "alone.safetensors", record(0.2))
    found = load_record(shard / "cat.safetensors")
    assert np.array_equal(found.attn, record(0.2).attn)
    assert found.meta == {"query": "the bird"}
    assert read_member(shard / "cat.safetensors") == (tmp_path / "alone.safetensors").read_bytes()


def test_a_shard_opens_with_the_library_of_safetensors(tmp_path):
    shard = write(tmp_path, bird=0.1, cat=0.2)
    with safe_open(shard, "pt") as file:
        assert sorted(file.keys()) == ["bird.safetensors", "cat.safetensors"]
        tensors = load(file.get_tensor("cat.safetensors").numpy().tobytes())
    assert np.allclose(tensors["attn"].numpy(), 0.2)


def test_a_folder_lists_the_records_of_its_shards_by_name(tmp_path):
    write(tmp_path, dog=0.1, bird=0.2)
    write(tmp_path, cat=0.1, Å=0.2)
    listed = list_samples(tmp_path)["records"]
    assert list(listed) == ["bird", "cat", "dog", "Å"]
    assert len(listed) == 4
    assert "cat" in listed
    assert "cow" not in listed
    assert "a name that is longer than all" not in listed
    assert {name: load_record(path).attn.flat[0] for name, path in listed.items()} == pytest.approx(
        {"bird": 0.2, "cat": 0.1, "dog": 0.1, "Å": 0.2}
    )
    assert find_record(tmp_path, "cat") == listed["cat"]
    assert find_record(tmp_path, "cow") is None
    assert shard_files(tmp_path).by("cat") == RULES


def test_files_of_a_sample_in_a_shard_lie_in_the_folder_of_the_records(tmp_path):
    path = write(tmp_path, bird=0.1) / "bird.safetensors"
    assert home_of(path) == tmp_path
    assert sibling(path, "_mask.png") == tmp_path / "bird_mask.png"


def test_of_two_shards_with_a_sample_the_later_generation_counts(tmp_path):
    old, new = write(tmp_path, 1, bird=0.1, cat=0.1), write(tmp_path, 2, bird=0.2)
    files = shard_files(tmp_path)
    assert (files["bird"].parent, files["cat"].parent, files.generation) == (new, old, 2)
    remove_superseded(tmp_path)
    assert old.exists()
    write(tmp_path, 2, cat=0.2)
    remove_superseded(tmp_path)
    assert not old.exists()
    assert list(shard_files(tmp_path)) == ["bird", "cat"]


def test_a_record_of_its_own_takes_the_place_of_one_in_a_shard_and_a_shard_that_of_files(tmp_path):
    write(tmp_path, bird=0.1, cat=0.1)
    own = write_record(tmp_path, "bird", record(0.2), RecordFormat("pkl"))
    assert list_samples(tmp_path)["records"]["bird"] == find_record(tmp_path, "bird") == own
    assert list(list_samples(tmp_path)["records"]) == ["bird", "cat"]
    path = write_record(tmp_path, "bird", record(0.05), RecordFormat("shards"))
    assert not own.exists()
    assert list_samples(tmp_path)["records"]["bird"] == path
    assert load_record(path).attn.flat[0] == np.float32(0.05)
    again = write_record(tmp_path, "bird", record(0.06), RecordFormat("shards"))
    assert not path.parent.exists()
    assert find_record(tmp_path, "bird") == again


def test_equal_records_are_equal_files(tmp_path):
    one, two = (write(tmp_path / name, bird=0.1, cat=0.2) for name in ("a", "b"))
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()


# files that are not what they seem


def changed(shard: Path, change) -> Path:
    """The same shard with another header."""
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path = shard.with_name("changed.safetensors")
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    shard.unlink()
    return path


def rules(header: dict, **told) -> None:
    header["__metadata__"]["told"] = json.dumps({"generation": 1, "by": [RULES, RULES], **told})


def offsets(header: dict, first: int, last: int) -> None:
    header["cat.safetensors"].update(data_offsets=[first, last], shape=[last - first])


HOSTILE = {
    "beyond its end": lambda h: offsets(h, h["cat.safetensors"]["data_offsets"][0], 10**15),
    "overlapping": lambda h: offsets(h, 0, h["cat.safetensors"]["data_offsets"][1]),
    "negative": lambda h: h["bird.safetensors"].update(data_offsets=[-8, 8], shape=[16]),
    "fractions": lambda h: h["bird.safetensors"].update(data_offsets=[0, 8.5]),
    "another type": lambda h: h["bird.safetensors"].update(dtype="F32"),
    "another shape": lambda h: h["bird.safetensors"].update(shape=[2**40]),
    "a path": lambda h: h.update({"../../cat.safetensors": h.pop("cat.safetensors")}),
    "no record": lambda h: h.update({"cat": h.pop("cat.safetensors")}),
    "long rules": lambda h: rules(h, by=["x" * 10**5, RULES]),
    "few rules": lambda h: rules(h, by=[RULES]),
    "rules that are none": lambda h: rules(h, by=5),
    "a generation that is none": lambda h: rules(h, generation="x"),
    "no metadata": lambda h: h.pop("__metadata__"),
    "a list": lambda h: h.update({"cat.safetensors": []}),
    "nothing": lambda h: [h.pop(name) for name in ("cat.safetensors", "bird.safetensors")],
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_header_that_does_not_fit_is_one_line_and_its_file_is_left_out(tmp_path, caplog, how):
    shard = changed(write(tmp_path, bird=0.1, cat=0.2), HOSTILE[how])
    with pytest.raises(UserError, match="truncated or not a file of records") as caught:
        read_member(shard / "bird.safetensors")
    assert "\n" not in str(caught.value)
    good = write(tmp_path, dog=0.1)
    assert list_samples(tmp_path)["records"].keys() == {"dog"}
    assert good != shard
    assert str(shard) in caplog.text


NO_SHARDS = (b"", b"\xff" * 100, (2**40).to_bytes(8, "little") + b"{}", b"\2" + bytes(7) + b"[]")


@pytest.mark.parametrize("content", NO_SHARDS)
def test_what_is_no_shard_is_one_line(tmp_path, content):
    path = tmp_path / FOLDER / "bad.safetensors"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UserError, match="truncated or not a file of records"):
        load_record(path / "bird.safetensors")
    assert len(shard_files(tmp_path)) == 0


def test_a_shard_that_is_cut_short_is_left_out(tmp_path):
    shard = write(tmp_path, bird=0.1, cat=0.2)
    shard.write_bytes(shard.read_bytes()[:-1])
    assert len(shard_files(tmp_path)) == 0


def test_a_record_that_is_damaged_in_its_shard_is_as_a_damaged_file(tmp_path):
    path = write_shard(tmp_path, {"bird": b"no record", **packed(cat=0.1)}, [RULES] * 2, 1)
    with pytest.raises(UserError, match=r"bird.safetensors: truncated or not a record"):
        load_record(path / "bird.safetensors")
    assert load_record(path / "cat.safetensors").attn.shape == (2, 3, 1, 4)
    with pytest.raises(UserError, match=r"holds no record dog\.safetensors"):
        load_record(path / "dog.safetensors")
    with pytest.raises(UserError, match=r"holds the records of many samples: name one, such as .*/bird\.safetensors"):
        load_record(path)


def test_a_pipe_in_the_place_of_a_shard_holds_nobody_up(tmp_path):
    (tmp_path / FOLDER).mkdir()
    os.mkfifo(tmp_path / FOLDER / "pipe.safetensors")
    assert len(shard_files(tmp_path)) == 0
