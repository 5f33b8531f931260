"""RandomGaussianBlur against SciPy's Gaussian filter."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from keras_moco.augment import RandomGaussianBlur
from tests.augment.oracles import PHOTOS

PHOTO = PHOTOS[0, 100:324, 200:424]  # (224, 224, 3)


def blur(image, sigma):
    layer = RandomGaussianBlur(sigma=(0.1, 2.0), rate=0.5)
    return layer.augment_images(image[None], [[0.49, (sigma - 0.1) / 1.9]]).numpy()[0]  # sigma is linear in its draw


def test_blur_is_a_gaussian_with_replicated_edges():
    for image in (PHOTO[:64, :48], PHOTO[:9, :7], PHOTO[:1, :3]):
        for sigma in (0.1, 0.7, 2.0):
            oracle = gaussian_filter(image.astype("float64"), (sigma, sigma, 0), mode="nearest", truncate=8)
            np.testing.assert_allclose(blur(image, sigma), oracle, atol=0.01, err_msg=f"{image.shape}, {sigma}")


def test_an_impossible_sigma_is_refused():
    with pytest.raises(ValueError, match=r"`sigma` .*sigma=\(0, 2\)"):
        RandomGaussianBlur(sigma=(0, 2))
