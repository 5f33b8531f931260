"""Fused against PIL and SciPy, and its distance from the same recipe without fusion; colours: the next file."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from keras_moco.augment import (
    Compose,
    Fused,
    RandomBandBrightness,
    RandomBandDrop,
    RandomColorJitter,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomNoise,
    RandomResizedCrop,
    RandomRightAngle,
    RandomRotation,
    get_augmentation,
)
from tests.augment.oracles import PHOTOS, draws_for, floats, pil_view, whole

PHOTO = PHOTOS[0]
CROP_DRAWS = RandomResizedCrop.num_draws

# The resampling.


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (PHOTO[200:264, 100:148], 32),  # up to 64 pixels by matrices for the whole batch, above one by one
        (PHOTO[200:220, 100:130], 64),
        (PHOTO[100:300, 100:400], 32),
        (PHOTO[:60, :50], 96),
        pytest.param(PHOTO, 224, marks=pytest.mark.slow),
    ],
    ids=["small-shrunk", "small-enlarged", "large-shrunk", "large-enlarged", "photo-224"],
)
def test_a_crop_is_pils_crop_resize_and_mirror_within_a_level(image, size):
    view = Fused([RandomResizedCrop(size, scale=(0.08, 1.0)), RandomHorizontalFlip(rate=0.5)])
    draws = draws_for(view, 8, seed=size)
    draws[:, -1] = [0.49, 0.51] * 4
    views = view.augment_images(np.stack([image] * 8), draws)
    assert views.dtype == "uint8" and views.shape == (8, size, size, 3)
    boxes = np.stack(view.layers[0].boxes(draws[:, :CROP_DRAWS], *image.shape[:2]), axis=1)
    for ours, box, mirrored in zip(floats(views), boxes, [True, False] * 4, strict=True):
        oracle = pil_view(image, box, size, mirrored)
        np.testing.assert_allclose(ours, oracle, atol=1.01)
        assert abs(np.mean(ours - oracle)) < 0.05 + 1.6 / size  # rounding averages out, a shift does not


def test_without_a_flip_it_is_the_crop_rounded_whatever_the_type_of_the_image():
    for size in (32, 80):
        crop = RandomResizedCrop(size)
        view, draws, images = Fused([crop]), draws_for(crop, 2), PHOTOS[:, :60, :60]
        exact = crop.augment_images(images, draws)
        for dtype in ("uint8", "float32", "float64"):
            np.testing.assert_allclose(floats(view.augment_images(images.astype(dtype), draws)), exact, atol=0.502)


# The blur.


@pytest.mark.parametrize("on_host", [True, False])
def test_blur_is_scipys_gaussian_and_the_others_keep_their_values(on_host):
    sigmas = [0.1, 0.5, 1.0, 1.5, 2.0]
    view = Fused([whole(32), RandomGaussianBlur(sigma=(0.1, 2.0), rate=0.5)])
    image = PHOTO[100:132, 200:232]
    draws = np.zeros((7, view.num_draws), "float32")
    draws[:, -2] = [0.0, 0.49, 0.1, 0.2, 0.3, 0.51, 0.99]
    draws[:5, -1] = (np.array(sigmas) - 0.1) / 1.9
    draws[5:, -1] = 0.9
    begun = view.begin_batch(tf.stack([image] * 7), tf.constant(draws))
    views = view.finish(begun, tf.constant(draws), on_host=on_host).numpy()
    for ours, sigma in zip(floats(views), sigmas, strict=False):
        oracle = gaussian_filter(image.astype("float64"), (sigma, sigma, 0), mode="nearest", truncate=8)
        np.testing.assert_allclose(ours, oracle, atol=0.6)
    np.testing.assert_array_equal(views[5:], np.stack([image] * 2))


# The whole: how far from one operation after the other, on photographs.

# Mean and largest absolute difference of the 32 views below, as measured. The share that matters is clamped between two
# operations; without that the mean would be 0.3, as the next test shows. "simclr_cifar" has the layers of "moco_cifar".
MEASURED = {
    ("moco_v2", 32): (0.804, 29.9),
    ("moco_v2", 224): (0.895, 48.3),
    ("moco_v1", 32): (0.411, 13.0),
    ("moco_cifar", 32): (0.716, 26.0),
    ("simclr", 32): (1.629, 53.8),
}
recipes_and_sizes = pytest.mark.parametrize(
    ("name", "size"),
    [pytest.param(*case, marks=[] if case == ("moco_v2", 32) else pytest.mark.slow) for case in MEASURED],
)


@functools.cache
def fused_recipe(name, size):
    """One for all tests: tracing it takes longer than running it."""
    return get_augmentation(name)(size)


@pytest.mark.slow
@recipes_and_sizes
def test_on_photographs_it_is_as_far_from_the_exact_recipe_as_measured(name, size):
    exact, fused = get_augmentation(name)(size, exact=True), fused_recipe(name, size)
    draws = draws_for(fused, 32, seed=1)
    images = np.concatenate([PHOTOS] * 16)
    difference = np.abs(floats(fused.augment_images(images, draws)) - floats(exact.augment_images(images, draws)))
    mean, largest = MEASURED[name, size]
    assert difference.mean() < 1.3 * mean
    assert difference.max() < 1.3 * largest


@recipes_and_sizes
def test_where_nothing_is_clamped_it_is_the_exact_recipe_to_rounding(name, size):
    fused = fused_recipe(name, size)
    draws = draws_for(fused, 32, seed=3)
    draws[:, -1 if name.startswith("moco_v") else CROP_DRAWS] = 0.9  # nothing is mirrored twice
    images = np.round(105 + 30 * (np.concatenate([PHOTOS] * 16) / 255.0)).astype("uint8")
    crops = fused.begin_batch(tf.constant(images), tf.constant(draws))
    views = floats(fused.finish(crops, tf.constant(draws)))
    exact = Compose(get_augmentation(name)(size, exact=True).layers[1:])
    expected = floats(exact.augment_images(np.transpose(crops, [0, 3, 1, 2]), draws[:, CROP_DRAWS:]))
    assert 0 < expected.min() and expected.max() < 255
    roundings = 2 if any(isinstance(layer, RandomGaussianBlur) for layer in fused.layers) else 1
    mean_of_a_part = 0.1 if size == 224 else 0.01  # contrast takes it from each fourth row and column
    difference = np.abs(views - expected)
    assert difference.max() < 0.5 * roundings + mean_of_a_part
    assert difference.mean() < 0.35


# Which layers it takes.

MAKERS = {
    "crop": lambda: RandomResizedCrop(8),
    "flip": RandomHorizontalFlip,
    "gray": RandomGrayscale,
    "jitter": lambda: RandomColorJitter(0.4, 0.4, 0.4, 0.1),
    "blur": RandomGaussianBlur,
    "turn": RandomRightAngle,
    "rotation": RandomRotation,
    "brightness": RandomBandBrightness,
    "drop": RandomBandDrop,
    "noise": RandomNoise,
    "compose": lambda: Compose([RandomGrayscale()]),
}


def layers_of(names):
    return [MAKERS[name]() for name in names.split()]


def test_other_layers_or_another_order_are_refused():
    refused = ["", "flip", "gray crop", "crop crop", "crop flip gray flip", "crop jitter gray jitter", "crop compose"]
    refused += ["crop blur gray", "crop blur jitter", "crop blur blur", "crop noise blur", "crop noise noise"]
    # A mirror image before rotations and noise; single bands brighter before the colours, and dropped after them.
    refused += ["crop rotation flip", "crop turn flip", "crop noise flip", "crop gray rotation"]
    for names in refused + ["crop gray brightness", "crop drop jitter", "crop blur drop"]:
        layers = layers_of(names)
        received = ", ".join(type(layer).__name__ for layer in layers)
        with pytest.raises(ValueError, match=rf"RandomResizedCrop, then .*Received: {received}\. .*Compose"):
            Fused(layers)
        Compose(layers)
    for container in (Compose, Fused):
        with pytest.raises(ValueError, match="`Augmentation` .*Received: <RandomFlip"):
            container([RandomResizedCrop(8), keras.layers.RandomFlip()])
