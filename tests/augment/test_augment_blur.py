"""RandomGaussianBlur against SciPy's Gaussian filter, and its distance from PIL's approximation."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_image

from keras_moco.augment import RandomGaussianBlur

PHOTO = load_sample_image("china.jpg")[100:324, 200:424]  # (224, 224, 3)


def blur(image, sigma):
    layer = RandomGaussianBlur(sigma=(sigma, sigma), rate=1.0)
    return layer.augment_images(image[None], np.zeros((1, 2), "float32")).numpy()[0]


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("image", [PHOTO, PHOTO[:9, :7], PHOTO[:1, :3]], ids=["photo", "9x7", "1x3"])
def test_it_is_a_gaussian_with_replicated_edges(image, sigma):
    oracle = gaussian_filter(image.astype("float64"), (sigma, sigma, 0), mode="nearest", truncate=8)
    np.testing.assert_allclose(blur(image, sigma), oracle, atol=0.01)


@pytest.mark.parametrize(
    ("sigma", "mean", "inside", "border"),
    [
        (0.1, 0.01, 4, 4),
        (0.3, 1.7, 21, 21),
        (0.5, 0.6, 5, 5),
        (1.0, 0.6, 5, 10),
        (1.5, 0.6, 5, 21),
        (2.0, 0.6, 5, 21),
    ],
)
def test_pils_blur_differs_on_a_photograph_as_documented(sigma, mean, inside, border):
    pil = np.asarray(Image.fromarray(PHOTO).filter(ImageFilter.GaussianBlur(sigma)), "float32")
    difference = np.abs(blur(PHOTO, sigma) - pil)
    assert difference.mean() < mean
    assert difference[8:-8, 8:-8].max() < inside
    assert difference.max() < border


def test_sigma_is_uniform_in_its_range():
    layer = RandomGaussianBlur(sigma=(0.1, 2.0), rate=0.5)
    draws = np.array([[0.49, 0.0], [0.0, 0.5], [0.3, 1.0], [0.5, 0.5]], "float32")
    results = layer.augment_images(np.stack([PHOTO] * 4), draws).numpy()
    for result, sigma in zip(results[:3], [0.1, 1.05, 2.0], strict=True):
        np.testing.assert_allclose(result, blur(PHOTO, sigma), atol=0.01)
    np.testing.assert_array_equal(results[3], PHOTO)


def test_an_impossible_sigma_is_refused():
    with pytest.raises(ValueError, match=r"`sigma` must be a range .* Received: sigma=\(0, 2\)."):
        RandomGaussianBlur(sigma=(0, 2))
