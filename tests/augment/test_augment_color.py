"""Colour jitter and grayscale against the standard library's HSV, PIL and NumPy."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from keras_moco.augment import RandomColorJitter, RandomGrayscale
from keras_moco.augment.color_jitter import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from tests.augment.oracles import NAMES, ORDERS, PHOTOS, gray_of, hue_of, jitter_draws, operate

PHOTO = PHOTOS[1, 100:200, 200:320]  # (100, 120, 3)
SMALL = PHOTO[::4, ::4]


def one(function, amount, image=PHOTO):
    return function(image[None].astype("float32"), np.array([amount], "float32")).numpy()[0]


@pytest.mark.parametrize(
    ("function", "enhance", "tolerance"),
    [
        (adjust_brightness, ImageEnhance.Brightness, 1.01),
        (adjust_contrast, ImageEnhance.Contrast, 1.3),  # PIL rounds the mean as well
        (adjust_saturation, ImageEnhance.Color, 1.3),  # and the gray
    ],
)
def test_brightness_contrast_and_saturation_are_pils_to_rounding(function, enhance, tolerance):
    for factor in (0.6, 1.0, 1.4):
        oracle = np.asarray(enhance(Image.fromarray(PHOTO)).enhance(factor), "float32")
        np.testing.assert_allclose(one(function, factor), oracle, atol=tolerance, err_msg=str(factor))


def test_hue_is_shifted_in_hsv():
    corners = np.array(list(itertools.product([0, 128, 255], repeat=3)), "uint8")[None]
    for image in (PHOTO[::10, ::10], corners):
        for shift in (-0.5, -0.1, 0.0, 0.07, 0.4):
            np.testing.assert_allclose(one(adjust_hue, shift, image), hue_of(image, shift), atol=0.01)


def test_each_image_gets_the_four_operations_in_its_own_order():
    strengths, amounts = (0.4, 0.3, 0.5, 0.1), (1.32, 0.82, 1.45, 0.06)
    draws = np.stack([jitter_draws(strengths, amounts, order) for order in range(24)])
    results = RandomColorJitter(*strengths).augment_images(np.stack([SMALL] * 24), draws).numpy()
    for result, order in zip(results, ORDERS, strict=True):
        expected = SMALL.astype("float64")
        for operation in order:
            expected = operate(NAMES[operation], expected, amounts[operation])
        np.testing.assert_allclose(result, expected, atol=0.05, err_msg=str(order))
    assert len({result.round(1).tobytes() for result in results}) == 24


def test_a_strength_above_one_does_not_make_factors_negative():
    draws = np.zeros((2, 6), "float32")
    draws[1, 2] = 0.4
    black, same = RandomColorJitter(1.5, 0, 0, 0).augment_images(np.stack([SMALL] * 2), draws).numpy()  # from 0 to 2.5
    np.testing.assert_array_equal(black, np.zeros_like(SMALL))
    np.testing.assert_allclose(same, SMALL, atol=1e-3)


def test_one_channel_gets_brightness_and_contrast_only():
    draws = np.full((1, 6), 0.9, "float32")
    image = gray_of(SMALL)[None, ..., None].astype("float32")
    both = RandomColorJitter(0.4, 0.4, 0.4, 0.4).augment_images(image, draws)
    without_color = RandomColorJitter(0.4, 0.4, 0.0, 0.0).augment_images(image, draws)
    np.testing.assert_allclose(both, without_color, atol=1e-3)
    assert np.abs(both - image).max() > 10
    only_color = RandomColorJitter(0.0, 0.0, 0.4, 0.4).augment_images(image, draws)
    np.testing.assert_array_equal(only_color, image)
    np.testing.assert_array_equal(RandomGrayscale(1.0).augment_images(image, [[0.0]]), image)


def test_grayscale_is_pils_to_rounding_in_three_channels():
    result = RandomGrayscale(1.0).augment_images(PHOTO[None], [[0.0]]).numpy()[0]
    np.testing.assert_allclose(result, np.repeat(gray_of(PHOTO)[..., None], 3, axis=-1), rtol=1e-5)
    oracle = np.asarray(Image.fromarray(PHOTO).convert("L"), "float32")
    np.testing.assert_allclose(result[..., 0], oracle, atol=0.51)


def test_strengths_out_of_range_are_refused():
    sound = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    for name, value in (("brightness", -1), ("contrast", -0.1), ("saturation", -1), ("hue", 0.6), ("rate", 1.5)):
        with pytest.raises(ValueError, match=f"`{name}` .*{name}={value}"):
            RandomColorJitter(**{**sound, name: value})
