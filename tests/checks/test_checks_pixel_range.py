"""Scaled images are refused with the same message everywhere; dark ones are not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.augment import RandomHorizontalFlip, central_view, moco_cifar, two_views
from keras_moco.checks.graph import plain_failures
from keras_moco.checks.pixel_range import RULE, WAY_OUT, check_pixels
from keras_moco.data import array_source
from keras_moco.evaluation import extract_features
from tests.augment.oracles import PHOTOS
from tests.small_training import make_model

IMAGES = PHOTOS[:, :96, :128].astype("float32")
# What Keras's own code makes of images.
SCALED = {
    "0..1": lambda: keras.layers.Rescaling(1 / 255)(IMAGES),
    "0..1, of half precision": lambda: tf.image.convert_image_dtype(PHOTOS, tf.float16),
    "-1..1": lambda: keras.applications.imagenet_utils.preprocess_input(IMAGES.copy(), mode="tf"),
    "of unit deviation": lambda: keras.applications.imagenet_utils.preprocess_input(IMAGES.copy(), mode="torch"),
    "without their mean": lambda: keras.applications.imagenet_utils.preprocess_input(IMAGES.copy(), mode="caffe"),
    "16 bits": lambda: PHOTOS.astype("uint16") * 257,
}
NIGHT = np.random.default_rng(0).integers(0, 2, (2, 64, 48, 3))
PIXELS = {
    "whole": lambda: PHOTOS,
    "in double precision": lambda: IMAGES.astype("float64"),
    "resized": lambda: keras.ops.image.resize(IMAGES, (50, 70), antialias=True),
    "resized by cubic splines": lambda: tf.image.resize(IMAGES, (150, 170), "bicubic"),
    "with noise": lambda: IMAGES + np.random.default_rng(0).normal(0, 12, IMAGES.shape),
    "at night": lambda: NIGHT.astype("float32"),
    "at night, some of it": lambda: np.concatenate([IMAGES * (0.5 / 255), IMAGES]),
    "black": lambda: np.zeros((2, 8, 8, 1)),
    "none": lambda: np.zeros((0, 8, 8, 3), "float32"),
    "with a lamp in rows that a graph does not look at first": lambda: np.where(
        np.arange(64)[:, None, None] == 5, 2.0, NIGHT / 2
    ),
    "not a number": lambda: np.full((1, 8, 8, 3), np.nan),
}
WAYS = {"at once": check_pixels, "in a graph": tf.function(check_pixels)}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("scaled", SCALED.values(), ids=SCALED)
def test_scaled_images_are_refused(scaled, way):
    images = tf.convert_to_tensor(scaled())
    with pytest.raises(ValueError) as error, plain_failures():
        way(images)
    first, _, low, _, high, *_ = str(error.value).removeprefix(f"{RULE} Received: ").split(" ")
    assert first == "values" and str(error.value).endswith(WAY_OUT)
    expected = [float(tf.reduce_min(images)), float(tf.reduce_max(images))]
    np.testing.assert_allclose([float(low), float(high.rstrip("."))], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("pixels", PIXELS.values(), ids=PIXELS)
def test_pixels_pass_unchanged_however_dark(pixels, way):
    images = pixels()
    np.testing.assert_array_equal(way(tf.convert_to_tensor(images)), images)


VIEW = moco_cifar(16)
TAKERS = {
    "two_views": lambda images: two_views(VIEW, images),
    "augment_images": lambda images: VIEW.augment_images(images, np.zeros((len(images), VIEW.num_draws))),
    "a layer": RandomHorizontalFlip(),
    "central_view": lambda images: central_view(images, 8),
    "array_source": array_source,
    "extract_features": lambda images: extract_features(lambda batch: batch[:, 0, 0], [{"image": images}]),
    "extract_features of tf.data": lambda images: extract_features(
        lambda batch: batch[:, 0, 0], tf.data.Dataset.from_tensors((images,))
    ),
    "two_views in tf.data": lambda images: next(
        iter(tf.data.Dataset.from_tensors(images).map(lambda batch: two_views(VIEW, batch)))
    ),
}


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
def test_everything_that_takes_images_refuses_scaled_ones(taker):
    taker(IMAGES)
    with pytest.raises(ValueError) as error, plain_failures():
        taker(IMAGES / 255)
    [said] = str(error.value).splitlines()
    assert said.startswith(RULE) and said.endswith(WAY_OUT)


@pytest.mark.slow
def test_training_on_views_of_scaled_images_is_refused():
    model = make_model()
    size = model.encoder.image_shape[0]
    images = np.resize(IMAGES / 255, (16, 24, 24, model.encoder.image_shape[-1]))
    batches = tf.data.Dataset.from_tensor_slices(images).batch(8, drop_remainder=True)
    view = moco_cifar(size)
    with pytest.raises(ValueError, match=r"\A`images` must have values in 0\.\.255, .*\Z"):
        model.fit(batches.map(lambda batch: two_views(view, batch)), verbose=0, shuffle=False)
    assert model.steps_done == 0
