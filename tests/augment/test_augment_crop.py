"""RandomResizedCrop against PIL, and against torchvision's sampling written in NumPy."""

import math
import re

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.datasets import load_digits

from keras_moco.augment import RandomResizedCrop
from tests.augment.oracles import PHOTOS, draws_for, pil_view

PHOTO = PHOTOS[0]
DIGIT = np.repeat((load_digits().images[0] * 15.9).astype("uint8")[..., None], 3, axis=-1)  # (8, 8, 3)


def torchvision_box(rng, height, width, scale, ratio):
    """torchvision's `RandomResizedCrop.get_params`, from its documentation."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (PHOTO[100:300, 100:400], 32),
        (PHOTO[:40, :50], 64),
        (DIGIT, 28),
        (DIGIT, 3),
        (PHOTO[:40, :40], 40),
        pytest.param(PHOTO, 224, marks=pytest.mark.slow),
    ],
    ids=["shrunk", "enlarged", "digit-28", "digit-3", "same-size", "photo-224"],
)
def test_a_crop_is_pils_crop_and_bilinear_resize(image, size):
    layer = RandomResizedCrop(size, scale=(0.08, 1.0))
    for copies in (1, 6):  # one image is resized in another way
        draws = draws_for(layer, copies, seed=size)
        crops = layer.augment_images(np.stack([image] * copies), draws).numpy()
        for crop, box in zip(crops, np.stack(layer.boxes(draws, *image.shape[:2]), axis=1), strict=True):
            oracle = pil_view(image, box, size)
            # PIL rounds to whole levels twice, after the columns and after the rows: at most 0.5 each.
            np.testing.assert_allclose(crop, oracle, atol=1.01)
            assert abs(np.mean(crop - oracle)) < 0.05 + 1.6 / size  # rounding averages out, a shift does not


@pytest.mark.parametrize(("height", "width"), [(427, 640), (8, 8), (30, 300), (300, 30)])
def test_boxes_are_distributed_as_torchvisions(height, width):
    rng = np.random.default_rng(3)
    count, scale, ratio = 4000, (0.08, 1.0), (3 / 4, 4 / 3)
    layer = RandomResizedCrop(8, scale=scale)
    boxes = np.stack(layer.boxes(rng.random((count, layer.num_draws), "float32"), height, width), axis=1)
    oracle = np.array([torchvision_box(rng, height, width, scale, ratio) for _ in range(count)], "float32")
    assert np.array_equal(boxes, np.round(boxes))
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    critical = 1.95 * math.sqrt(2 / count)  # two-sample Kolmogorov-Smirnov, one in a thousand
    oracles = [*oracle.T, oracle[:, 2] * oracle[:, 3], oracle[:, 3] / oracle[:, 2]]
    for ours, theirs in zip([*boxes.T, h * w, w / h], oracles, strict=True):
        assert ks_2samp(ours, theirs, method="asymp").statistic < critical


def test_without_a_fitting_box_the_central_one_is_taken():
    # Almost the whole area of a long image, at an aspect it cannot have: all ten tries fail.
    draws = np.full((1, RandomResizedCrop.num_draws), 0.99, "float32")
    layer = RandomResizedCrop(8, scale=(0.9, 1.0))
    boxes = {(10, 100): [0, 43, 10, 13], (100, 10): [43, 0, 13, 10], (11, 101): [0, 43, 11, 15]}
    for (height, width), box in boxes.items():
        assert [int(side[0]) for side in layer.boxes(draws, height, width)] == box


def test_the_first_fitting_try_wins():
    layer = RandomResizedCrop(8, scale=(0.0001, 1.0), ratio=(0.5, 2.0))
    draws = np.full((1, layer.num_draws), 0.5, "float32")
    draws[0, 0], draws[0, 10] = 1 - 2**-24, 1 - 2**-24  # whole area at aspect 2: does not fit a square
    draws[0, 1], draws[0, 11] = 0.25, 0.5  # a quarter of it at aspect 1: 50 x 50
    assert [int(side[0]) for side in layer.boxes(draws, 100, 100)] == [25, 25, 50, 50]


def test_largest_random_number_keeps_the_crop_inside():
    draws = np.full((1, RandomResizedCrop.num_draws), np.nextafter(np.float32(1), np.float32(0)))
    draws[:, :20] = 0.5
    for side in range(20, 1000, 61):
        top, left, h, w = (int(value[0]) for value in RandomResizedCrop(8).boxes(draws, side, side))
        assert top + h == side and left + w == side


def test_ranges_that_cannot_be_met_are_refused():
    for name, value in (
        ("size", 0),
        ("scale", (0.5, 1.5)),
        ("scale", (0, 1)),
        ("scale", (0.5, 0.4)),
        ("ratio", (2, 1)),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{name}={value}")):
            RandomResizedCrop(**{"size": 8, name: value})
