"""Names of sources, and the digits."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from keras_moco.data import open_source
from tests.data.written import read


def test_digits_are_those_of_scikit_learn_scaled_to_bytes_and_split_by_class():
    digits = load_digits()
    expected = sorted((label, *(pixels * 255 / 16)) for label, pixels in zip(digits.target, digits.data, strict=True))
    train, test = open_source("digits"), open_source("digits", "test")
    assert (train.num_examples, test.num_examples) == (1437, 360)
    assert (train.name, train.split, train.image_shape) == ("digits", "train", (8, 8, 1))
    assert train.class_names == tuple("0123456789") and train.num_classes == 10
    received = sorted((example["label"], *example["image"].ravel()) for example in read(train) + read(test))
    np.testing.assert_allclose(received, expected, atol=0.5)
    shares = [np.bincount(source.labels()) / source.num_examples for source in (train, test)]
    np.testing.assert_allclose(*shares, atol=0.003)


def test_the_seed_alone_decides_the_order():
    source = open_source("digits", "test")
    order = [[int(example["index"]) for example in read(source, seed)] for seed in (1, 1, 2, tf.constant(2, tf.int64))]
    assert order[0] == order[1] != order[2] == order[3]
    assert order[0] != list(range(360))


@pytest.mark.slow
def test_digits_do_not_import_tensorflow_datasets():
    code = (
        "import sys, keras_moco.data as data; data.open_source('digits'); "
        "assert 'tensorflow_datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_and_splits_are_refused_with_the_known_ones():
    for name in ("cifar10", "tfds:", "folder:", "", "digits:"):
        with pytest.raises(
            ValueError, match=rf"digits, tfds:.*, folder:.*, list:.*, tfrecord:.*Received: name='{name}'"
        ):
            open_source(name)
    with pytest.raises(ValueError, match="`tfds:cifar10`"):
        open_source("tdfs:cifar10")
    with pytest.raises(ValueError, match="`list:photos.csv`"):
        open_source("photos.csv")
    with pytest.raises(ValueError, match="`split` of digits .*train, test.*split='validation'"):
        open_source("digits", "validation")
