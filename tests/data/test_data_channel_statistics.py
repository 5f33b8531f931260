"""Mean and standard deviation of each channel, against NumPy over all pixels."""

import numpy as np
import pytest
from PIL import Image

from keras_moco.data import open_source
from keras_moco.data.channel_statistics import SAMPLE, mean_and_std


def write(folder, images):
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04}.png")


@pytest.mark.parametrize("scale", [1, 16])  # of 8 bits; and of 12 in 16
def test_images_have_the_same_weight_whatever_their_size(scale, tmp_path):
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 40, (30, 2))
    images = [rng.integers(low, low + 50, size) * scale for low, size in zip(range(0, 150, 5), sizes, strict=True)]
    images = [image.astype("uint8" if scale == 1 else "uint16") for image in images]
    write(tmp_path / "images", images)
    fractions = [image / (255 * scale if scale == 1 else 4095) for image in images]
    mean = np.mean([image.mean() for image in fractions])
    variance = np.mean([np.square(image).mean() for image in fractions]) - mean**2
    found = mean_and_std(open_source(f"folder:{tmp_path}/images"))
    np.testing.assert_allclose(found, [[mean], [np.sqrt(variance)]], atol=5.1e-5)  # four digits


def test_sample_is_spread_over_the_set(tmp_path):
    images = np.repeat(np.arange(2 * SAMPLE) * 255 // (2 * SAMPLE), 4).reshape(-1, 2, 2).astype("uint8")
    write(tmp_path / "sorted", images)
    source = open_source(f"folder:{tmp_path}/sorted")
    (mean,), _ = mean_and_std(source)
    assert 0 < abs(mean - images.mean() / 255) < 0.03  # half of the images; the first half has a mean of 0.25
    assert mean_and_std(source) == mean_and_std(open_source(f"folder:{tmp_path}/sorted"))


def test_constant_channel_has_a_positive_std(tmp_path):
    write(tmp_path / "blue", [np.full((4, 4, 3), (0, 0, 128), "uint8")] * 3)
    assert mean_and_std(open_source(f"folder:{tmp_path}/blue")) == ((0.0, 0.0, 0.502), (0.001,) * 3)
