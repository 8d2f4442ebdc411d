"""Scores: equal to pycocotools, misses counted and listed, figures over groups with their intervals, files that COCO's
tools read.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import bootstrap as scipy_bootstrap

from lab.base.errors import UserError
from lab.datasets import Truth, rle
from lab.measure.coco import coco_predictions
from lab.measure.intervals import bootstrap, compare, percentiles, summarize
from lab.measure.metrics import (
    Prediction,
    Score,
    box_iou,
    exclusive,
    mask_iou,
    mask_overlap,
    misses,
    point_in_box,
    score,
    size_name,
)

BOX = (2.0, 3.0, 10.0, 9.0)


def random_masks(count: int, seed: int = 0) -> list[np.ndarray]:
    """Masks of every density, blocky and noisy, empty and full ones among them."""
    rng = np.random.default_rng(seed)
    masks = []
    for number in range(count):
        height, width = rng.integers(1, 40, 2)
        mask = rng.random((height, width)) < rng.choice([0, 0.02, 0.3, 0.7, 1])
        if number % 3 == 0:
            y, x = rng.integers(0, height), rng.integers(0, width)
            mask[y:, x:] = True
        masks.append(mask)
    return masks


def theirs(mask: np.ndarray) -> dict:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


def truth(
    sample_id: str = "a", box=BOX, mask=None, *, area: float | None = None, split: str | None = None, ignore=None
) -> Truth:
    pixels = (box[2] - box[0]) * (box[3] - box[1]) if mask is None else mask.sum()
    return Truth(sample_id, box, mask, ignore, area or float(pixels), split)


def filled(height: int, width: int, rows: slice, cols: slice) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[rows, cols] = True
    return mask


# the same as pycocotools


def test_box_iou_is_that_of_pycocotools_on_1000_random_boxes():
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 100, (2, 1000, 2)), rng.uniform(0.1, 80, (2, 1000, 2))
    found, true = np.concatenate([corner, corner + size], axis=2)
    xywh = np.concatenate([corner, size], axis=2)
    expected = coco.iou(xywh[0], xywh[1], [0] * 1000)
    assert_allclose(box_iou(found[:, None], true), expected, rtol=1e-9, atol=1e-12)
    assert 0.2 < (expected > 0).mean() < 0.8
    assert_allclose(box_iou(found, true), np.diag(expected), rtol=1e-9, atol=1e-12)


def test_mask_iou_is_that_of_pycocotools_on_1000_random_masks():
    rng = np.random.default_rng(1)
    for mask in random_masks(1000):
        other = rng.permuted(mask, axis=1) if rng.random() < 0.5 else mask & (rng.random(mask.shape) < 0.8)
        assert mask_iou(mask, other) == coco.iou([theirs(mask)], [theirs(other)], [0])[0, 0]


def test_run_lengths_are_those_of_pycocotools_on_1000_random_masks():
    for mask in random_masks(1000, seed=2):
        expected = theirs(mask)
        assert rle.encode(mask) == {"size": expected["size"], "counts": expected["counts"].decode()}
        runs = {"size": expected["size"], "counts": rle.text_to_counts(expected["counts"]).tolist()}
        assert coco.frPyObjects(runs, *runs["size"])["counts"] == expected["counts"]
        for form in (expected, rle.encode(mask), runs):
            assert_array_equal(rle.decode(form), mask)


def test_long_runs_are_spelled_as_pycocotools_does():
    for height, width in ((1, 1), (480, 640), (3000, 4000)):
        mask = filled(height, width, slice(height // 3, None), slice(width // 2, None))
        assert rle.encode(mask)["counts"] == theirs(mask)["counts"].decode()
        assert_array_equal(rle.decode(theirs(mask)), mask)


def test_polygons_are_filled_as_by_pycocotools():
    rng = np.random.default_rng(3)
    for number in range(300):
        height, width = rng.integers(1, 60, 2).tolist()
        polygons = [
            (rng.uniform(-0.3, 1.3, (rng.integers(3, 12), 2)) * [width, height]) for _ in range(rng.integers(1, 3))
        ]
        if number % 3 == 0:
            polygons = [np.round(polygon) for polygon in polygons]
        if number % 5 == 0:
            polygons[0][1] = polygons[0][0]  # a point that is given twice
        flat = [polygon.ravel().tolist() for polygon in polygons]
        expected = coco.decode(coco.merge(coco.frPyObjects(flat, height, width)))
        assert_array_equal(rle.from_polygons(flat, (height, width)), expected)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"size": [4, 4], "counts": [3, 4]}, "add up to 7; expected run lengths of 4 x 4 = 16 pixels"),
        ({"size": [4, 4], "counts": [20, -4]}, "add up to 16; expected"),
        ({"size": [4, 4], "counts": [8.0, 8.0]}, "add up to -1"),
        ({"size": [4, 4], "counts": [[8], [4, 4]]}, "add up to -1"),
        ({"size": [4, 4], "counts": "\x10"}, "are damaged"),
        ({"size": [4, 4], "counts": "P"}, "are damaged"),
        ({"size": [4, 4], "counts": ""}, "are damaged"),
        ({"size": [4, 4], "counts": "é"}, "are damaged|add up"),
        ({"size": [4], "counts": "0"}, r"RLE with keys \['counts', 'size'\]; expected {\"size\": \[height, width\]"),
        ({"counts": "0"}, r"RLE with keys \['counts'\]"),
        ({"size": [4, 4]}, r"RLE with keys \['size'\]"),
        ({"size": [4, 4], "counts": []}, "add up to -1"),
        ({"size": [4, 4], "counts": [2**32 + 16]}, "add up to 4294967312; expected"),
        ({"size": [4, 4], "counts": [2**62] * 4 + [16]}, "expected run lengths of 4 x 4 = 16 pixels"),
        ({"size": [4, 4], "counts": "P" * 40 + "0"}, "expected run lengths"),
        ({"size": [-4, -4], "counts": [16]}, "RLE with keys"),
        ({"size": [2**40, 2**40], "counts": [2**62]}, "expected fewer than 67,108,864 pixels: scale it down"),
    ],
)
def test_a_damaged_rle_is_refused(broken, message):
    with pytest.raises(UserError, match=message):
        rle.decode(broken)


def test_compressed_counts_may_be_spelled_with_more_characters_than_they_need():
    short, long = ({"size": [2, 4], "counts": counts} for counts in ("35", "3" + "U" + "P" * 9 + "0"))
    assert rle.decode(short).sum() == 5
    assert_array_equal(rle.decode(long), rle.decode(short))


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([0, 0, 5, float("nan"), 5, 5], "is malformed; expected"),
        ([0, 0, 5, float("inf"), 5, 5], "is malformed; expected"),
        ([0, 0, 1e6, 0, 5, 5], "is malformed; expected"),
        ([0, 0, 5, 5], "is malformed; expected"),
        (["0", "0", "5", "0", "5", "5"], "is malformed; expected"),
        ([0, 0, 9e5, 9e5] * 20, "is 36000000 pixels around; expected at most 10000000"),
    ],
)
def test_a_polygon_that_cannot_be_one_is_refused(polygon, message):
    with pytest.raises(UserError, match=message):
        rle.from_polygons([polygon], (9, 9))
    assert not rle.from_polygons([], (9, 9)).any()


def test_masks_too_large_for_pycocotools_are_refused():
    with pytest.raises(UserError, match="the mask is 8192 x 8192; expected fewer than"):
        rle.from_polygons([[0, 0, 5, 0, 5, 5]], (8192, 8192))
    with pytest.raises(UserError, match="the mask is 8192 x 8192; expected fewer than"):
        rle.encode(np.broadcast_to(False, (8192, 8192)))


# boxes


def test_boxes_are_continuous_or_inclusive_as_asked():
    a, b = np.array([0, 0, 9, 9]), np.array([5, 0, 14, 9])
    assert box_iou(a, b) == pytest.approx(4 * 9 / (2 * 81 - 4 * 9))
    assert box_iou(a, b, inclusive=True) == pytest.approx(5 * 10 / (2 * 100 - 5 * 10))
    assert box_iou(np.array(exclusive(a)), np.array(exclusive(b))) == box_iou(a, b, inclusive=True)
    pixel = np.array([3, 3, 3, 3])
    assert (box_iou(pixel, pixel), box_iou(pixel, pixel, inclusive=True)) == (0, 1)


@pytest.mark.parametrize(
    "empty", [(5, 5, 5, 9), (9, 5, 5, 9), (5, 9, 9, 5), (float("nan"), 0, 9, 9), (20, 20, 30, 30), (10, 3, 12, 9)]
)
def test_empty_inverted_nan_and_apart_boxes_overlap_nothing(empty):
    assert box_iou(np.array(empty), np.array(BOX)) == 0
    assert box_iou(np.array(BOX), np.array(empty)) == 0


# one sample


def test_a_hit_is_an_iou_of_the_threshold_or_more():
    half = score(truth(box=(0, 0, 10, 10)), Prediction("a", (0, 0, 5, 10)), measures=["box"])
    less = score(truth("b", box=(0, 0, 10, 10)), Prediction("b", (0, 0, 4.999, 10)), measures=["box"])
    assert half.box_iou == 0.5
    figures = {row.metric: row.value for row in summarize([half, less]) if row.group == "all"}
    assert figures == {"Acc@0.25": 1, "Acc@0.5": 0.5, "Acc@0.75": 0, "box IoU": pytest.approx((0.5 + 0.4999) / 2)}


NAN = float("nan")
MASK = filled(12, 16, slice(3, 9), slice(2, 10))


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (None, "no prediction"),
        (Prediction("a", None, MASK, (3, 4)), "no box"),
        (Prediction("a", (5, 5, 5, 8), MASK, (3, 4)), r"degenerate box \[5.0, 5.0, 5.0, 8.0\]"),
        (Prediction("a", (5, 5, NAN, 8), MASK, (3, 4)), "degenerate box"),
        (Prediction("a", (0, 0, float("inf"), 8), MASK, (3, 4)), "degenerate box"),
        (Prediction("a", BOX, None, (3, 4)), "no mask"),
        (Prediction("a", BOX, MASK & False, (3, 4)), "empty mask"),
        (Prediction("a", BOX, MASK, None), "no point"),
        (Prediction("a", BOX, MASK, (NAN, 4)), "no point"),
        (Prediction("a"), "no box; no mask; no point"),
    ],
)
def test_missing_and_degenerate_predictions_are_misses_and_listed(found, fault):
    one = score(truth(mask=MASK), found)
    if "box" in fault or not found:
        assert one.box_iou == 0
    if "mask" in fault or not found:
        assert (one.intersection, one.union) == (0, MASK.sum())
    if "point" in fault or not found:
        assert one.pointed is False
    (listed,) = misses([one, score(truth("b", mask=MASK), Prediction("b", BOX, MASK, (3, 4)))])
    assert listed[0] == "a"
    assert re.match(fault, listed[1])


def test_what_is_not_asked_for_is_neither_measured_nor_missed():
    one = score(truth(mask=MASK), Prediction("a", BOX), measures=["box"])
    assert (one.box_iou, one.union, one.pointed, one.faults) == (1.0, None, None, ())
    boxes_only = score(truth(), Prediction("a", BOX, MASK, (3, 4)))
    assert (boxes_only.union, boxes_only.pointed, boxes_only.faults) == (None, True, ())


def test_ignored_pixels_count_in_neither_sum():
    ignore = filled(12, 16, slice(0, 12), slice(0, 4))
    found = filled(12, 16, slice(0, 9), slice(0, 12))
    assert mask_overlap(found, MASK) == (48, 108)
    assert mask_overlap(found, MASK, ignore) == (36, 72)
    assert score(truth(mask=MASK, ignore=ignore), Prediction("a", BOX, found, (3, 4))).union == 72


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(UserError, match="mask is 16 x 12, the true one 12 x 16; expected the same size"):
        score(truth(mask=MASK.T), Prediction("a", BOX, MASK, (3, 4)))


def test_a_point_is_judged_by_the_mask_and_without_one_by_the_box():
    corner = filled(12, 16, slice(3, 4), slice(2, 3))
    for point, in_box, in_mask in (
        ((2.9, 3.9), True, True),
        ((3.0, 3.9), True, False),
        ((10, 4), False, False),
        ((1.9, 3), False, False),
    ):
        assert score(truth(), Prediction("a", point_xy=point), measures=["point"]).pointed is in_box
        assert score(truth(mask=corner), Prediction("a", point_xy=point), measures=["point"]).pointed is in_mask
    for outside in ((-0.1, 3), (16, 3), (2, 12)):
        assert score(truth(mask=MASK | True), Prediction("a", point_xy=outside), measures=["point"]).pointed is False
    assert_array_equal(point_in_box(np.array([[0, 0], [5, 5]]), np.array([[0, 0, 5, 5]])), [True, False])


def test_the_older_convention_counts_the_last_pixel():
    pixel = Prediction("a", (2, 3, 2, 3))
    assert score(truth(box=(2, 3, 2, 3)), pixel, measures=["box"], inclusive=True) == Score("a", None, "small", 1.0)
    assert "degenerate" in score(truth(box=(2, 3, 3, 4)), pixel, measures=["box"]).faults[0]


def test_coco_sizes_begin_at_32_and_96_pixels_squared():
    assert [size_name(area) for area in (1, 1023.9, 1024, 9215.9, 9216)] == [
        "small",
        "small",
        "medium",
        "medium",
        "large",
    ]


# many samples


def random_scores(count: int, seed: int = 0) -> list[Score]:
    rng = np.random.default_rng(seed)
    union = rng.integers(100, 10_000, count)
    intersection = (union * rng.beta(2, 1, count)).astype(int)
    numbers = zip(
        rng.random(count).tolist(),
        intersection.tolist(),
        union.tolist(),
        (rng.random(count) < 0.7).tolist(),
        strict=True,
    )
    kinds = zip(
        rng.choice(["testA", "testB"], count).tolist(),
        rng.choice(["small", "medium", "large"], count).tolist(),
        strict=True,
    )
    return [Score(str(i), *kind, *number) for i, (kind, number) in enumerate(zip(kinds, numbers, strict=True))]


def test_figures_are_shares_means_and_a_ratio_of_sums():
    scores = random_scores(200)
    figures = {row.metric: row.value for row in summarize(scores, thresholds=[0.5]) if row.group == "all"}
    assert figures == {
        "Acc@0.5": pytest.approx(np.mean([one.box_iou >= 0.5 for one in scores])),
        "box IoU": pytest.approx(np.mean([one.box_iou for one in scores])),
        "cIoU": pytest.approx(sum(one.intersection for one in scores) / sum(one.union for one in scores)),
        "mIoU": pytest.approx(np.mean([one.intersection / one.union for one in scores])),
        "pointing": pytest.approx(np.mean([one.pointed for one in scores])),
    }
    assert abs(figures["cIoU"] - figures["mIoU"]) > 1e-4


def test_groups_are_all_splits_and_sizes_and_each_is_its_own_summary():
    scores = random_scores(120)
    rows = summarize(scores)
    assert list(dict.fromkeys(row.group for row in rows)) == ["all", f"split {scores[0].split}", *(
        f"split {name}" for name in ("testA", "testB") if name != scores[0].split
    ), "small", "medium", "large"]  # fmt: skip
    for name, chosen in (
        ("split testA", [s for s in scores if s.split == "testA"]),
        ("small", [s for s in scores if s.size == "small"]),
    ):
        alone = {row.metric: (row.value, row.low, row.high, row.n) for row in summarize(chosen) if row.group == "all"}
        assert {row.metric: (row.value, row.low, row.high, row.n) for row in rows if row.group == name} == alone


def test_a_figure_counts_only_samples_that_have_it():
    scores = [Score("a", None, "small", 0.6), Score("b", None, "large", 0.2, 10, 40)]
    rows = {(row.group, row.metric): (row.value, row.n) for row in summarize(scores)}
    assert rows["all", "Acc@0.5"] == (0.5, 2)
    assert rows["all", "cIoU"] == (0.25, 1)
    assert rows["large", "mIoU"] == (0.25, 1)
    assert ("small", "cIoU") not in rows
    assert not any(metric == "pointing" for _, metric in rows)


def test_a_figure_that_no_resample_counts_has_no_interval_and_says_nothing():
    nothing, once = np.full(5, np.nan), np.array([np.nan, 0.25, np.nan, 0.75, np.nan])
    low, high = percentiles(np.stack([nothing, once], axis=1))
    assert np.isnan([low[0], high[0]]).all()
    assert (low[1], high[1]) == pytest.approx((0.2625, 0.7375))  # 2.5 and 97.5 % of the way from 0.25 to 0.75


def test_intervals_are_those_of_scipys_percentile_bootstrap():
    scores = random_scores(300)
    above, below = (np.array([getattr(one, name) for one in scores], float) for name in ("intersection", "union"))
    value, low, high = (float(end[0]) for end in bootstrap(above[None], below[None], resamples=4000))

    def ratio(i, u, axis):
        return i.sum(axis=axis) / u.sum(axis=axis)

    other = scipy_bootstrap(
        (above, below), ratio, paired=True, vectorized=True, method="percentile", n_resamples=4000, batch=500
    )
    assert value == pytest.approx(above.sum() / below.sum())
    width = high - low
    assert low == pytest.approx(other.confidence_interval.low, abs=0.06 * width)
    assert high == pytest.approx(other.confidence_interval.high, abs=0.06 * width)
    assert 0.01 < width < 0.1


def test_intervals_hold_the_truth_in_about_95_of_100_draws():
    rng = np.random.default_rng(5)
    held = 0
    for seed in range(200):
        hits = (rng.random((1, 150)) < 0.6).astype(float)
        _, low, high = bootstrap(hits, np.ones_like(hits), resamples=300, seed=seed)
        held += bool(low[0] <= 0.6 <= high[0])
    assert 180 <= held <= 199


def test_intervals_by_picture_hold_the_truth_where_samples_share_pictures():
    rng = np.random.default_rng(6)
    held = {"sample": 0, "picture": 0}
    pictures = np.repeat(np.arange(25), 8)
    for seed in range(200):
        ease = rng.beta(1.2, 0.8, 25)  # mean 0.6
        hits = (rng.random((1, 200)) < ease[pictures]).astype(float)
        for kind, of in (("sample", None), ("picture", pictures)):
            _, low, high = bootstrap(hits, np.ones_like(hits), of, resamples=300, seed=seed)
            held[kind] += bool(low[0] <= 0.6 <= high[0])
    assert held["picture"] >= 180
    assert held["sample"] < 150


def test_figures_and_differences_draw_pictures_with_all_their_samples():
    rng = np.random.default_rng(1)
    alone = [Score(str(i), None, "small", float(iou)) for i, iou in enumerate(rng.random(40))]
    together = [replace(one, picture=f"p{i // 8}") for i, one in enumerate(alone)]
    first, second = (next(row for row in summarize(scores) if row.metric == "box IoU") for scores in (alone, together))
    assert (first.value, first.n) == (second.value, second.n)
    means = np.array([one.box_iou for one in together]).reshape(5, 8).mean(1)
    drawn = means[np.random.default_rng(0).integers(5, size=(1000, 5))].mean(1)
    assert (second.low, second.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    worse = [replace(one, box_iou=one.box_iou / 2) for one in together]
    difference = next(row for row in compare(together, worse) if row.metric == "box IoU")
    assert (difference.low, difference.high) == pytest.approx(tuple(np.quantile(-drawn / 2, [0.025, 0.975])))


def test_intervals_repeat_with_the_seed_and_change_with_it():
    scores = random_scores(80)
    assert summarize(scores, seed=3) == summarize(scores, seed=3)
    assert summarize(scores, seed=3) != summarize(scores, seed=4)


def test_chunks_of_the_bootstrap_do_not_show(monkeypatch):
    above, below = np.random.default_rng(0).random((2, 3, 50))
    whole = bootstrap(above, below, resamples=100)
    monkeypatch.setattr("lab.measure.intervals.CHUNK", 50 * 7)
    assert_allclose(bootstrap(above, below, resamples=100), whole, rtol=1e-12)


def test_one_sample_has_an_interval_without_width_and_none_is_refused():
    rows = summarize([Score("a", None, "small", 0.6)])
    assert all(row.low == row.value == row.high and row.n == 1 for row in rows)
    with pytest.raises(UserError, match="no sample was scored"):
        summarize([])


# files


def test_predictions_are_read_by_cocos_own_tools(tmp_path):
    masks = {"a": MASK, "b": filled(12, 16, slice(0, 12), slice(8, 16))}
    boxes = {"a": BOX, "b": (8.0, 0.0, 16.0, 12.0)}
    annotations = [
        {
            "id": i + 1,
            "image_id": name,
            "category_id": 1,
            "iscrowd": 0,
            "area": int(masks[name].sum()),
            "segmentation": theirs(masks[name]),
        }
        | {"bbox": [boxes[name][0], boxes[name][1], boxes[name][2] - boxes[name][0], boxes[name][3] - boxes[name][1]]}
        for i, name in enumerate(masks)
    ]
    true = COCO()
    true.dataset = {
        "info": {},
        "images": [{"id": name, "height": 12, "width": 16} for name in masks],
        "categories": [{"id": 1}],
        "annotations": annotations,
    }
    true.createIndex()
    found = [Prediction("a", BOX, MASK, score=0.9), Prediction("b", boxes["b"], masks["b"])]
    (tmp_path / "predictions.coco.json").write_text(json.dumps(coco_predictions(found)))
    loaded = true.loadRes(str(tmp_path / "predictions.coco.json"))
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(true, loaded, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)


def test_predictions_for_coco_leave_out_what_has_no_area_and_name_the_image():
    found = [
        Prediction("a", (1, 2, 4, 8), score=0.5),
        Prediction("b"),
        Prediction("c", (5, 5, 5, 9)),
        Prediction("d", mask=MASK),
    ]
    rows = coco_predictions(found, {"a": 7, "d": 7})
    assert [row["id"] for row in rows] == ["a", "d"]
    assert rows[0] == {"id": "a", "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 6], "score": 0.5}
    assert rows[1]["bbox"] == [2, 3, 8, 6]
    assert_array_equal(rle.decode(json.loads(json.dumps(rows))[1]["segmentation"]), MASK)


# two runs


def _scores(ious, intersections=None):
    return [
        Score(f"s{i}", None, "small", float(iou), None if intersections is None else intersections[i], 10)
        for i, iou in enumerate(ious)
    ]


def test_the_difference_of_a_mean_is_bootstrapped_as_the_mean_of_the_differences():
    rng = np.random.default_rng(0)
    a, b = rng.random(80), rng.random(80)
    (row,) = [d for d in compare(_scores(a), _scores(b), resamples=4000) if (d.group, d.metric) == ("all", "box IoU")]
    assert (row.first, row.second) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert row.value == pytest.approx((b - a).mean())
    _, low, high = bootstrap((b - a)[None], np.ones((1, 80)), resamples=4000)
    assert (row.low, row.high) == (pytest.approx(low[0]), pytest.approx(high[0]))
    assert row.n == 80


def test_samples_are_drawn_in_pairs_so_that_a_shared_difficulty_cancels():
    hard = np.linspace(0, 0.9, 60)
    rows = {d.metric: d for d in compare(_scores(hard), _scores(hard + 0.1)) if d.group == "all"}
    assert (rows["box IoU"].low, rows["box IoU"].high) == (pytest.approx(0.1), pytest.approx(0.1))
    same = compare(_scores(hard), _scores(hard))
    assert all((d.value, d.low, d.high) == (0, 0, 0) for d in same)


def test_a_difference_of_ratios_of_sums_is_compared_too():
    first, second = _scores([0.5] * 4, [1, 2, 3, 4]), _scores([0.5] * 4, [2, 4, 6, 8])
    (row,) = [d for d in compare(first, second) if (d.group, d.metric) == ("all", "cIoU")]
    assert (row.first, row.second, row.value) == (pytest.approx(0.25), pytest.approx(0.5), pytest.approx(0.25))
    assert row.low < row.value < row.high


def test_runs_over_other_samples_are_not_compared():
    with pytest.raises(UserError, match="3 and 2 samples cannot be compared"):
        compare(_scores([0, 1, 1]), _scores([0, 1]))
    with pytest.raises(UserError, match="0 and 0"):
        compare([], [])
