"""What is drawn has the distribution it claims: thousands of draws of a fixed seed, against SciPy's distributions."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import chisquare, kstest, loguniform, spearmanr, uniform

from keras_moco.augment import (
    Augmentation,
    Fused,
    RandomColorJitter,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    moco_v2,
    two_views,
)

COUNT = 4000
BIG = 4000  # pixels; on an image of that side, whole pixels are as good as real numbers
NAMES = ("brightness", "contrast", "saturation", "hue")


def drawn_by(layer, count=COUNT):
    """The layer's own draws."""
    return layer.get_random_transformation_batch(count)


def assert_uniform(sample, low, high):
    assert low <= np.min(sample) and np.max(sample) <= high
    assert kstest(sample, uniform(low, high - low).cdf).pvalue > 1e-3


def assert_happens(happened, rate):
    """As often as by tossing a coin of that rate, to four standard deviations."""
    happened = np.asarray(happened)
    assert abs(happened.mean() - rate) < 4 * math.sqrt(rate * (1 - rate) / happened.size)


def assert_independent(one, other):
    assert abs(spearmanr(one, other).statistic) < 4 / math.sqrt(len(one))


# The draws.


def test_a_layers_own_draws_are_uniform_and_its_columns_independent():
    draws = drawn_by(moco_v2(8, seed=1)).numpy()
    assert draws.min() >= 0 and draws.max() < 1
    for column in draws.T:
        assert kstest(column, uniform.cdf).pvalue > 1e-4  # of 32, one below 1e-3 is no surprise
    correlation = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    assert np.abs(correlation).max() < 4.5 / math.sqrt(COUNT)  # the largest of 496


# The crop.


def boxes_of(scale, ratio, seed=2):
    layer = RandomResizedCrop(8, scale=scale, ratio=ratio, seed=seed)
    return np.stack(layer.boxes(drawn_by(layer), BIG, BIG)).astype("float64")


def test_the_area_of_a_crop_is_uniform_in_its_scale():
    _, _, height, width = boxes_of(scale=(0.1, 0.5), ratio=(1, 1))
    assert np.array_equal(height, width)
    assert_uniform(height * width / BIG**2, 0.0999, 0.5001)
    # The test would notice another distribution, for example of sides instead of areas.
    sides = height / BIG
    assert kstest(sides, uniform(0.1**0.5, 0.5**0.5 - 0.1**0.5).cdf).pvalue < 1e-6


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.5, 2.0), (0.5, 1.0)])
def test_the_aspect_of_a_crop_is_log_uniform_in_its_ratio_whatever_the_area(ratio):
    _, _, height, width = boxes_of(scale=(0.1, 0.45), ratio=ratio)  # every box fits
    low, high = ratio
    assert kstest(width / height, loguniform(low * 0.999, high * 1.001).cdf).pvalue > 1e-3
    assert_uniform(height * width / BIG**2, 0.0995, 0.4505)
    assert_independent(width / height, height * width)


def test_the_corner_of_a_crop_is_uniform_among_those_that_fit():
    top, left, height, width = boxes_of(scale=(0.1, 0.45), ratio=(3 / 4, 4 / 3))
    vertical, horizontal = (top + 0.5) / (BIG - height + 1), (left + 0.5) / (BIG - width + 1)
    assert_uniform(vertical, 0, 1)
    assert_uniform(horizontal, 0, 1)
    assert_independent(vertical, horizontal)
    assert_independent(vertical, height)
    assert_independent(horizontal, width)


def test_each_corner_of_a_small_image_is_equally_likely():
    layer = RandomResizedCrop(8, scale=(0.5, 0.5), ratio=(1, 1), seed=3)  # 5 x 5 out of 7 x 7: nine corners
    top, left, height, width = (side.numpy().astype(int) for side in layer.boxes(drawn_by(layer), 7, 7))
    assert set(height) == set(width) == {5}
    assert chisquare(np.bincount(3 * top + left, minlength=9)).pvalue > 1e-3


def test_fused_cuts_by_the_same_boxes_and_mirrors_at_its_rate():
    view = Fused([RandomResizedCrop(8), RandomGrayscale(), RandomHorizontalFlip(rate=0.3)], seed=4)
    draws = drawn_by(view)
    boxes, mirrored = view.boxes(draws, 300, 400)
    expected = RandomResizedCrop(8).boxes(draws[:, : RandomResizedCrop.num_draws], 300, 400)
    np.testing.assert_array_equal(boxes, np.stack(expected, axis=1))
    assert_happens(mirrored, 0.3)
    assert_independent(mirrored, boxes[:, 1])


# The colours.


def amounts_of(layer):
    return [part.numpy() for part in layer.amounts(drawn_by(layer))]


@pytest.mark.parametrize("strengths", [(0.4, 0.4, 0.4, 0.1), (0.8, 0.2, 0.6, 0.5)])
def test_factors_are_uniform_around_one_and_turns_around_zero(strengths):
    _, _, amounts = amounts_of(RandomColorJitter(*strengths, rate=0.8, seed=5))
    for strength, amount in zip(strengths[:3], amounts.T, strict=False):
        assert_uniform(amount, 1 - strength - 1e-6, 1 + strength + 1e-6)
    assert_uniform(amounts[:, 3], -strengths[3] - 1e-6, strengths[3] + 1e-6)
    for one, other in itertools.combinations(amounts.T, 2):
        assert_independent(one, other)


def test_a_strength_above_one_is_uniform_from_zero():
    _, _, amounts = amounts_of(RandomColorJitter(1.5, 0, 0, 0, seed=6))
    assert_uniform(amounts[:, 0], 0, 2.5 + 1e-6)


def test_the_24_orders_are_equally_likely_whatever_else_is_drawn():
    selected, order, amounts = amounts_of(RandomColorJitter(0.4, 0.4, 0.4, 0.1, rate=0.8, seed=7))
    permutations = list(itertools.permutations(range(4)))
    numbers = np.array([permutations.index(tuple(row)) for row in order.tolist()])
    assert chisquare(np.bincount(numbers, minlength=24)).pvalue > 1e-3
    for place in range(4):
        assert chisquare(np.bincount(order[:, place], minlength=4)).pvalue > 1e-3
    assert_happens(selected, 0.8)
    assert_independent(numbers, selected)
    assert_independent(numbers, amounts[:, 0])


def test_the_steps_of_fused_are_these_amounts_in_this_order():
    layer = RandomColorJitter(0.4, 0.3, 0.2, 0.1, rate=0.8, seed=8)
    draws = drawn_by(layer, 200)
    selected, order, amounts = (part.numpy() for part in layer.amounts(draws))
    for place, step in enumerate(layer.color_steps(draws)):
        own, gray, flat, turns, is_hue = (np.asarray(field) for field in step)
        for i in range(200):
            amount, name = amounts[i, order[i, place]], NAMES[order[i, place]]
            expected = {
                "brightness": (amount, 0, 0, 0),
                "contrast": (amount, 0, 1 - amount, 0),
                "saturation": (amount, 1 - amount, 0, 0),
                "hue": (1, 0, 0, amount),
            }[name if selected[i] else "hue"]
            np.testing.assert_allclose((own[i], gray[i], flat[i]), expected[:3], atol=1e-6)
            assert turns[i] == (expected[3] if selected[i] else 0)
            assert is_hue[i] == (selected[i] and name == "hue")


# The blur.


@pytest.mark.parametrize("way", ["float32", "planes"])
def test_sigma_is_uniform_in_its_range(way):
    low, high = 0.5, 2.0
    layer = RandomGaussianBlur(sigma=(low, high), rate=1.0, seed=9)
    draws = drawn_by(layer)
    if way == "float32":
        impulse = np.zeros((COUNT, 1, 17, 1), "float32")
        impulse[:, :, 8] = 1.0
        response = layer.augment_images(impulse, draws).numpy()[:, 0, :, 0]
        sigma = np.sqrt(-0.5 / np.log(response[:, 9] / response[:, 8]))  # a neighbour weighs exp(-1 / 2 sigma^2)
    else:
        impulse = np.zeros((COUNT, 1, 1, 33), "uint8")
        impulse[..., 16] = 255
        response = layer.blur_planes(tf.constant(impulse), draws).numpy()[:, 0, 0].astype("float64")
        # From whole levels only the centre's weight is good enough, 1 / sum of exp(-k^2 / 2 sigma^2).
        sigmas = np.linspace(0.45, 2.1, 2000)
        centres = 1 / np.exp(-0.5 * (np.arange(-16, 17) / sigmas[:, None]) ** 2).sum(axis=1)
        sigma = np.interp(-response[:, 16] / 255.0, -centres, sigmas)
        np.testing.assert_allclose(sigma, low + (high - low) * draws[:, 1].numpy(), atol=0.022)  # half a level
        # Whole levels come in steps; a spread of one level makes them continuous again.
        spread = np.random.default_rng(0).uniform(-0.5, 0.5, COUNT)
        sigma = np.clip(np.interp(-(response[:, 16] + spread) / 255.0, -centres, sigmas), low, high)
    assert_uniform(sigma, low - 1e-4, high + 1e-4)


def test_narrow_sigmas_are_uniform_too():
    layer = RandomGaussianBlur(sigma=(0.1, 2.0), rate=1.0, seed=10)
    impulse = np.zeros((COUNT, 1, 5, 1), "float32")
    impulse[:, :, 2] = 1.0
    response = layer.augment_images(impulse, drawn_by(layer)).numpy()[:, 0, :, 0].astype("float64")
    assert_uniform(np.sqrt(-0.5 / np.log(response[:, 3] / response[:, 2])), 0.0999, 2.0001)


# What happens only sometimes.


def test_fused_jitters_grays_and_blurs_at_their_rates_independently():
    layers = [
        RandomResizedCrop(8, scale=(1, 1), ratio=(1, 1)),
        RandomColorJitter(0.9, 0, 0, 0, rate=0.8),
        RandomGrayscale(rate=0.2),
        RandomGaussianBlur(sigma=(2.0, 2.0), rate=0.5),
    ]
    image = np.full((8, 8, 3), [93, 61, 56], "uint8")  # as light in gray as in colour: 70 on average
    image[:, 4:] += 40
    views = Fused(layers, seed=11)(np.stack([image] * COUNT)).numpy().astype("float32")
    red, green, edge = views[:, 0, 0, 0], views[:, 0, 0, 1], views[:, 0, 3, 1]
    grayed, blurred = red == green, edge > green
    light = views.mean(axis=(1, 2, 3)) / np.mean(image)
    jittered = np.abs(light - 1) > 0.01  # so near to 1 is one jittered view in ninety
    assert_happens(grayed, 0.2)
    assert_happens(blurred, 0.5)
    assert_happens(jittered, 0.8 * (1 - 0.01 / 0.9))
    assert_uniform(light[jittered], 0.09, 1.91)
    for one, other in itertools.combinations([grayed, blurred, jittered, light], 2):
        assert_independent(one, other)


# The two views.


class Draws(Augmentation):
    """Returns its draws as the pixels of an image of one column."""

    num_draws = 3

    def augment(self, images, draws):
        return draws[:, :, None, None]


def test_the_two_views_draw_uniformly_and_independently():
    views = two_views(Draws(seed=12), np.zeros((COUNT, 1, 1, 1)))
    query, key = (views[name].numpy()[..., 0, 0] for name in ("query", "key"))
    for column, other in itertools.product(range(3), repeat=2):
        assert_uniform(query[:, column], 0, 1)
        assert_uniform(key[:, column], 0, 1)
        assert_independent(query[:, column], key[:, other])
        # And not only uncorrelated: all cells of a grid of five by five are equally likely.
        cells = np.histogram2d(query[:, column], key[:, other], bins=5, range=[[0, 1], [0, 1]])[0]
        assert chisquare(cells.ravel()).pvalue > 1e-3
    for shifted in (1, 2):  # nor does one image's view tell another's
        assert_independent(query[shifted:, 0], query[:-shifted, 0])
        assert_independent(query[shifted:, 0], key[:-shifted, 0])


def test_the_two_views_of_fused_have_independent_colours():
    layers = [RandomResizedCrop(4, scale=(1, 1), ratio=(1, 1)), RandomColorJitter(0.9, 0, 0, 0)]
    views = two_views(Fused(layers, seed=13), np.full((COUNT, 4, 4, 3), 130, "uint8"))
    query, key = (views[name].numpy()[:, 0, 0, 0] / 130 for name in ("query", "key"))
    assert_uniform(query, 0.09, 1.91)
    assert_uniform(key, 0.09, 1.91)
    assert_independent(query, key)
