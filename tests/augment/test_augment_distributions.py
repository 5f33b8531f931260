"""Random choices have the distributions they claim: thousands of draws of a fixed seed, against SciPy.

What an operation makes of its draws is in its own tests, so uniform and independent draws are enough for all of them.
"""

import itertools
import math

import numpy as np
from scipy.stats import chisquare, kstest, spearmanr, uniform

from keras_moco.augment import Augmentation, RandomResizedCrop, two_views

COUNT = 4000


def assert_uniform(sample):
    assert 0 <= np.min(sample) and np.max(sample) < 1
    assert kstest(sample, uniform.cdf).pvalue > 1e-3


def assert_independent(one, other):
    assert abs(spearmanr(one, other).statistic) < 4 / math.sqrt(len(one))


class Draws(Augmentation):
    """Returns its draws as the pixels of an image of one column."""

    num_draws = 3

    def augment(self, images, draws):
        return draws[:, :, None, None]


def test_random_numbers_of_two_views_are_uniform_and_independent():
    views = two_views(Draws(seed=12), np.zeros((COUNT, 1, 1, 1)))
    query, key = (views[name].numpy()[..., 0, 0] for name in ("query", "key"))
    for column in range(3):
        assert_uniform(query[:, column])
        assert_uniform(key[:, column])
    for one, other in itertools.combinations([*query.T, *key.T], 2):
        assert_independent(one, other)
        # And not only uncorrelated: all cells of a grid of five by five are equally likely.
        cells = np.histogram2d(one, other, bins=5, range=[[0, 1], [0, 1]])[0]
        assert chisquare(cells.ravel()).pvalue > 1e-3
    for shifted in (1, 2):  # nor does one image's view depend on another's
        assert_independent(query[shifted:, 0], query[:-shifted, 0])
        assert_independent(query[shifted:, 0], key[:-shifted, 0])


# The corner of a crop; `test_augment_crop.py` compares boxes with torchvision's.


def test_the_corner_of_a_crop_is_independent_of_its_size():
    layer, side = RandomResizedCrop(8, scale=(0.1, 0.45), seed=2), 4000  # with that many pixels as good as real numbers
    boxes = layer.boxes(layer.get_random_transformation_batch(COUNT), side, side)
    top, left, height, width = (part.numpy() for part in boxes)
    vertical, horizontal = (top + 0.5) / (side - height + 1), (left + 0.5) / (side - width + 1)
    assert_uniform(vertical)
    assert_uniform(horizontal)
    for one, other in itertools.combinations([vertical, horizontal, height * width, width / height], 2):
        assert_independent(one, other)
