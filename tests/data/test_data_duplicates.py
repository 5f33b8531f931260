"""Which images are there twice."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.cluster import AgglomerativeClustering
from sklearn.datasets import load_digits

from keras_moco.data import duplicates
from keras_moco.data.duplicates import near_groups, thumbnail
from tests.augment.oracles import PHOTOS
from tests.data.written import encoded


def of(images):
    return np.stack([thumbnail(np.asarray(image)) for image in images])


def test_a_thumbnail_has_the_mean_of_each_part():
    values = np.random.default_rng(0).integers(0, 256, (48, 80, 1), dtype="uint8")
    means = values.reshape(16, 3, 16, 5).mean(axis=(1, 3))
    assert np.abs(thumbnail(values) - means).max() <= 1  # rounded once in each direction
    assert (thumbnail(values.astype("float32") + 0.2) == thumbnail(values)).all()
    bands = np.repeat(values, 5, axis=-1)
    assert (thumbnail(bands) == thumbnail(values)).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((image.width // 2, image.height // 2)),
        lambda image: Image.open(io.BytesIO(encoded(np.asarray(image), "JPEG", quality=40))),
        lambda image: ImageEnhance.Contrast(image).enhance(0.8),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["half the size", "compressed", "less contrast", "gray"],
)
def test_a_copy_that_was_changed_is_found(change):
    parts = [
        photo[top : top + 140, left : left + 180] for photo in PHOTOS for top in (0, 150) for left in (0, 200, 400)
    ]
    parts = [Image.fromarray(part) for part in parts]
    found = near_groups(of([*parts, change(parts[4])]))
    assert found == [[4, len(parts)]]


def test_different_digits_are_not_copies():
    """Of 1,797 images, which are as similar as images can be; another measure agrees on the few that are found."""
    images = (load_digits().images[..., None] * 15.9).astype("uint8")
    found = near_groups(of(images))
    assert sum(map(len, found)) <= 4
    flat = images.reshape(len(images), -1).astype("float64")
    for first, second in found:
        assert np.corrcoef(flat[first], flat[second])[0, 1] > 0.97


def test_all_pairs_are_compared_whatever_the_block(monkeypatch):
    random = np.random.default_rng(0).integers(0, 100, (20, 16, 16))
    thumbnails = np.concatenate([random, 2 * random[3:5], random[4:5] + 50]).astype("uint8")
    for block in (1, 7, 1024):
        monkeypatch.setattr(duplicates, "BLOCK", block)
        assert near_groups(thumbnails) == [[3, 20], [4, 21, 22]]
    assert near_groups(thumbnails[:0]) == []


def test_flat_images_are_not_compared():
    noise = np.random.default_rng(0).random((2, 16, 16)) < 0.02
    assert near_groups(np.repeat(noise, 2, axis=0).astype("uint8")) == []


def test_an_image_that_is_near_two_groups_joins_them(monkeypatch):
    """As scikit-learn's clusters of single linkage, on a set in which each image is near the next one."""
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 16, 16))
    steps = np.array([0.0, 0.3, 0.6, 0.1, 0.2, 0.4, 0.5, 0.95])  # neighbours in the order of their numbers are near
    thumbnails = np.stack([first + (second - first) * step for step in steps]).astype("uint8")
    values = thumbnails.astype("float64")
    features = np.concatenate([np.diff(values, axis=axis).reshape(len(values), -1) for axis in (1, 2)], axis=1)
    clusters = AgglomerativeClustering(None, metric="cosine", linkage="single", distance_threshold=0.02).fit(features)
    expected = [
        np.flatnonzero(clusters.labels_ == label).tolist() for label in dict.fromkeys(clusters.labels_.tolist())
    ]
    assert [0, 1, 2, 3, 4, 5, 6] in expected
    for block in (1, 3, 1024):
        monkeypatch.setattr(duplicates, "BLOCK", block)
        assert near_groups(thumbnails) == [group for group in expected if len(group) > 1]
