"""central_view against PIL and torchvision's evaluation protocol."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from keras_moco.augment import central_view
from tests.augment.oracles import PHOTOS

PHOTO = PHOTOS[0]


def resize_and_crop(image, shorter, size):
    """torchvision's Resize(shorter) and CenterCrop(size), with PIL."""
    height, width = image.shape[:2]
    if height <= width:
        height, width = shorter, int(shorter * width / height)
    else:
        height, width = int(shorter * height / width), shorter
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), "float32")
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resized[top : top + size, left : left + size]


@pytest.mark.parametrize(("size", "shorter"), [(224, 256), (64, 73), (32, 32)])
def test_it_is_the_imagenet_protocol_in_proportion(size, shorter):
    for image in (PHOTO, PHOTO.swapaxes(0, 1), PHOTO[:100, :101]):
        view = central_view(image[None], size)
        assert view.dtype == "float32"
        # PIL rounds to whole levels twice.
        oracle = resize_and_crop(np.ascontiguousarray(image), shorter, size)
        np.testing.assert_allclose(view[0], oracle, atol=1.01, err_msg=str(image.shape))


def test_small_square_images_are_only_resized():
    digits = (load_digits().images[:3] * 15.9).astype("uint8")
    np.testing.assert_allclose(central_view(digits[..., None], 8)[..., 0], digits, atol=1e-3)  # of their own size
    for digit, view in zip(digits, central_view(digits[..., None], 28), strict=True):
        oracle = Image.fromarray(digit).resize((28, 28), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(view[..., 0], np.asarray(oracle, "float32"), atol=1.01)
