"""RandomRotation against SciPy's affine transform and PIL's rotation."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import affine_transform

from keras_moco.augment import RandomRotation
from tests.augment.oracles import PHOTOS

PHOTO = PHOTOS[1, 100:164, 200:248]  # (64, 48, 3)


def rotated(image, degrees, most=40.0):
    draws = [[0.0, (degrees / most + 1) / 2]]  # the angle is linear in its draw
    return RandomRotation(most).augment_images(image[None], draws).numpy()[0]


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_it_is_scipys_bilinear_rotation_about_the_centre_with_repeated_edges(channels):
    image = PHOTO[..., np.arange(channels) % 3].astype("float64")
    for degrees in (-40.0, -7.5, 0.0, 10.0, 33.0):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        matrix = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])  # from rows and columns of the result
        centre = np.array([63 / 2, 47 / 2, 0])
        oracle = affine_transform(image, matrix, centre - matrix @ centre, order=1, mode="nearest")
        np.testing.assert_allclose(rotated(image, degrees), oracle, atol=0.02, err_msg=str(degrees))


def test_positive_angles_are_counter_clockwise_as_in_pil():
    oracle = np.asarray(Image.fromarray(PHOTO).rotate(10, Image.Resampling.BILINEAR), "float32")
    np.testing.assert_allclose(rotated(PHOTO, 10.0)[12:-12, 12:-12], oracle[12:-12, 12:-12], atol=1.01)  # PIL rounds


def test_without_a_rotation_an_image_keeps_its_values():
    draws = [[0.49, 0.5], [0.51, 0.9]]
    same = RandomRotation(30, rate=0.5).augment_images(np.stack([PHOTO] * 2), draws)
    np.testing.assert_array_equal(same, [PHOTO] * 2)


@pytest.mark.parametrize("degrees", [0, -10, 181, math.nan])
def test_an_impossible_angle_is_refused(degrees):
    with pytest.raises(ValueError, match=rf"`degrees` .*degrees={degrees}\."):
        RandomRotation(degrees)
