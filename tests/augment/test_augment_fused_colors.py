"""The colours of Fused against NumPy and colorsys: its maps, in every order, are the operations one after the other."""

import itertools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from keras_moco.augment import Compose, Fused, RandomColorJitter, RandomGaussianBlur, RandomGrayscale, RandomResizedCrop
from tests.augment.oracles import NAMES, ORDERS, PHOTOS, floats, gray_of, hue_of, jitter_draws, operate, whole

CROP_DRAWS = RandomResizedCrop.num_draws
JITTER = slice(CROP_DRAWS, CROP_DRAWS + 6)  # its draws, where it comes right after the crop
PHOTO = PHOTOS[1, 100:228:8, 200:328:8]  # (16, 16, 3)


def low_contrast(image):
    """Values from 90 to 160, which weak jitters leave far from 0 and 255."""
    return np.round(90 + 70 * (image / 255.0)).astype("uint8")


def in_every_order(view, image, strengths, amounts, columns=JITTER):
    """24 views of one image, jittered by these amounts in each order."""
    draws = np.zeros((24, view.num_draws), "float32")
    draws[:, columns] = [jitter_draws(strengths, amounts, order) for order in range(24)]
    return floats(view.augment_images(np.stack([image] * 24), draws))


@pytest.mark.parametrize("index", range(4), ids=NAMES)
def test_one_colour_operation_alone_is_that_of_numpy_to_rounding(index):
    strengths = (0.0, 0.0, 0.0, 0.5) if index == 3 else (0.5, 0.5, 0.5, 0.0)
    amounts = [-0.5, -0.1, 0.0, 0.07, 0.4] if index == 3 else [0.5, 0.8, 1.0, 1.1, 1.5]
    view = Fused([whole(16), RandomColorJitter(*strengths)])
    draws = np.zeros((5, view.num_draws), "float32")
    for row, amount in zip(draws, amounts, strict=True):
        row[JITTER] = jitter_draws(strengths, [amount if i == index else float(i < 3) for i in range(4)])
    views = floats(view.augment_images(np.stack([PHOTO] * 5), draws))
    for ours, amount in zip(views, amounts, strict=True):
        np.testing.assert_allclose(ours, operate(NAMES[index], PHOTO.astype("float64"), amount), atol=0.51)


def test_a_large_image_takes_the_mean_of_contrast_from_some_rows_and_columns():
    strengths, image = (0.0, 0.5, 0.0, 0.0), PHOTOS[1, 100:212, 200:312]  # 112 pixels: from every second one
    view = Fused([whole(112), RandomColorJitter(*strengths)])
    draws = np.zeros((1, view.num_draws), "float32")
    draws[:, JITTER] = jitter_draws(strengths, (1, 0.5, 1, 0))
    expected = 0.5 * image + 0.5 * gray_of(image[::2, ::2]).mean()
    np.testing.assert_allclose(floats(view.augment_images(image[None], draws))[0], expected, atol=0.51)


def test_hue_is_colorsys_on_the_whole_cube():
    # 16 x 16 images of all colours with channels of 0, 17, 34, ... 255: ties, grays, and the corners.
    cube = np.array(list(itertools.product(range(0, 256, 17), repeat=3)), "uint8").reshape(16, 16, 16, 3)
    strengths = (0.0, 0.0, 0.0, 0.5)
    view = Fused([whole(16), RandomColorJitter(*strengths)])
    draws = np.zeros((16, view.num_draws), "float32")
    for shift in (-0.45, 1e-3, 1 / 3):
        draws[:, JITTER] = jitter_draws(strengths, (1, 1, 1, shift))
        expected = np.stack([hue_of(image, shift) for image in cube])
        np.testing.assert_allclose(floats(view.augment_images(cube, draws)), expected, atol=0.51)


def test_unselected_images_keep_their_values():
    view = Fused([whole(16), RandomColorJitter(0.4, 0.4, 0.4, 0.4, rate=0.8), RandomGrayscale(rate=0.2)])
    draws = np.full((4, view.num_draws), 0.9, "float32")
    draws[:, CROP_DRAWS] = [0.79, 0.81, 0.81, 0.81]
    draws[:, -1] = [0.21, 0.19, 0.21, 0.99]
    jittered, gray, *same = view.augment_images(np.stack([PHOTO] * 4), draws).numpy()
    assert np.abs(floats(jittered) - floats(PHOTO)).max() > 10 and np.ptp(jittered, axis=-1).max() > 10
    np.testing.assert_allclose(floats(gray), operate("gray", PHOTO, None), atol=0.51)
    np.testing.assert_array_equal(same, [PHOTO] * 2)


@pytest.mark.parametrize("gray", ["never", "first", "last"])
def test_all_24_orders_are_those_of_numpy_where_nothing_is_clamped(gray):
    strengths, amounts = (0.2, 0.2, 0.2, 0.1), (1.17, 0.84, 1.19, 0.08)
    layers = [whole(16), RandomColorJitter(*strengths)]
    columns = JITTER
    if gray == "first":
        layers.insert(1, RandomGrayscale(rate=0.5))
        columns = slice(CROP_DRAWS + 1, CROP_DRAWS + 7)
    elif gray == "last":
        layers.append(RandomGrayscale(rate=0.5))
    image = low_contrast(PHOTO)
    views = in_every_order(Fused(layers), image, strengths, amounts, columns)
    for ours, order in zip(views, ORDERS, strict=True):
        steps = [(NAMES[operation], amounts[operation]) for operation in order]
        steps = {"never": steps, "first": [("gray", None), *steps], "last": [*steps, ("gray", None)]}[gray]
        expected = image.astype("float64")
        for name, amount in steps:
            expected = operate(name, expected, amount)
            assert 20 < expected.min() and expected.max() < 235
        np.testing.assert_allclose(ours, expected, atol=0.52, err_msg=str(steps))


@pytest.mark.parametrize("hue", [0.0, 0.4])
def test_gray_images_get_brightness_contrast_and_blur_only(hue):
    strengths, amounts = (0.3, 0.3, 0.3, hue), (1.2, 0.75, 1.3, hue)
    image = low_contrast(PHOTO[..., :1])
    view = Fused([whole(16), RandomColorJitter(*strengths), RandomGrayscale(1.0), RandomGaussianBlur((1.5, 1.5), 1.0)])
    views = in_every_order(view, image, strengths, amounts)
    assert views.shape == (24, 16, 16, 1)
    expected = operate("contrast", operate("brightness", image.astype("float64"), 1.2), 0.75)
    expected = gaussian_filter(np.round(expected), (1.5, 1.5, 0), mode="nearest")
    np.testing.assert_allclose(views, np.stack([expected] * 24), atol=1.1)  # rounded twice


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_other_channels_keep_their_colours(channels):
    strengths, amounts = (0.3, 0.3, 0.3, 0.4), (1.2, 0.75, 1.3, 0.4)
    view = Fused([whole(16), RandomColorJitter(*strengths), RandomGrayscale(1.0)])
    image = low_contrast(PHOTO[..., np.arange(channels) % 3])
    brighter = image * 1.2
    expected = np.stack([brighter.mean() + 0.75 * (brighter - brighter.mean())] * 24)
    np.testing.assert_allclose(in_every_order(view, image, strengths, amounts), expected, atol=0.51)
    np.testing.assert_allclose(in_every_order(Compose(view.layers), image, strengths, amounts), expected, atol=0.01)
