"""The paper's script, from RefCOCO's files to the comparison, on drawn scenes and the shipped model."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from examples.paper.compare import comparison, size_of
from lab.base.paths import PROJECT
from lab.picturebook.make import samples

SCRIPT = PROJECT / "examples/paper/run.sh"
FEW = ["study.draws=2", "evaluate.draws=2", "evaluate.resamples=20"]


def write_refcoco(folder: Path, images: Path, splits: dict[str, int]) -> None:
    """So many scenes in each split as RefCOCO is distributed.

    The files: refs(unc).p, instances.json and pictures by COCO's names.
    """
    folder.mkdir(parents=True)
    images.mkdir(parents=True)
    refs, pictures, annotations = [], [], []
    names = [split for split, count in splits.items() for _ in range(count)]
    for number, (split, drawn) in enumerate(zip(names, samples(len(names), seed=40), strict=True), start=1):
        x0, y0, x1, y1 = drawn.box_xyxy
        name = f"COCO_train2014_{number:012d}.jpg"
        drawn.image.save(images / name)
        pictures.append({"id": number, "file_name": name, "width": drawn.image.width, "height": drawn.image.height})
        box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]], "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
        sentence = {"sent_id": number, "raw": drawn.expression.text, "sent": drawn.expression.text}
        ref = {"ref_id": number, "ann_id": number, "image_id": number, "category_id": 1, "split": split}
        refs.append({**ref, "sentences": [sentence]})
    content = {"images": pictures, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    (folder / "instances.json").write_text(json.dumps(content))


def run(*arguments: str, **variables: str | Path) -> subprocess.CompletedProcess[str]:
    known = {"MODEL": "picturebook", "PYTHON": sys.executable, "FIND": "6", "DRAW": "4"}
    environment = {**os.environ, **known, **{name: str(value) for name, value in variables.items()}}
    return subprocess.run(
        ["bash", SCRIPT, *arguments], env=environment, cwd="/", capture_output=True, text=True, timeout=300
    )


def stops_at_call(number: int, folder: Path) -> str:
    """What starts pipeline.py, but fails at that call."""
    script = folder / "launch.sh"
    script.write_text(f'echo >>{folder}/calls\n[ $(wc -l <{folder}/calls) != {number} ] && {sys.executable} "$@"\n')
    return f"bash {script}"


def test_the_script_goes_from_the_published_files_to_the_comparison_and_goes_on_where_it_was_stopped(tmp_path):
    data, out = tmp_path / "my data" / "refcoco+", tmp_path / "my runs"
    write_refcoco(data, tmp_path / "train2014", {"train": 8, "val": 5})
    paths = {"DATASET": data, "IMAGES": tmp_path / "train2014", "OUT": out}
    stopped = run(*FEW, **paths, LAUNCH=stops_at_call(2, tmp_path))
    assert stopped.returncode == 2
    assert stopped.stderr.splitlines()[-1] == "error: stage=batch has stopped; the same command goes on where it was"
    assert not (out / "val").exists()
    assert len((out / "find6.jsonl").read_text().splitlines()) == 6
    model = "examples-models-picturebook"
    written = {path: path.stat().st_mtime_ns for path in (*out.glob("*.jsonl"), *out.glob("find6/*/?_?.pkl"))}
    assert len(written) == 3 + 6

    done = run(*FEW, **paths)
    assert done.returncode == 0, done.stderr
    assert "13 GB" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in written} == written
    heads = json.loads((out / "find6" / model / "localization_heads.json").read_text())
    assert (heads["samples"], heads["samples_per_trial"]) == (6, 4)
    metrics = json.loads((out / "val" / model / "metrics.json").read_text())
    assert metrics["metrics"]["chosen"][0]["n"] == 5
    for name in ("metrics.md", "study.md", "report.html"):
        assert (out / "val" / model / name).exists()
    shown = comparison(metrics, heads, "refcoco+", "val")
    assert "heads found here    L" in shown
    assert "boxes, Acc@0.5" in shown
    assert shown in done.stdout


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MODEL": "llava16"}, r"MODEL=llava16: choose from auto "),
        ({"DATASET": "nowhere"}, "no refs(unc).p in DATASET=nowhere"),
        ({"SPLIT_BY": "umd"}, "no refs(umd).p in DATASET="),
        ({"IMAGES": "nowhere"}, "no COCO_train2014_*.jpg in IMAGES=nowhere"),
        ({"FIND": "6", "DRAW": "7"}, "FIND=6, DRAW=7: expected whole numbers, DRAW no larger than FIND"),
        ({"PYTHON": "/nowhere/python"}, "PYTHON=/nowhere/python is not there"),
    ],
)
def test_what_is_missing_is_told_in_one_line_before_anything_is_written(tmp_path, variables, message):
    write_refcoco(tmp_path / "refcoco", tmp_path / "train2014", {"val": 1})
    paths = {"DATASET": tmp_path / "refcoco", "IMAGES": tmp_path / "train2014", "OUT": tmp_path / "out"}
    done = run(**{**paths, **variables})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_papers_figures_stand_beside_those_of_its_models_alone():
    estimates = [{"group": "all", "metric": "Acc@0.5", "value": 0.5, "low": 0.4, "high": 0.6}]
    metrics = {"model": "llava-hf/llava-1.5-13b-hf", "config": {"logic": {"top_k": 2}}}
    metrics["metrics"] = {"chosen": estimates, "picked per sample": estimates}
    heads = {"heads": [{"layer": 3, "head": 4}, {"layer": 5, "head": 6}, {"layer": 7, "head": 8}]}
    lines = comparison(metrics, heads, "refcoco", "val").splitlines()
    assert lines[:2] == ["heads of the paper  L15 H39, L16 H30, L7 H2", "heads found here    L3 H4, L5 H6"]
    assert [line.split()[-5:] for line in lines[-2:]] == [
        ["87.2", "50.0", "40.0", "to", "60.0"],
        ["67.4", "50.0", "40.0", "to", "60.0"],
    ]
    for model, dataset, split in (("llava-hf/llava-1.5-13b-hf", "mine", "val"), ("mine", "refcoco", "val")):
        shown = comparison({**metrics, "model": model}, heads, dataset, split)
        assert "87.2" not in shown
        assert "67.4" not in shown


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("liuhaotian/llava-v1.5-7b", "7b"),
        ("llava-hf/llava-1.5-13b-hf", "13b"),
        ("Lin-Chen/ShareGPT4V-7B", ""),
        ("mmaaz60/LLaVA-7B-Lightening-v1-1", ""),
        ("examples/models/picturebook", ""),
    ],
)
def test_a_checkpoints_size_is_read_from_its_name(model, size):
    assert size_of(model) == size
