import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.data import open_source


def read(source, seed=None):
    return list(source.examples(seed).as_numpy_iterator())


def test_digits_are_those_of_scikit_learn_scaled_to_bytes():
    from sklearn.datasets import load_digits

    digits = load_digits()
    expected = sorted((label, *(pixels * 255 / 16)) for label, pixels in zip(digits.target, digits.data, strict=True))
    examples = read(open_source("digits")) + read(open_source("digits", "test"))
    received = sorted((example["label"], *example["image"].ravel()) for example in examples)
    assert len(received) == 1797
    np.testing.assert_allclose(received, expected, atol=0.5)
    assert examples[0]["image"].dtype == np.uint8 and examples[0]["image"].shape == (8, 8, 1)


def test_digits_splits_have_1437_and_360_examples_and_equal_class_shares():
    train, test = open_source("digits"), open_source("digits", "test")
    assert (train.num_examples, test.num_examples) == (1437, 360)
    shares = [
        np.bincount([example["label"] for example in read(source)]) / source.num_examples for source in (train, test)
    ]
    np.testing.assert_allclose(*shares, atol=0.003)


def test_digits_know_their_shape_and_classes():
    source = open_source("digits")
    assert (source.name, source.split, source.image_shape) == ("digits", "train", (8, 8, 1))
    assert source.class_names == tuple("0123456789") and source.num_classes == 10


def test_the_fixed_order_counts_up():
    assert [example["index"] for example in read(open_source("digits", "test"))] == list(range(360))


def test_an_index_means_the_same_image_in_every_order():
    source = open_source("digits", "test")
    fixed = read(source)
    shuffled = read(source, seed=5)
    assert sorted(example["index"] for example in shuffled) == list(range(360))
    for example in shuffled:
        np.testing.assert_array_equal(example["image"], fixed[example["index"]]["image"])
        assert example["label"] == fixed[example["index"]]["label"]


def test_the_seed_alone_decides_the_order():
    source = open_source("digits", "test")
    order = [[int(example["index"]) for example in read(source, seed)] for seed in (1, 1, 2, tf.constant(2, tf.int64))]
    assert order[0] == order[1] != order[2] == order[3]
    assert order[0] != list(range(360))


def test_digits_do_not_import_tensorflow_datasets():
    code = (
        "import sys, keras_moco.data as data; data.open_source('digits'); "
        "assert 'tensorflow_datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["cifar10", "tdfs:cifar10", "tfds:", "folder:", "", "digits:"])
def test_an_unknown_name_lists_the_known_forms(name):
    with pytest.raises(
        ValueError,
        match=r"must be one of digits, tfds:<name>\[/config\], folder:<path>, tfrecord:<glob>\. Received: name=",
    ):
        open_source(name)


def test_a_misspelt_kind_is_corrected():
    with pytest.raises(ValueError, match="Did you mean `tfds:cifar10`?"):
        open_source("tdfs:cifar10")


def test_an_unknown_split_lists_the_known_ones():
    with pytest.raises(ValueError, match="`split` of digits must be one of train, test. Received: split='validation'."):
        open_source("digits", "validation")
