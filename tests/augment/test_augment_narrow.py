"""From which aspect ratio on random crops are one box."""

import numpy as np
import pytest

from keras_moco.augment import RandomResizedCrop
from keras_moco.augment.narrow import narrow_from


@pytest.mark.parametrize("scale, ratio", [((0.2, 1.0), (3 / 4, 4 / 3)), ((0.08, 1.0), (0.5, 2.0))])
def test_beyond_the_widest_aspect_of_the_smallest_area_no_box_fits(scale, ratio):
    """A box of area `a` and aspect `r` is `sqrt(a h w / r)` high, which is below `h` if `w / h < r / a`."""
    crop = RandomResizedCrop(8, scale, ratio)
    limit = ratio[1] / scale[0]
    assert 0.9 * limit < narrow_from(crop, share=1) < 1.01 * limit
    draws = np.random.default_rng(1).random((200, crop.num_draws), "float32")
    for shape, same in (((100, 102 * limit), True), ((102 * limit, 100), True), ((100, 60 * limit), False)):
        boxes = np.stack([part.numpy() for part in crop.boxes(draws, *map(round, shape))])
        assert (len(np.unique(boxes, axis=1).T) == 1) == same


def test_half_of_the_crops_are_one_box_where_it_says_so():
    crop = RandomResizedCrop(8)
    draws = np.random.default_rng(1).random((4000, crop.num_draws))
    area, aspect = 0.2 + 0.8 * draws[:, :10], np.exp((2 * draws[:, 10:20] - 1) * np.log(4 / 3))
    for factor, low, high in ((0.95, 0.0, 0.5), (1.0, 0.45, 0.55), (1.05, 0.5, 1.0)):
        width_by_height = factor * narrow_from(crop, share=0.5)
        none_fits = (area * width_by_height / aspect > 1).all(axis=1)  # boxes higher than the image
        assert low <= none_fits.mean() <= high
