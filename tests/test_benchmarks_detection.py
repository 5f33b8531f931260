"""The detection benchmark: its metric against hand-computed numbers and a plain formula, and its canvases."""

import inspect

import numpy as np
import pytest

from tests.load_benchmark import ROOT, load_benchmark

pytestmark = pytest.mark.slow
NOWHERE = [-1, -1, -1, -1]


@pytest.fixture(scope="module")
def detection():
    return load_benchmark("detection")


def square(x, y, side=10):
    return [x, y, x + side, y + side]


def truth(boxes, classes):
    return {"boxes": np.array(boxes, "float32"), "classes": np.array(classes, "float32")}


def found(boxes, classes, confidence):
    return {**truth(boxes, classes), "confidence": np.array(confidence, "float32")}


# Two images, three squares of class 0 to find.
SQUARES = truth([[square(0, 0), square(30, 30)], [square(10, 10), NOWHERE]], [[0, 0], [0, -1]])
TWO = [[square(0, 0), square(30, 30)]]
BY_HAND = {
    # In order of confidence: found; the same again, so wrong; found; the third never. Precision is 1 at a recall of
    # 1/3 and 2/3 at 2/3: 1/3 * 1 + 1/3 * 2/3.
    "twice and never": (
        SQUARES,
        found([[square(0, 0), square(1, 1)], [square(11, 10), NOWHERE]], [[0, 0], [0, -1]], [[0.9, 0.8], [0.7, -1]]),
        100 * 5 / 9,
    ),
    "any order": (SQUARES, found(SQUARES["boxes"][:, ::-1], [[0, 0], [-1, 0]], [[0.3, 0.9], [-1, 0.5]]), 100),
    # Squares of 10 shifted by 3 share 70 of 130, by 4 share 60 of 140.
    "more than half": (truth([[square(0, 0)]], [[0]]), found([[square(3, 0)]], [[0]], [[0.9]]), 100),
    "less than half": (truth([[square(0, 0)]], [[0]]), found([[square(4, 0)]], [[0]], [[0.9]]), 0),
    "wrong names": (truth(TWO, [[0, 1]]), found(TWO, [[1, 0]], [[0.9, 0.8]]), 0),
    "classes count alike": (truth(TWO, [[0, 4]]), found(TWO, [[0, 7]], [[0.9, 0.8]]), 50),
    "nothing": (SQUARES, found([[NOWHERE]] * 2, [[-1]] * 2, [[-1]] * 2), 0),
}


def test_average_precision_equals_the_hand_computed_one(detection):
    for case, (there, answer, expected) in BY_HAND.items():
        assert detection.average_precision(there, answer) == pytest.approx(expected), case


def test_the_boxes_enclose_the_digits(detection):
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
    # The noise is N(60, 30): 255 is 6.5 deviations away.
    assert (images[covered == 1] > 254.99).all() and (images[covered == 0] == 255).mean() < 0.01


def test_the_page_shows_the_code_that_is_measured(detection):
    page = (ROOT / "docs" / "transfer.md").read_text(encoding="utf-8")
    assert all(inspect.getsource(function) in page for function in (detection.canvases, detection.detector))
