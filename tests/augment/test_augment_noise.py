"""RandomNoise: the law of its noise, against SciPy, and that the random numbers alone decide it."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import kstest, norm, spearmanr

from keras_moco.augment import RandomNoise

FLAT = np.full((1, 80, 100, 4), 128.0, "float32")


def noise_of(layer, *draws, images=None):
    """What is added to gray images, one for each row of random numbers."""
    images = np.repeat(FLAT, len(draws), axis=0) if images is None else images
    return layer.augment_images(images, np.float32(draws)).numpy() - images


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_noise_is_gaussian_of_a_sigma_that_is_linear_in_its_random_number(share):
    sigma = 2 + (12 - 2) * share
    noise = noise_of(RandomNoise(sigma=(2, 12), rate=0.5), [0.4, share, 0.3])
    assert kstest(noise.ravel(), norm(scale=sigma).cdf).pvalue > 1e-3
    # Independent of place and channel: neighbours, and the same pixel of another channel.
    image = noise[0]
    for one, other in ((image[1:], image[:-1]), (image[:, 1:], image[:, :-1]), (image[..., 1:], image[..., :-1])):
        assert abs(spearmanr(one.ravel(), other.ravel()).statistic) < 4 / np.sqrt(one.size)


def test_the_seed_decides_the_noise_and_the_sigma_only_scales_it():
    layer = RandomNoise(sigma=(0, 10), rate=1.0)
    first, louder, other = noise_of(layer, [0, 0.5, 0.3], [0, 1.0, 0.3], [0, 0.5, 0.3 + 2**-23])
    np.testing.assert_allclose(louder, 2 * first, atol=1e-4)
    assert abs(spearmanr(first.ravel(), other.ravel()).statistic) < 4 / np.sqrt(first.size)
    np.testing.assert_array_equal(noise_of(layer, [0, 0.5, 0.3])[0], first)  # whatever else is in the batch


def test_values_are_clamped_and_images_without_noise_unchanged():
    images = np.stack([FLAT[0], FLAT[0] - 128, FLAT[0] + 127])
    layer = RandomNoise(sigma=(10, 10), rate=0.5)
    same = noise_of(layer, *[[0.51, 0.5, 0.5]] * 3, images=images)
    np.testing.assert_array_equal(same, np.zeros_like(images))
    _, low, high = noise_of(layer, *[[0.49, 0.5, 0.5]] * 3, images=images)
    assert low.min() == 0 and low.max() > 10 and high.max() == 0 and high.min() < -10


@pytest.mark.usefixtures("with_xla")
def test_xla_adds_the_same_noise():
    layer, draws = RandomNoise(sigma=(3, 9), rate=0.8), np.float32([[0.1, 0.9, 0.2], [0.9, 0.9, 0.2]])
    compiled = tf.function(layer.augment, jit_compile=True)
    images = np.repeat(FLAT, 2, axis=0)
    np.testing.assert_allclose(compiled(images, draws), layer.augment(tf.constant(images), draws), atol=1e-3)


@pytest.mark.parametrize("sigma", [(-1, 5), (5, 4), (0, 0)])
def test_an_impossible_sigma_is_refused(sigma):
    with pytest.raises(ValueError, match="`sigma` .*Received: sigma="):
        RandomNoise(sigma=sigma)
