"""Record files: what is read back, what is refused and in which words, and that nothing in a file is ever executed."""

import collections
import errno
import gzip
import io
import os
import pickle
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from conf.schema import Grids, LogicConfig
from lab.base.console import one_line
from lab.base.errors import DiskFull, UserError
from lab.base.files import check_id, check_writable, safe_name, write_atomic
from lab.base.images import open_image
from lab.base.paths import PROJECT
from lab.base.pickles import load_plain
from lab.datasets import read_jsonl
from lab.datasets.sample import read_mask
from lab.heads.files import read_heads
from lab.records.files import load_record, save_record
from lab.records.record import Record
from llava.grid import Grid

META = {
    "image_file": "bird.png",
    "query": "the bird",
    "image_size": [640, 480],
    "vis_len": 16,
    "patch_size": 4,
    "generated_text": None,
}


def weights(dtype: torch.dtype = torch.float32, layers: int = 3, heads: int = 2, vis: int = 16) -> torch.Tensor:
    return torch.softmax(torch.randn(layers, heads, 1, vis, generator=torch.Generator().manual_seed(0)), -1).to(dtype)


def write(path: Path, content: object, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


# reading back


@pytest.mark.parametrize("name", ["bird.pkl", "bird.pkl.gz"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_saved_record_is_read_back_to_the_last_bit(tmp_path, dtype, name):
    record = Record.from_tensor(weights(dtype), META)
    save_record(tmp_path / name, record)
    again = load_record(tmp_path / name)
    assert again.attn.dtype == np.float32
    assert again.dtype == str(dtype).removeprefix("torch.")
    assert again.meta == META
    assert again.tensor().dtype == dtype
    assert torch.equal(again.tensor(), weights(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_generic_prompts_attention_is_kept_beside_it(tmp_path, dtype):
    record = Record.from_tensor(weights(dtype), {}, weights(dtype).flip(0))
    save_record(tmp_path / "r.pkl", record)
    assert_array_equal(load_record(tmp_path / "r.pkl").generic, weights(dtype).flip(0).float().numpy())
    assert load_record(write(tmp_path / "old.pkl", {"attn": weights()})).generic is None


@pytest.mark.parametrize(
    ("generic", "message"),
    [
        (weights(layers=2), r"generic prompt's attention has shape \[2, 2, 1, 16\]; expected \[3, 2, 1, 16\]"),
        (weights() - 1, "negative values"),
        ([0.5], "found a list"),
    ],
)
def test_a_generic_prompts_attention_that_cannot_be_is_refused(tmp_path, generic, message):
    with pytest.raises(UserError, match=message):
        load_record(write(tmp_path / "r.pkl", {"attn": weights(), "generic": generic}))


def test_a_saved_record_is_what_torch_itself_would_expect(tmp_path):
    save_record(tmp_path / "a.pkl", Record.from_tensor(weights(torch.float16), META))
    content = torch.load(tmp_path / "a.pkl", weights_only=True)
    assert sorted(content) == ["attn", "meta"]
    assert content["meta"] == META
    assert torch.equal(content["attn"], weights(torch.float16))


def test_numbers_of_numpy_in_meta_are_written_as_pythons(tmp_path):
    meta = {"image_size": np.array([640, 480]), "grids": [GRID | {"rows": np.int64(4)}], "score": np.float32(0.5)}
    for name in ("a.pkl", "a.safetensors"):
        save_record(tmp_path / name, Record.from_tensor(weights(), meta))
        assert load_record(tmp_path / name).meta == {"image_size": [640, 480], "grids": [GRID], "score": 0.5}
    torch.load(tmp_path / "a.pkl", weights_only=True)


def test_equal_records_are_equal_files(tmp_path):
    for name in ("a.pkl", "b.pkl"):
        save_record(tmp_path / name, Record.from_tensor(weights(torch.float16), META))
    assert (tmp_path / "a.pkl").read_bytes() == (tmp_path / "b.pkl").read_bytes()


def test_gzip_is_used_where_the_name_says_so_and_recognised_whatever_the_name_says(tmp_path):
    save_record(tmp_path / "a.pkl.gz", Record.from_tensor(weights()))
    assert (tmp_path / "a.pkl.gz").read_bytes().startswith(b"\x1f\x8b")
    (tmp_path / "a.pkl").write_bytes((tmp_path / "a.pkl.gz").read_bytes())
    assert torch.equal(load_record(tmp_path / "a.pkl").tensor(), weights())


def test_gzip_may_come_in_members_and_with_zeros_behind_but_not_cut_short_or_with_more_behind(tmp_path):
    save_record(tmp_path / "a.pkl", Record.from_tensor(weights()))
    plain = (tmp_path / "a.pkl").read_bytes()
    members = gzip.compress(plain[:300]) + gzip.compress(b"") + gzip.compress(plain[300:])
    for padding in (b"", bytes(512)):
        (tmp_path / "b.pkl").write_bytes(members + padding)
        assert torch.equal(load_record(tmp_path / "b.pkl").tensor(), weights())
    for wrong in (members[:-1], members[:400], members + b"more", members + bytes(512) + b"\x1f\x8b"):
        (tmp_path / "b.pkl").write_bytes(wrong)
        with pytest.raises(UserError, match=r"b\.pkl: truncated or not a record"):
            load_record(tmp_path / "b.pkl")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("as_array", [False, True], ids=["tensor", "array"])
@pytest.mark.parametrize("bare", [False, True], ids=["dict", "bare"])
def test_tensors_and_arrays_are_read_bare_or_in_a_dict_from_every_pickle_protocol(tmp_path, protocol, as_array, bare):
    attn = weights().numpy() if as_array else weights()
    record = load_record(write(tmp_path / "a.pkl", attn if bare else {"attn": attn, "meta": META}, protocol))
    assert_array_equal(record.attn, weights().numpy())
    assert record.meta == ({} if bare else META)
    assert record.attn.flags.writeable  # torch wants to share its memory


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_files_of_torch_save_are_read(tmp_path, zipped):
    torch.save({"attn": weights(), "meta": META}, tmp_path / "a.pkl", _use_new_zipfile_serialization=zipped)
    assert torch.equal(load_record(tmp_path / "a.pkl").tensor(), weights())


def test_a_dict_without_meta_or_with_empty_meta_is_read(tmp_path):
    for meta in ({}, {"meta": None}, {"meta": {}}):
        assert load_record(write(tmp_path / "a.pkl", {"attn": weights(), **meta})).meta == {}


def test_plain_values_of_every_kind_may_stand_in_meta(tmp_path):
    meta = {
        "complex": 1 + 2j,
        "bytes": b"\xff",
        "ordered": collections.OrderedDict(a=1),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "scalar": np.float32(0.5),
        "numpy dtype": np.dtype("float16"),
        "array": np.arange(3),
    }
    for protocol in (2, 4, 5):
        read = load_record(write(tmp_path / "a.pkl", {"attn": weights(), "meta": meta}, protocol)).meta
        assert_array_equal(read.pop("array"), np.arange(3))
        assert read == {key: value for key, value in meta.items() if key != "array"}


def test_double_precision_is_narrowed(tmp_path):
    record = load_record(write(tmp_path / "a.pkl", weights().double()))
    assert record.dtype == "float32"
    assert_array_equal(record.attn, weights().numpy())


class Calls:
    """Pickles into a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_tensors_that_were_pickled_on_a_gpu_are_read_without_one(tmp_path):
    rebuild, (storage, *layout) = weights().__reduce_ex__(2)
    load, (data,) = storage.__reduce__()
    on_gpu = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert on_gpu != data
    path = write(tmp_path / "a.pkl", Calls(rebuild, Calls(load, on_gpu), *layout))
    assert torch.equal(load_record(path).tensor(), weights())


def test_tensors_with_strides_gradients_or_a_larger_storage_are_read(tmp_path):
    base = torch.nn.Parameter(weights(layers=4, heads=3)).data.requires_grad_()
    view = base[1:].transpose(0, 1)
    assert_array_equal(load_record(write(tmp_path / "a.pkl", view)).attn, view.detach().numpy())


# refusals


def hostile() -> dict[str, tuple[bytes, str]]:
    """Pickles that run code when loaded the ordinary way, by kind, with the name that they ask for."""
    marker = "touch executed"
    inner = io.BytesIO()
    torch.save(Calls(os.system, marker), inner, _use_new_zipfile_serialization=False)
    zipped = io.BytesIO()
    torch.save({"attn": Calls(os.system, marker)}, zipped)
    system = f"{os.system.__module__}.system"
    objects = np.array([Calls(os.system, marker)], dtype=object)
    return {
        "call": (pickle.dumps(Calls(os.system, marker)), system),
        "text protocol": (b"cos\nsystem\n(S'touch executed'\ntR.", "os.system"),
        "beside a tensor": (pickle.dumps({"attn": weights(), "meta": {"x": Calls(os.system, marker)}}), system),
        "eval": (pickle.dumps(Calls(eval, "open('executed', 'w')")), "builtins.eval"),
        "exec": (b'c__builtin__\nexec\n(S\'open("executed", "w")\'\ntR.', "__builtin__.exec"),
        "getattr": (pickle.dumps(Calls(getattr, "x", "upper")), "builtins.getattr"),
        "subprocess": (pickle.dumps(Calls(subprocess.check_output, ["touch", "executed"])), "subprocess.check_output"),
        "attribute of an allowed name": (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "numpy.ndarray.tofile"),
        "object array": (pickle.dumps(objects), "an array of type 'O8'"),
        "old object": (b"(S'touch executed'\nios\nsystem\n.", "os.system"),
        "torch.load": (pickle.dumps(Calls(torch.load, "executed")), "torch.serialization.load"),
        "inside a storage": (pickle.dumps(Calls(torch.storage._load_from_bytes, inner.getvalue())), system),
        "torch.save": (zipped.getvalue(), system),
        "legacy torch.save": (inner.getvalue(), system),
        "plain class": (pickle.dumps(Path("a")), f"{type(Path()).__module__}.PosixPath"),
    }


@pytest.mark.parametrize("kind", hostile())
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_pickle_that_asks_for_more_is_refused_by_name_and_nothing_runs(tmp_path, monkeypatch, kind, pack):
    data, name = hostile()[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pkl").write_bytes(pack(data))
    with pytest.raises(
        UserError, match=rf"bad\.pkl: refused, it asks for {name.replace('.', '[.]')}; a record holds only tensors"
    ):
        load_record("bad.pkl")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.pkl"]


RUNS = ["call", "text protocol", "beside a tensor", "eval", "exec", "object array", "old object", "inside a storage"]


@pytest.mark.parametrize("kind", RUNS)
def test_the_same_pickles_do_run_when_loaded_the_ordinary_way(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    pickle.loads(hostile()[kind][0])
    assert Path("executed").exists()


def test_sets_are_refused(tmp_path):
    """Whoever chooses what lies in a set can choose how long it takes to fill it."""
    for content in ({1, 2}, frozenset("ab")):
        for protocol in (2, 4):
            path = write(tmp_path / "a.pkl", {"attn": weights(), "meta": {"x": content}}, protocol)
            with pytest.raises(UserError, match=r"a\.pkl: refused, it asks for (__builtin__|the opcode|builtins)"):
                load_record(path)


def test_a_pickle_cannot_change_the_functions_that_rebuild_tensors(tmp_path):
    data = b"\x80\x04\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93N}\x8c\x0c__defaults__K\x07\x85s\x86b."
    before = torch._utils._rebuild_tensor_v2.__defaults__
    (tmp_path / "bad.pkl").write_bytes(data)
    with pytest.raises(UserError, match=r"refused, it asks for attributes of torch\._utils\._rebuild_tensor_v2"):
        load_record(tmp_path / "bad.pkl")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_bytes_in_an_unusual_encoding_are_refused(tmp_path):
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00utf-7tR.")
    with pytest.raises(UserError, match=r"truncated or not a record .*utf-7"):
        load_record(tmp_path / "bad.pkl")


# damage


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"none\.pkl: no such file; expected a record"):
        load_record(tmp_path / "none.pkl")
    with pytest.raises(UserError, match="is a folder; expected a record file"):
        load_record(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        load_record(tmp_path / f"{'a' * 300}.pkl")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_record_cut_short_anywhere_is_refused_as_damaged(tmp_path, pack):
    data = pack(pickle.dumps({"attn": weights(), "meta": META}))
    path = tmp_path / "cut.pkl"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"^[^\n]*cut\.pkl: truncated or not a record[^\n]*$"):
            load_record(path)


def test_a_torch_file_cut_short_is_refused_as_damaged(tmp_path):
    torch.save(weights(), tmp_path / "whole.pkl")
    data = (tmp_path / "whole.pkl").read_bytes()
    for length in (2, 100, len(data) // 2, len(data) - 5):
        (tmp_path / "cut.pkl").write_bytes(data[:length])
        with pytest.raises(UserError, match=r"^[^\n]*cut\.pkl: truncated or not a record[^\n]*$"):
            load_record(tmp_path / "cut.pkl")


def test_changed_bytes_end_in_a_record_or_in_one_line(tmp_path):
    data = bytearray(pickle.dumps({"attn": weights(), "meta": META}))
    rng = np.random.default_rng(0)
    path = tmp_path / "changed.pkl"
    messages = []
    for _ in range(400):
        changed = bytearray(data)
        changed[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(changed)
        try:
            load_record(path)
        except UserError as error:
            messages.append(str(error))
    assert 100 < len(messages) < 400
    assert all(message.startswith(f"{path}: ") and "\n" not in message for message in messages)


def changed(place: tuple[int, ...], value: float) -> torch.Tensor:
    attn = weights()
    attn[place] = value
    return attn


GRID = Grid.stretched(4, 4, (640, 480)).to_dict()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (weights()[0], r"attention has shape \[2, 1, 16\]; expected \[layers, heads, read tokens, image tokens\]"),
        (weights().repeat(1, 1, 4097, 1), r"attention has shape \[3, 2, 4097, 16\]; expected .*, at most 4096 read"),
        (weights()[:0], r"attention is empty, shape \[0, 2, 1, 16\]"),
        (weights()[:, :0], r"attention is empty, shape \[3, 0, 1, 16\]"),
        (weights()[..., :0], r"attention is empty, shape \[3, 2, 1, 0\]"),
        (weights(vis=15), r"15 image tokens are no square grid and meta has no grids; expected side x side"),
        (changed((1, 1, 0, 3), float("nan")), "NaN or infinity"),
        (changed((1, 1, 0, 3), float("inf")), "NaN or infinity"),
        (changed((1, 1, 0, 3), -0.25), r"negative values \(lowest -0.25\); expected weights after the softmax"),
        (torch.zeros(3, 2, 1, 16), "attention is zero everywhere"),
        ((weights() * 9).long(), "attention of type int64; expected one of float16, bfloat16, float32"),
        (np.array([["a"]], object), "asks for an array of type 'O8'"),
        (np.arange(6), "attention of type int64"),
        (weights() * 1e30, "the weights of a head sum to 1e\\+30; expected weights after the softmax"),
        (weights() * 1.02, "the weights of a head sum to 1.02; expected"),
        ({"attn": weights(), "meta": {"image_size": [40000, 40000]}}, "at most 178,956,970 of them"),
        (
            {"attention": weights(), "meta": {}},
            r"no 'attn' among its keys \['attention', 'meta'\]; expected {attn, meta}",
        ),
        ({"attn": [[0.5]], "meta": {}}, "found a list; expected {attn: tensor, meta: dict} or a tensor"),
        ({"attn": np.float32(0.5)}, "found a float32; expected"),
        ({"attn": weights(), "meta": [1]}, "found a list; expected"),
        ([weights()], "found a list; expected"),
        (
            {"attn": weights(), "meta": {"image_size": [640]}},
            r"meta\['image_size'\] is \[640\]; expected \[width, height\]",
        ),
        ({"attn": weights(), "meta": {"image_size": [640, 0]}}, r"expected \[width, height\]"),
        ({"attn": weights(), "meta": {"image_size": "big"}}, r"expected \[width, height\]"),
        ({"attn": weights(), "meta": {"image_size": [float("inf"), 1]}}, r"expected \[width, height\]"),
        (
            {"attn": weights(), "meta": {"grids": {"rows": 4}}},
            r"meta\['grids'\] is {'rows': 4}; expected a list of grids",
        ),
        (
            {"attn": weights(), "meta": {"grids": [{"rows": 4}]}},
            "is malformed .it lacks 'start'.; expected {start, rows, cols, extent_xyxy",
        ),
        ({"attn": weights(), "meta": {"grids": [4]}}, "grid 4 is malformed"),
        ({"attn": weights(), "meta": {"grids": [GRID | {"rows": 2.5}]}}, "2.5 is not a whole number"),
        (
            {"attn": weights(), "meta": {"grids": [GRID | {"cols": 0}]}},
            "is impossible; expected start >= 0, rows and cols >= 1",
        ),
        ({"attn": weights(), "meta": {"grids": [GRID | {"extent_xyxy": [9, 0, 1, 5]}]}}, "is impossible"),
        ({"attn": weights(), "meta": {"grids": [GRID | {"extent_xyxy": [0, 0, 1, float("nan")]}]}}, "is impossible"),
        ({"attn": weights(), "meta": {"grids": [GRID | {"extent_xyxy": [0, 0, 1]}]}}, "is malformed"),
        (
            {"attn": weights(), "meta": {"grids": [GRID, GRID | {"start": 1}]}},
            "grid of 4 x 4 from token 1 needs 17 image tokens, but there are 16",
        ),
    ],
)
def test_a_file_that_cannot_be_a_record_is_told_what_would_be_right(tmp_path, content, message):
    path = write(tmp_path / "bad.pkl", content)
    with pytest.raises(UserError, match=rf"^[^\n]*bad\.pkl: [^\n]*{message}[^\n]*$"):
        load_record(path)


# records and grids


def test_an_old_record_is_stretched_over_its_image_and_one_without_size_over_its_cells():
    assert Record(weights().numpy(), META).grid == Grid(0, 4, 4, (0, 0, 640, 480))
    assert Record(weights().numpy()).grid == Grid(0, 4, 4, (0, 0, 4, 4))
    assert Record(weights().numpy()).image_size is None
    assert Record(weights().numpy()).with_image_size((30, 20)).grid == Grid(0, 4, 4, (0, 0, 30, 20))


def test_with_image_size_leaves_the_record_as_it_was():
    record = Record(weights().numpy(), dict(META))
    assert record.with_image_size((30, 20)).image_size == (30, 20)
    assert record.meta == META


def test_maps_are_the_tokens_of_the_grid_that_counts_row_by_row():
    attn = np.arange(24, dtype=np.float32).reshape(2, 1, 1, 12)
    grids = [Grid(1, 2, 3, (0, 0, 9, 9)), Grid(7, 1, 5, (0, 0, 9, 9), kind="tile")]
    record = Record(attn, {"grids": [grid.to_dict() for grid in grids]}).under(LogicConfig(grids=Grids.whole))
    assert record.maps.shape == (2, 1, 2, 3)
    assert_array_equal(record.maps[1, 0], [[13, 14, 15], [16, 17, 18]])
    assert record.grids[1].tokens == slice(7, 12)
    assert (record.num_layers, record.num_heads) == (2, 1)


def test_grids_survive_the_file(tmp_path):
    grids = [Grid(0, 2, 3, (-1.5, 0, 7.25, 9)), Grid(6, 2, 5, (0, 0, 9, 9))]
    save_record(tmp_path / "a.pkl", Record.from_tensor(weights(), META | {"grids": [grid.to_dict() for grid in grids]}))
    assert load_record(tmp_path / "a.pkl").grids == tuple(grids)


@pytest.mark.parametrize(
    ("grid", "extent"),
    [
        (Grid.stretched(4, 6, (640, 240)), (0, 0, 640, 240)),
        (Grid.padded_square(4, (640, 240)), (0, -200, 640, 440)),
        (Grid.padded_square(4, (240, 640)), (-200, 0, 440, 640)),
        (Grid.padded_square(4, (7, 4)), (0, -1, 7, 6)),
        (Grid.padded_square(4, (5, 5)), (0, 0, 5, 5)),
        (Grid.centre_crop(4, (640, 240), 336), (200, 0, 440, 240)),
        (Grid.centre_crop(4, (240, 640), 336), (0, 200, 240, 440)),
        (Grid.centre_crop(4, (300, 300), 256, 224), (18.75, 18.75, 281.25, 281.25)),
    ],
)
def test_grids_cover_what_the_model_saw(grid, extent):
    assert_allclose(grid.extent_xyxy, extent, atol=1e-9)


# writing


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record(np.full((1, 1, 1, 4), np.nan, np.float32)), "a.pkl: attention holds NaN"),
        (Record(weights().numpy(), {"image_file": Path("bird.png")}), "a.pkl: refused, it asks for pathlib"),
    ],
)
def test_a_record_that_could_not_be_read_back_is_not_written(tmp_path, record, message):
    with pytest.raises(UserError, match=message):
        save_record(tmp_path / "a.pkl", record)
    assert list(tmp_path.iterdir()) == []


def test_writing_replaces_the_file_makes_folders_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    write_atomic(path, "first")
    write_atomic(path, "zweites: ü")
    write_atomic(path.with_name("b"), b"\x00\xff")
    assert path.read_text(encoding="utf-8") == "zweites: ü"
    assert path.with_name("b").read_bytes() == b"\x00\xff"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["a.json", "b"]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    write_atomic(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full disk", "interrupted"]
)
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_part(tmp_path, monkeypatch, failure):
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def fail(self, target):
        raise failure

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UserError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        write_atomic(path, "new")
    if isinstance(failure, OSError):
        assert (
            str(caught.value) == f"{path}: no space left on the disk for 3 bytes: free some, or choose another folder"
        )
        assert isinstance(caught.value, DiskFull)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file/a\.json: cannot be written"):
        write_atomic(tmp_path / "file" / "a.json", "x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_user_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot be written .Permission denied."):
        write_atomic(tmp_path / "a.json", "x")


OTHER_KINDS = {
    "a NumPy array (.npy)": np.save,
    "NumPy arrays (.npz)": np.savez_compressed,
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_of_files_are_named_with_the_way_to_a_record(tmp_path, kind):
    attn, path = weights().numpy(), tmp_path / "a.pkl"
    with path.open("wb") as stream:
        OTHER_KINDS[kind](stream, attn)
    with pytest.raises(UserError, match=rf"^{path}: is {re.escape(kind)}, not a record: .*save_record") as caught:
        load_record(path)
    assert "\n" not in str(caught.value)
    save_record(path, Record.from_tensor(attn, {}))  # what the line says
    assert_array_equal(load_record(path).attn, attn)


READERS = {
    "a.pkl": load_record,
    "a.safetensors": load_record,
    "a.png": open_image,
    "m.png": lambda path: read_mask(path, (4, 4)),
    "a.jsonl": read_jsonl,
    "heads.json": read_heads,
}


def test_a_pointer_of_git_lfs_in_place_of_any_input_is_named(tmp_path):
    for name, read in READERS.items():
        (tmp_path / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * '0'}\nsize 1\n")
        with pytest.raises(UserError, match=rf"{name}:? is a git-lfs pointer, not the file itself: run `git lfs pull`"):
            read(tmp_path / name)


# what is there before and after


def test_a_folder_is_tried_before_the_work_and_what_killed_writers_left_is_removed(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    node, hexes = platform.node(), 32 * "a"
    dead, alive, elsewhere = (
        tmp_path / f".{who}-{hexes}.part" for who in (f"{node}-{ended.pid}", f"{node}-{os.getppid()}", "else-where-1")
    )
    old = tmp_path / f".{hexes}.part"  # of a version that did not tell its writer
    for part in (dead, alive, elsewhere, old):
        part.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    check_writable(tmp_path, "a.json")
    assert sorted(tmp_path.iterdir()) == sorted([alive, elsewhere])
    check_writable(tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"a\.json is a folder, where a file of that name would go"):
        check_writable(tmp_path, "a.json")
    for number, kind, message in (
        (errno.ENOSPC, DiskFull, "no space left on the disk for 65,536 bytes"),
        (errno.EROFS, UserError, r"cannot write into .* \(Read-only file system\): make it writable"),
    ):

        def fail(_, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(kind, match=message):
            check_writable(tmp_path)
    assert sorted(tmp_path.glob(".*")) == sorted([alive, elsewhere])


def test_a_write_that_is_killed_leaves_a_part_that_tells_its_writer(tmp_path):
    code = (
        "import os, sys; from lab.base.files import write_atomic\n"
        "os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "write_atomic(sys.argv[1], 'half')"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], cwd=PROJECT, check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.glob(".*.part"))) == 1
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_write_waits_for_the_disk_before_the_file_gets_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append([path.suffix for path in tmp_path.iterdir()]))
    write_atomic(tmp_path / "a.json", "x")
    assert seen == [[".part"]]


def test_an_error_tells_its_cause_and_the_final_name_once(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / ".x.part"))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull) as caught:
        write_atomic(tmp_path / "a.json", "x")
    line = one_line(caught.value)
    assert line == f"{tmp_path}/a.json: no space left on the disk for 1 bytes: free some, or choose another folder"
    (tmp_path / "r.pkl").write_bytes(b"nothing")
    with pytest.raises(UserError) as caught:
        load_record(tmp_path / "r.pkl")
    assert one_line(caught.value) == str(caught.value)


# ids


@pytest.mark.parametrize(
    "sample_id", ["bird", "00012", "COCO_train2014_000000581857_3", "a.b-c d", "élan", "鳥", 17, 0]
)
def test_ordinary_ids_pass(sample_id):
    assert check_id(sample_id) == str(sample_id)


@pytest.mark.parametrize(
    ("sample_id", "message"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (" a", "spaces around"),
        (None, "is empty"),
        (True, "is empty"),
        (1.5, "is empty"),
        ("a/b", "cannot be a file name"),
        ("/etc/passwd", "cannot be a file name"),
        ("a\\b", "cannot be a file name"),
        ("C:a", "cannot be a file name"),
        ("..", "cannot be a file name"),
        ("a..b", "cannot be a file name"),
        (".hidden", "cannot be a file name"),
        ("a_analysis", "would be taken for the ranking of 'a'"),
        ("a_analysis_analysis", "expected one that does not end in _analysis$"),
        ("_analysis", "would be taken for"),
        ("a\nb", "control characters"),
        ("a\x00b", "control characters"),
        ("a\ud800b", "control characters"),
        ("a\u202eb", "control characters"),
        ("a" * 201, "201 bytes long; expected at most 200"),
        ("鳥" * 67, "201 bytes long"),
    ],
)
def test_ids_that_could_leave_the_folder_or_break_a_file_name_are_refused(sample_id, message):
    with pytest.raises(UserError, match=message) as caught:
        check_id(sample_id)
    assert len(str(caught.value)) < 300
    assert check_id(safe_name(str(sample_id))) == safe_name(str(sample_id))  # what is left of it can be one


def test_importing_records_does_not_import_torch():
    code = "import sys, lab.records.files; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
        == "False\n"
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float64"]
)
def test_tensors_of_every_type_are_what_torch_reads(tmp_path, zipped, dtype):
    """Views with a stride and an offset, storages that two tensors share, scalars, empty ones, and arrays beside."""
    values = (torch.arange(-12, 12).reshape(4, 6) % 7).to(getattr(torch, dtype))
    tensors = {"a": values, "b": values.T[1:], "c": values[1, 2], "d": values[:0], "e": values[:, ::2]}
    torch.save({**tensors, "type": values.dtype}, tmp_path / "a.pkl", _use_new_zipfile_serialization=zipped)
    found = load_plain(tmp_path / "a.pkl")
    assert found.pop("type") == values.dtype
    for name, wanted in torch.load(tmp_path / "a.pkl", weights_only=True).items():
        if name != "type":
            assert found[name].dtype == dtype
            assert_array_equal(found[name].values, (wanted.float() if dtype == "bfloat16" else wanted).numpy())
    pickled = load_plain(write(tmp_path / "b.pkl", tensors))
    assert_array_equal(pickled["e"].values, found["e"].values)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "?", ">i2", "u1", "f2"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_what_numpy_reads(tmp_path, dtype, protocol):
    """In both byte orders and both orders of the axes, scalars and empty ones too, and always C-contiguous."""
    values = (np.arange(24).reshape(4, 6) % 3).astype(dtype)
    arrays = {"a": values, "b": np.asfortranarray(values), "c": values[1, 2], "d": values[:0], "e": values[:, ::2]}
    found = load_plain(write(tmp_path / "a.pkl", arrays, protocol))
    for name, wanted in arrays.items():
        assert_array_equal(found[name], wanted)
        assert found[name].dtype == np.dtype(dtype).newbyteorder("=")
        assert found[name].flags.c_contiguous
