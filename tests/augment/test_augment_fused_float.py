"""Fused on float32 images, of more than 8 bits: without rounding, against NumPy and against the exact recipes."""

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.augment import (
    Compose,
    Fused,
    RandomBandBrightness,
    RandomBandDrop,
    RandomColorJitter,
    RandomGaussianBlur,
    RandomResizedCrop,
    get_augmentation,
    two_views,
)
from keras_moco.data.decode import Pixels
from tests.augment.oracles import PHOTOS, draws_for, jitter_draws, whole

CROP_DRAWS = RandomResizedCrop.num_draws
# 64 x 64 pixels of as many levels as an image of 12 bits has, as a decoder delivers them: from 0 to 255 with fractions.
RAMP = (np.arange(4096, dtype="float32") * (255 / 4095)).reshape(1, 64, 64, 1)
RECIPES = ("moco_v1", "moco_v2", "moco_cifar", "moco_medical", "moco_multispectral", "simclr")


def low_contrast(channels):
    """Two images, `(2, 60, 64, C)`, with fractions, and far from 0 and 255, so that nothing is clamped."""
    photos = PHOTOS[:, 150:210, 200:264].astype("float32")
    images = 105.3 + 30 * (photos / 255.0) + np.random.default_rng(0).normal(0, 0.3, photos.shape)
    return images.astype("float32")[..., np.arange(channels) % 3]


@pytest.mark.parametrize("on_host", [True, False])
def test_a_ramp_of_4096_levels_keeps_them_through_jitter_and_is_numpys(on_host):
    strengths, amounts = (0.4, 0.4, 0.0, 0.0), (0.9, 0.8, 1.0, 0.0)
    view = Fused([whole(64), RandomColorJitter(*strengths)])
    draws = np.zeros((1, view.num_draws), "float32")
    draws[:, CROP_DRAWS:] = jitter_draws(strengths, amounts)
    begun = view.begin_batch(tf.constant(RAMP), tf.constant(draws))
    views = view.finish(begun, tf.constant(draws), on_host=on_host).numpy()
    assert begun.dtype == views.dtype == "float32"
    darker = RAMP.astype("float64") * 0.9
    np.testing.assert_allclose(views, darker.mean() + 0.8 * (darker - darker.mean()), atol=1e-3)
    assert len(np.unique(views)) > 4000
    levels = view.augment_images(RAMP.astype("uint8"), draws)
    assert levels.dtype == "uint8" and len(np.unique(levels)) <= 256


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("channels", [1, 3, *(pytest.param(more, marks=pytest.mark.slow) for more in (2, 4, 13))])
def test_a_recipe_is_the_exact_one_to_float_rounding_where_nothing_is_clamped(name, channels):
    fused, exact = get_augmentation(name)(32), get_augmentation(name)(32, exact=True)
    images, draws = low_contrast(channels).repeat(8, axis=0), draws_for(fused, 16, seed=channels)
    views, expected = fused.augment_images(images, draws), exact.augment_images(images, draws).numpy()
    assert views.dtype == "float32" and views.shape == (16, 32, 32, channels)
    assert 10 < expected[expected > 0].min() and expected.max() < 250  # 0 are dropped bands
    # The blur of Fused is cut off at four standard deviations: less than 1e-4 of the weight of 30 levels.
    np.testing.assert_allclose(views, expected, atol=0.02)


@pytest.mark.parametrize("name", ["moco_medical", "moco_multispectral"])
def test_views_of_uint8_are_those_of_float_rounded_once_per_pass(name):
    fused, images = get_augmentation(name)(32), np.round(low_contrast(3)).repeat(8, axis=0)
    draws = draws_for(fused, 16, seed=4)
    levels, views = fused.augment_images(images.astype("uint8"), draws), fused.augment_images(images, draws)
    assert levels.dtype == "uint8" and views.dtype == "float32"
    difference = np.abs(levels.numpy().astype("float32") - views)
    assert difference.max() < 5 * 0.5 * 1.6  # crop, rotation, levels, blur and noise; the contrast stretches by 1.4
    assert difference.mean() < 0.6


def test_large_images_begin_one_by_one_as_they_do_in_a_batch():
    view = Fused(
        [RandomResizedCrop(80), RandomBandBrightness(bands=13), RandomBandDrop(bands=13), RandomGaussianBlur()]
    )
    images = np.concatenate([low_contrast(13), low_contrast(13)], axis=1)  # beyond 64 pixels
    draws = draws_for(view, 4).reshape(2, 2, -1)
    begun = []
    for image, draw in zip(images, draws, strict=True):
        decoder = Pixels(tf.constant(image))
        begun.append(view.begin(view.select(decoder, tf.constant(draw)), tf.constant(draw)))
    assert begun[0][0].dtype == "float32"
    for number, name in enumerate(("query", "key")):
        views = view.finish(tf.stack([pair[number] for pair in begun]), tf.constant(draws[:, number]))
        np.testing.assert_allclose(views, two_views(view, images, draws)[name], atol=1e-3)


@pytest.mark.parametrize("make", [Compose, Fused])
def test_a_dark_image_of_a_source_is_not_taken_for_a_scaled_one(make):
    view = make([RandomResizedCrop(8)])
    draws = tf.constant(draws_for(view, 1))
    dark = tf.fill((12, 12, 1), 0.25)  # below a 255th of the range of 16 bits
    [begun] = view.begin(view.select(Pixels(dark), draws), draws)
    np.testing.assert_allclose(view.finish(begun[None], draws), tf.fill((1, 8, 8, 1), 0.25), atol=1e-5)
    np.testing.assert_allclose(
        view.finish(view.begin_batch(dark[None], draws), draws), tf.fill((1, 8, 8, 1), 0.25), atol=1e-5
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_operations_of_colours_do_nothing_to_other_images_and_are_named(channels):
    names = {name: get_augmentation(name)(32).without_effect(channels) for name in RECIPES}
    colours = () if channels == 3 else ("saturation", "hue", "grayscale")
    assert names["moco_v2"] == names["simclr"] == names["moco_cifar"] == colours
    assert set(names["moco_v1"]) == set(colours)
    assert names["moco_medical"] == ()
    assert names["moco_multispectral"] == (("band dropping",) if channels == 1 else ())
