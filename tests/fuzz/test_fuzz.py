"""Whatever the input is: a right result, or one line and exit code 2, within 10 seconds and 2 GiB.

`make fuzz` runs 2,000 cases; the suite runs 150 of them. The cases are the same in every run.
"""

import gzip
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from analyze import rank_heads
from bbox import localize_record
from conf.schema import configuration, free_text, keys
from lab.base.arguments import hydra_arguments
from lab.base.images import header_size, open_image
from lab.datasets import read_jsonl, read_truth
from lab.datasets.jsonl import write_jsonl
from lab.datasets.masks import read_mask
from lab.heads.choice import head_choice
from lab.records.files import load_record, save_record
from lab.records.record import Record
from pipeline import run
from tests.batch.test_storage import kept_of
from tests.fuzz.limited import check
from tests.fuzz.mutations import (
    VALUES,
    changed_archive,
    changed_bytes,
    changed_header,
    changed_pickle,
    changed_value,
)

CASES = int(os.environ.get("FUZZ_CASES", "150"))


def cases(share: float) -> settings:
    """So many of all cases, the same in every run."""
    return settings(
        max_examples=max(1, round(share * CASES)),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


GRID = {"start": 0, "rows": 4, "cols": 4, "extent_xyxy": [0.0, 0.0, 64.0, 48.0]}
META = {"image_file": "a.png", "query": "the bird", "image_size": [64, 48], "grids": [GRID], "model_name": "m"}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A working directory with a picture and its mask."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        picture().save("a.png")
        Image.fromarray((np.indices((48, 64)).sum(0) > 50).astype(np.uint8) * 255).save("m.png")
        yield folder


def picture() -> Image.Image:
    return Image.fromarray((np.indices((48, 64, 3)).sum(0) % 256).astype(np.uint8))


# lines of a data file

ROW = {"id": "a", "prompt": "the bird", "image_path": "a.png", "image_size": [64, 48], "split": "val"}
ROWS = [
    {**ROW, "bbox": [8, 10, 32, 20]},
    {**ROW, "bbox": [8, 10, 39, 29], "bbox_format": "xyxy_inclusive", "ignore": [[1, 1, 9, 1, 9, 9]]},
    {**ROW, "mask_path": "m.png"},
    {**ROW, "segmentation": [[4, 4, 40, 4, 40, 30, 4, 30]]},
    {**ROW, "segmentation": {"size": [48, 64], "counts": [100, 20, 28, 20, 2904]}, "bbox": [2, 4, 2, 40]},
    {**ROW, "segmentation": {"size": [48, 64], "counts": "T3d0l0d0hj2"}},
]


@st.composite
def data_files(draw: st.DrawFn) -> bytes:
    rows = draw(st.lists(st.one_of(*[st.one_of(st.just(row), changed_value(row)) for row in ROWS], VALUES), max_size=3))
    lines = "\n".join(json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows)
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"]))
    data = lines.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    return draw(st.one_of(st.just(data), st.just(data), changed_bytes(data)))


def read_and_write(path: Path) -> None:
    samples = read_jsonl(path)
    assert len({sample.id for sample in samples}) == len(samples) > 0
    for sample in samples:
        if sample.box_xyxy or sample.mask_source:
            truth = read_truth(sample)
            assert truth.area > 0
            assert truth.mask is None or truth.mask.shape == header_size(sample.image_file)[::-1]
    write_jsonl(Path("again.jsonl"), samples)
    for sample, again in zip(samples, read_jsonl(Path("again.jsonl")), strict=True):
        assert (again.id, again.query, again.split) == (sample.id, sample.query, sample.split)
        assert (again.box_xyxy is None) == (sample.box_xyxy is None)
        if sample.box_xyxy:
            assert_allclose(again.box_xyxy, sample.box_xyxy, atol=1e-5, rtol=1e-9)


@cases(0.25)
@given(data_files())
def test_a_data_file(here, data):
    Path("fuzzed.jsonl").write_bytes(data)
    check(read_and_write, Path("fuzzed.jsonl"))


# values of the configuration

KEYS = [name for name, _ in keys()]
RUNNING = [name for name in KEYS if name.startswith("logic.") and not name.startswith("logic.select")]
WORDS = ["null", "true", "-1", "0", "1", "0.5", "1e308", ".nan", ".inf", "1e-320", "9" * 30, "preset", "chord", "a,b"]
WORDS += ["[]", "[[1,2]]", "[[0,0],[0,0]]", "{}", "???", "${model.name}", "${oc.env:HOME}", "range(1,3)", "'", '"', "["]
VALUES_TYPED = st.one_of(
    st.sampled_from(WORDS), st.text(max_size=12), st.integers().map(str), st.floats().map(str), VALUES.map(str)
)


def compose(overrides: list[str]) -> None:
    configuration(hydra_arguments(overrides, free_text()))


@cases(0.1)
@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES_TYPED), min_size=1, max_size=3))
def test_values_of_the_configuration(here, chosen):
    check(compose, [f"{key}={value}" for key, value in chosen])


def stage(name: str, overrides: list[str]) -> None:
    save_record("r.pkl", Record.from_tensor(WEIGHTS, META))
    given = [f"stage={name}", "data.attention_file=r.pkl", "data.output_dir=out", "save_fig=false", *RULES, *overrides]
    assert run(configuration(hydra_arguments(given, free_text()))) == 0


@cases(0.1)
@given(
    st.sampled_from(["analyze", "visualize"]),
    st.lists(st.tuples(st.sampled_from(RUNNING), VALUES_TYPED), min_size=1, max_size=2),
)
def test_rules_on_a_record(here, name, chosen):
    check(stage, name, [f"{key}={value}" for key, value in chosen])


# records

WEIGHTS = torch.softmax(3 * torch.randn(4, 4, 1, 16, generator=torch.Generator().manual_seed(0)), -1)
RULES = ["logic.top_k=2", "logic.heads=null"]
CONFIG = configuration(RULES)
LOGIC = CONFIG.logic


def of_torch(content: object, *, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def written(folder: Path, name: str, *overrides: str) -> bytes:
    record = Record.from_tensor(WEIGHTS, META, WEIGHTS.flip(0))
    save_record(folder / name, kept_of(record, configuration([*RULES, *overrides])))
    return (folder / name).read_bytes()


@pytest.fixture(scope="module")
def records(here):
    content = {"attn": WEIGHTS, "meta": META}
    half = {"attn": WEIGHTS.half().numpy(), "meta": META}
    exchange, few = written(here, "a.safetensors"), written(here, "b.safetensors", "data.save_attention=selected")
    archive, part = written(here, "a.pkl"), written(here, "b.pkl", "data.save_attention=selected")
    plain = [pickle.dumps(content, protocol) for protocol in (2, 4)] + [pickle.dumps(half, p) for p in (0, 2, 5)]
    old = of_torch(content, zipped=False)
    packed = gzip.compress(plain[0], mtime=0)
    return st.one_of(
        *map(changed_header, (exchange, few)),
        *map(changed_bytes, (exchange, archive, old, packed, plain[1])),
        *map(changed_archive, (archive, part)),
        *map(changed_pickle, plain),
    )


def rank_and_draw(path: Path) -> None:
    record = load_record(path)
    layers, heads = record.attn.shape[:2]
    assert record.attn.shape[2:] == (1, record.attn.shape[3])
    assert (record.attn >= 0).all()
    assert (record.attn.sum(-1) <= 1.02).all()
    ranking = rank_heads(record, LOGIC)
    assert len({(score.layer, score.head) for score in ranking}) == len(ranking)
    assert all(score.layer < layers and score.head < heads for score in ranking)
    result = localize_record(
        record.with_image_size(record.image_size or (64, 48)), ranking, LOGIC, head_choice(LOGIC, CONFIG.model)
    )
    width, height = record.image_size or (64, 48)
    assert result.mask.shape == (height, width)
    if result.box_xyxy:
        x0, y0, x1, y1 = result.box_xyxy
        assert 0 <= x0 <= x1 < width
        assert 0 <= y0 <= y1 < height
    save_record("again.pkl", record)
    assert_array_equal(load_record("again.pkl").attn, record.attn)


@cases(0.4)
@given(st.data())
def test_a_record(here, records, data):
    Path("fuzzed.pkl").write_bytes(data.draw(records))
    check(rank_and_draw, Path("fuzzed.pkl"))


# pictures


@pytest.fixture(scope="module")
def pictures():
    valid = []
    for form in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm", "tga", "ico"):
        for mode in ("RGB", "L", "P", "RGBA", "I;16", "F", "1", "CMYK"):
            buffer = io.BytesIO()
            try:
                picture().convert("L" if mode in ("I;16", "F", "1") else "RGB").convert(mode).save(buffer, form)
            except (OSError, ValueError, KeyError):
                continue
            valid.append(buffer.getvalue())
    return st.sampled_from(valid).flatmap(changed_bytes)


def see(path: Path) -> None:
    image = open_image(path)
    assert image.mode == "RGB"
    assert np.asarray(image).shape == (image.height, image.width, 3)


def see_mask(path: Path) -> None:
    size = header_size(path)
    assert read_mask(path, size).shape == size[::-1]


@cases(0.15)
@given(st.data())
def test_a_picture(here, pictures, data):
    Path("fuzzed.img").write_bytes(data.draw(pictures))
    check(see, Path("fuzzed.img"))
    check(see_mask, Path("fuzzed.img"))
