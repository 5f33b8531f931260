"""RandomResizedCrop against PIL, and against torchvision's sampling written in NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.stats import ks_2samp
from sklearn.datasets import load_digits, load_sample_image

from keras_moco.augment import RandomResizedCrop

PHOTO = load_sample_image("china.jpg")  # (427, 640, 3)
DIGIT = np.repeat((load_digits().images[0] * 15.9).astype("uint8")[..., None], 3, axis=-1)  # (8, 8, 3)


def crop_with_pil(image, top, left, height, width, size):
    box = Image.fromarray(image).crop((left, top, left + width, top + height))
    return np.asarray(box.resize((size, size), Image.Resampling.BILINEAR), "float32")


def draws_for(rng, count):
    return rng.random((count, RandomResizedCrop.num_draws), dtype="float32")


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
    [(PHOTO, 224), (PHOTO, 32), (PHOTO[:60, :50], 224), (DIGIT, 28), (DIGIT, 3), (PHOTO[:40, :40], 40)],
    ids=["photo-224", "photo-32", "enlarged", "digit-28", "digit-3", "same-size"],
)
@pytest.mark.parametrize("copies", [1, 6])
def test_a_crop_is_pils_crop_and_bilinear_resize(image, size, copies):
    layer = RandomResizedCrop(size, scale=(0.08, 1.0))
    draws = draws_for(np.random.default_rng(size), copies)
    crops = layer.augment_images(np.stack([image] * copies), draws).numpy()
    for i, box in enumerate(np.stack(layer.boxes(draws, *image.shape[:2]), axis=1).astype(int)):
        oracle = crop_with_pil(image, *box, size)
        # PIL rounds to whole levels twice, after the columns and after the rows: at most 0.5 each.
        np.testing.assert_allclose(crops[i], oracle, atol=1.01)
        assert abs(np.mean(crops[i] - oracle)) < 0.05 + 1.6 / size  # rounding averages out, a shift does not


def test_nothing_outside_the_box_leaks_in():
    layer = RandomResizedCrop(16, scale=(0.2, 0.2), ratio=(1, 1))
    draws = draws_for(np.random.default_rng(0), 2)
    images = np.full((2, 50, 50, 1), 255.0)
    for image, (top, left, h, w) in zip(images, np.stack(layer.boxes(draws, 50, 50), 1).astype(int), strict=True):
        image[top : top + h, left : left + w] = 7.0
    np.testing.assert_allclose(layer.augment_images(images, draws), 7.0, atol=1e-4)
    np.testing.assert_allclose(layer.augment_images(images[:1], draws[:1]), 7.0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(427, 640), (28, 28), (8, 8), (30, 300), (300, 30)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 1.0)])
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    rng = np.random.default_rng(3)
    count, ratio = 4000, (3 / 4, 4 / 3)
    boxes = np.stack(RandomResizedCrop(8, scale=scale).boxes(draws_for(rng, count), height, width), axis=1)
    oracle = np.array([torchvision_box(rng, height, width, scale, ratio) for _ in range(count)], "float32")
    assert np.array_equal(boxes, np.round(boxes))
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    critical = 1.95 * math.sqrt(2 / count)  # two-sample Kolmogorov-Smirnov, one in a thousand
    for ours, theirs in zip([*boxes.T, h * w, w / h], [*oracle.T, *_area_and_aspect(oracle)], strict=True):
        assert ks_2samp(ours, theirs).statistic < critical


def _area_and_aspect(boxes):
    return boxes[:, 2] * boxes[:, 3], boxes[:, 3] / boxes[:, 2]


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10)), (11, 101, (0, 43, 11, 15))],
)
def test_without_a_fitting_box_the_central_one_is_taken(height, width, box):
    # Almost the whole area of a long image, at an aspect it cannot have: all ten tries fail.
    draws = np.full((1, RandomResizedCrop.num_draws), 0.99, "float32")
    found = RandomResizedCrop(8, scale=(0.9, 1.0)).boxes(draws, height, width)
    assert tuple(int(side[0]) for side in found) == box


def test_the_first_fitting_try_wins():
    layer = RandomResizedCrop(8, scale=(0.0001, 1.0), ratio=(0.5, 2.0))
    draws = np.full((1, layer.num_draws), 0.5, "float32")
    draws[0, 0], draws[0, 10] = 1 - 2**-24, 1 - 2**-24  # whole area at aspect 2: does not fit a square
    draws[0, 1], draws[0, 11] = 0.25, 0.5  # a quarter of it at aspect 1: 50 x 50
    assert [int(side[0]) for side in layer.boxes(draws, 100, 100)] == [25, 25, 50, 50]


def test_the_largest_draw_stays_inside():
    draws = np.full((1, RandomResizedCrop.num_draws), np.nextafter(np.float32(1), np.float32(0)))
    draws[:, :20] = 0.5
    for side in range(20, 1000, 61):
        top, left, h, w = (int(value[0]) for value in RandomResizedCrop(8).boxes(draws, side, side))
        assert top + h == side and left + w == side


def test_the_image_size_may_be_unknown_in_a_graph():
    layer = RandomResizedCrop(24)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 22])])
    def crop(images, draws):
        result = layer.augment_images(images, draws)
        assert result.shape.as_list() == [None, 24, 24, 3]
        return result

    draws = draws_for(np.random.default_rng(0), 2)
    for image in (PHOTO[:100, :80], PHOTO[:50, :90]):
        images = np.stack([image, image]).astype("float32")
        np.testing.assert_allclose(crop(images, draws), layer.augment_images(images, draws), atol=1e-3)


def test_ranges_that_cannot_be_met_are_refused():
    with pytest.raises(ValueError, match=r"`size` must be a positive number of pixels. Received: size=0."):
        RandomResizedCrop(0)
    with pytest.raises(ValueError, match=r"`scale` must be a range .* Received: scale=\(0.5, 1.5\)."):
        RandomResizedCrop(8, scale=(0.5, 1.5))
    with pytest.raises(ValueError, match=r"`ratio` must be a range .* Received: ratio=\(2, 1\)."):
        RandomResizedCrop(8, ratio=(2, 1))
