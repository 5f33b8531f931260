"""Colour jitter and grayscale against the standard library's HSV, PIL and NumPy."""

import colorsys
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_image

from keras_moco.augment import RandomColorJitter, RandomGrayscale
from keras_moco.augment.color_jitter import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation

PHOTO = load_sample_image("flower.jpg")[100:200, 200:320]  # (100, 120, 3)
GRAY = PHOTO @ np.array([0.299, 0.587, 0.114])
ORDERS = list(itertools.permutations(range(4)))
NAMES = ("brightness", "contrast", "saturation", "hue")


def one(function, amount, image=PHOTO):
    return function(image[None].astype("float32"), np.array([amount], "float32")).numpy()[0]


def hue_oracle(image, shift):
    """One pixel at a time, with the standard library."""
    result = np.empty(image.shape)
    for index in np.ndindex(*image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(image[index] / 255.0))
        result[index] = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
    return result * 255.0


def numpy_operation(name, image, amount):
    if name == "hue":
        return hue_oracle(image, amount)
    gray = image @ np.array([0.299, 0.587, 0.114])
    other = {"brightness": 0.0, "contrast": gray.mean(), "saturation": gray[..., None]}[name]
    return np.clip(other + (image - other) * amount, 0.0, 255.0)


@pytest.mark.parametrize("factor", [0.6, 0.85, 1.0, 1.4])
@pytest.mark.parametrize(
    ("function", "enhance", "tolerance"),
    [
        (adjust_brightness, ImageEnhance.Brightness, 1.01),
        (adjust_contrast, ImageEnhance.Contrast, 1.3),  # PIL rounds the mean as well
        (adjust_saturation, ImageEnhance.Color, 1.3),  # and the gray
    ],
)
def test_brightness_contrast_and_saturation_are_pils_to_rounding(function, enhance, tolerance, factor):
    oracle = np.asarray(enhance(Image.fromarray(PHOTO)).enhance(factor), "float32")
    np.testing.assert_allclose(one(function, factor), oracle, atol=tolerance)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.07, 0.4])
def test_hue_turns_in_hsv(shift):
    corners = np.array(list(itertools.product([0, 128, 255], repeat=3)), "uint8")[None]
    for image in (PHOTO[::5, ::5], corners):
        np.testing.assert_allclose(one(adjust_hue, shift, image), hue_oracle(image, shift), atol=0.01)


def test_a_third_of_a_turn_takes_red_to_green():
    np.testing.assert_allclose(one(adjust_hue, 1 / 3, np.array([[[200, 50, 50]]])), [[[50, 200, 50]]], atol=1e-3)


def test_factor_one_and_no_shift_change_nothing():
    functions = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for function, amount in zip(functions, [1, 1, 1, 0], strict=True):
        np.testing.assert_allclose(one(function, amount), PHOTO, atol=1e-3)


def test_values_are_clamped_to_0_to_255():
    bright = one(adjust_brightness, 1.4)
    assert bright.max() == 255.0 and (PHOTO * 1.4).max() > 255.0
    dark_and_bright = np.array([[[0, 0, 0], [255, 255, 255]]])
    np.testing.assert_allclose(one(adjust_contrast, 1.4, dark_and_bright), dark_and_bright)


@pytest.mark.parametrize("order", [0, 1, 8, 17, 23])
def test_an_image_gets_the_four_operations_in_its_own_order(order):
    layer = RandomColorJitter(0.4, 0.4, 0.4, 0.1)
    uniforms = np.array([0.9, 0.2, 0.95, 0.8], "float32")
    draws = np.array([[0.0, (order + 0.5) / 24, *uniforms]], "float32")
    low, high = np.array([0.6, 0.6, 0.6, -0.1]), np.array([1.4, 1.4, 1.4, 0.1])
    amounts = low + (high - low) * uniforms
    image = PHOTO[::4, ::4]
    expected = image.astype("float64")
    for operation in ORDERS[order]:
        expected = numpy_operation(NAMES[operation], expected, amounts[operation])
    np.testing.assert_allclose(layer.augment_images(image[None], draws)[0], expected, atol=0.05)


def test_the_order_matters_and_all_24_are_equally_likely():
    layer = RandomColorJitter(0.4, 0.4, 0.4, 0.1)
    draws = np.full((24, 6), 0.9, "float32")
    draws[:, 1] = (np.arange(24) + 0.5) / 24
    results = layer.augment_images(np.stack([PHOTO[::4, ::4]] * 24), draws).numpy()
    distinct = {np.round(result, 1).tobytes() for result in results}
    assert len(distinct) == 24


@pytest.mark.parametrize("index", range(4))
def test_factors_are_uniform_between_one_minus_and_one_plus_the_strength(index):
    strengths = [0.0] * 4
    strengths[index] = 0.3
    layer = RandomColorJitter(*strengths)
    draws = np.full((3, 6), 0.5, "float32")
    draws[:, 2 + index] = [0.0, 0.25, 1.0]
    centre = 0.0 if index == 3 else 1.0
    results = layer.augment_images(np.stack([PHOTO[::9, ::9]] * 3), draws)
    for result, amount in zip(results, [centre - 0.3, centre - 0.15, centre + 0.3], strict=True):
        expected = numpy_operation(NAMES[index], PHOTO[::9, ::9].astype("float64"), amount)
        np.testing.assert_allclose(result, expected, atol=0.05)


def test_a_strength_above_one_does_not_turn_factors_negative():
    draws = np.zeros((1, 6), "float32")
    result = RandomColorJitter(1.5, 0, 0, 0).augment_images(PHOTO[None], draws)
    np.testing.assert_array_equal(result, np.zeros((1, *PHOTO.shape)))


def test_images_that_did_not_draw_the_jitter_keep_their_values():
    draws = np.full((4, 6), 0.9, "float32")
    draws[:, 0] = [0.79, 0.81, 0.99, 0.0]
    images = np.stack([PHOTO] * 4)
    results = RandomColorJitter(0.4, 0.4, 0.4, 0.1, rate=0.8).augment_images(images, draws).numpy()
    np.testing.assert_array_equal(results[1:3], images[1:3])
    assert np.abs(results[0] - images[0]).max() > 10 and np.abs(results[3] - images[3]).max() > 10


def test_one_channel_gets_brightness_and_contrast_only():
    draws = np.full((1, 6), 0.9, "float32")
    image = GRAY[None, ..., None]
    both = RandomColorJitter(0.4, 0.4, 0.4, 0.4).augment_images(image, draws)
    without_color = RandomColorJitter(0.4, 0.4, 0.0, 0.0).augment_images(image, draws)
    np.testing.assert_array_equal(both, without_color)
    assert np.abs(both - image).max() > 10
    only_color = RandomColorJitter(0.0, 0.0, 0.4, 0.4).augment_images(image, draws)
    np.testing.assert_array_equal(only_color, image.astype("float32"))
    np.testing.assert_array_equal(RandomGrayscale(1.0).augment_images(image, [[0.0]]), image.astype("float32"))


def test_grayscale_is_pils_to_rounding_in_three_channels():
    result = RandomGrayscale(1.0).augment_images(PHOTO[None], [[0.0]]).numpy()[0]
    np.testing.assert_allclose(result, np.repeat(GRAY[..., None], 3, axis=-1), rtol=1e-5)
    oracle = np.asarray(Image.fromarray(PHOTO).convert("L"), "float32")
    np.testing.assert_allclose(result[..., 0], oracle, atol=0.51)


def test_strengths_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"`contrast` must be a strength of at least 0. Received: contrast=-1."):
        RandomColorJitter(0.4, -1, 0.4, 0.1)
    with pytest.raises(ValueError, match=r"`hue` must be .* up to 0.5. Received: hue=0.6. Use 0 to leave it out."):
        RandomColorJitter(0.4, 0.4, 0.4, 0.6)
    with pytest.raises(ValueError, match=r"`rate` must be the probability, .* Received: rate=1.5."):
        RandomColorJitter(0.4, 0.4, 0.4, 0.1, rate=1.5)
