"""Batches for evaluation, and single files, as central views."""

import os

import keras
import numpy as np
import pytest

from keras_moco.augment import central_view
from keras_moco.data import evaluation_dataset, open_source, read_images
from keras_moco.evaluation.features import FeatureExtractor
from tests.batches import take
from tests.data.written import encoded, smooth, time_limit, write


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A source of images of different sizes in files."""
    files = [encoded(smooth(number, 20 + number, 30 - number), "png") for number in range(6)]
    return open_source(write(tmp_path_factory.mktemp("photos"), "folder", files)[0])


def test_all_images_are_read_in_order_as_central_views(photos):
    digits = open_source("digits", "test")
    for source, size, batch_size in ((digits, 8, 100), (photos, 16, 256)):
        dataset = evaluation_dataset(source, size, batch_size)
        batch = take(dataset, -1)
        examples = list(source.examples().as_numpy_iterator())
        np.testing.assert_array_equal(batch["index"], range(source.num_examples))
        np.testing.assert_array_equal(batch["label"], [example["label"] for example in examples])
        for image, example in zip(batch["image"], examples, strict=True):
            np.testing.assert_allclose(image, central_view(example["image"][None], size)[0], atol=1e-3)
    assert len(evaluation_dataset(digits, 8, 100)) == 4


def test_single_files_are_read_as_for_evaluation(photos):
    images = read_images(photos.files[3:5], 8, channels=3)
    expected = take(evaluation_dataset(photos, 8), -1)["image"]
    np.testing.assert_allclose(images, expected[3:5], atol=1e-3)  # eager and in a graph
    assert read_images(photos.files[:1], 8, channels=1).shape == (1, 8, 8, 1)


def test_single_files_that_are_no_images_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "x.png").write_bytes(b"x")
    for name, received in (
        ("x.png", r" \(of no known format\)"),
        ("pipe.png", ", a named pipe"),
        (".", ", a folder"),
        ("none.png", ", No such file or directory"),
    ):
        with time_limit(20), pytest.raises(ValueError, match=rf"Received: {tmp_path / name}{received}\. "):
            read_images([str(tmp_path / name)], 8, 3)
    with pytest.raises(ValueError, match="Received: none"):
        read_images([], 8, 3)


def test_dark_images_are_not_taken_for_scaled_ones(tmp_path):
    dark, bright = np.full((9, 9), 3, "uint16"), np.full((9, 9), 4095, "uint16")
    (tmp_path / "a.png").write_bytes(encoded(dark, "png"))
    (tmp_path / "b.png").write_bytes(encoded(bright, "png"))
    source = open_source(f"folder:{tmp_path}", value_range="0,4095")
    dataset = evaluation_dataset(source, 8, batch_size=1)  # a batch of the dark image alone
    means = FeatureExtractor(lambda images: keras.ops.mean(images, axis=(1, 2))).extract(dataset).features
    np.testing.assert_allclose(means[:, 0], [3 / 4095 * 255, 255], rtol=1e-5)
    np.testing.assert_allclose(read_images(source.files[:1], 8, source.decoding), 3 / 4095 * 255, rtol=1e-5)
