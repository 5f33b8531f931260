"""The detection benchmark: its measure against figures by hand and a plain formula, and its canvases."""

import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("detection", ROOT / "benchmarks" / "detection.py")
detection = importlib.util.module_from_spec(spec)
spec.loader.exec_module(detection)


def square(x, y, side=10):
    return [x, y, x + side, y + side]


NOWHERE = [-1, -1, -1, -1]


def truth(boxes, classes):
    return {"boxes": np.array(boxes, "float32"), "classes": np.array(classes, "float32")}


def found(boxes, classes, confidence):
    return {**truth(boxes, classes), "confidence": np.array(confidence, "float32")}


# Two images, three squares of class 0 to find.
SQUARES = truth([[square(0, 0), square(30, 30)], [square(10, 10), NOWHERE]], [[0, 0], [0, -1]])


def test_by_hand():
    # In order of confidence: found; the same again, so wrong; found; the third never. Precision is 1 at a recall of
    # 1/3 and 2/3 at 2/3: 1/3 * 1 + 1/3 * 2/3.
    answer = found(
        [[square(0, 0), square(1, 1)], [square(11, 10), NOWHERE]], [[0, 0], [0, -1]], [[0.9, 0.8], [0.7, -1]]
    )
    assert detection.average_precision(SQUARES, answer) == pytest.approx(100 * 5 / 9)


def test_all_is_found_whatever_the_order():
    answer = found(SQUARES["boxes"][:, ::-1], SQUARES["classes"][:, ::-1], [[0.3, 0.9], [-1, 0.5]])
    assert detection.average_precision(SQUARES, answer) == 100


@pytest.mark.parametrize("shift, expected", [(3, 100), (4, 0)])
def test_half_of_the_union_must_be_covered(shift, expected):
    # Squares of 10 shifted by 3 share 70 of 130, by 4 share 60 of 140.
    answer = found([[square(shift, 0)]], [[0]], [[0.9]])
    assert detection.average_precision(truth([[square(0, 0)]], [[0]]), answer) == expected


def test_the_right_place_with_the_wrong_name_is_not_found():
    answer = found([[square(0, 0), square(30, 30)]], [[1, 0]], [[0.9, 0.8]])
    there = truth([[square(0, 0), square(30, 30)]], [[0, 1]])
    assert detection.average_precision(there, answer) == 0


def test_classes_count_alike_and_those_that_do_not_occur_not_at_all():
    there = truth([[square(0, 0), square(30, 30)]], [[0, 4]])
    answer = found([[square(0, 0), square(30, 30)]], [[0, 7]], [[0.9, 0.8]])
    assert detection.average_precision(there, answer) == 50


def test_nothing_said_is_nothing_found():
    assert detection.average_precision(SQUARES, found([[NOWHERE]] * 2, [[-1]] * 2, [[-1]] * 2)) == 0


def intersection_over_union(a, b):
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def plain_average_precision(there, answer):
    """One class: every answer in order of confidence, the precision each time recall rises."""
    order = [(-answer["confidence"][i, k], i, k) for i, k in np.ndindex(answer["confidence"].shape)]
    free = {(i, t) for i, t in np.ndindex(there["classes"].shape) if there["classes"][i, t] == 0}
    total, right, area = len(free), 0, 0.0
    for rank, (_, i, k) in enumerate(sorted(order), 1):
        overlaps = {t: intersection_over_union(answer["boxes"][i, k], there["boxes"][j, t]) for j, t in free if j == i}
        best = max(overlaps, key=overlaps.get, default=None)
        if best is not None and overlaps[best] >= 0.5:
            free.remove((i, best))
            right += 1
            area += right / rank / total
    return 100 * area


@pytest.mark.parametrize("seed", range(5))
def test_against_the_formula_on_random_boxes(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 20, (6, 3, 2))
    there = truth(np.concatenate([corners, corners + 12], -1), rng.choice([0, -1], (6, 3), p=[0.8, 0.2]))
    near = corners[:, rng.integers(0, 3, 8)] + rng.normal(0, 3, (6, 8, 2))
    answer = found(np.concatenate([near, near + 12], -1), np.zeros((6, 8)), rng.uniform(0, 1, (6, 8)))
    expected = plain_average_precision(there, answer)
    assert 5 < expected < 95
    assert detection.average_precision(there, answer) == pytest.approx(expected)


def test_the_boxes_are_where_the_pictures_are():
    white = np.full((3, 8, 8, 1), 255.0)
    images, labels = detection.canvases(white, np.array([3, 5, 7]), 20, np.random.default_rng(0))
    assert images.shape == (20, 64, 64, 1) and labels["boxes"].shape == (20, 4, 4)
    covered = np.zeros(images.shape[:3], int)
    for cover, boxes, classes in zip(covered, labels["boxes"].astype(int), labels["classes"], strict=True):
        assert set(classes) <= {3, 5, 7, -1} and classes[0] != -1
        for (left, top, right, bottom), label in zip(boxes, classes, strict=True):
            if label == -1:
                assert (left, top, right, bottom) == (-1, -1, -1, -1)
            else:
                assert 12 <= right - left == bottom - top <= 28 and min(left, top) >= 0 and max(right, bottom) <= 64
                cover[top:bottom, left:right] += 1
    assert covered.max() == 1  # none over another
    assert (images[covered == 1] == 255).all() and (images[covered == 0] == 255).mean() < 0.01


@pytest.mark.parametrize("function", [detection.canvases, detection.detector])
def test_the_page_shows_the_code_that_was_measured(function):
    assert inspect.getsource(function) in (ROOT / "docs" / "transfer.md").read_text(encoding="utf-8")
