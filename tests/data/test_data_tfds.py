"""TensorFlow Datasets as a source."""

import re

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.data import open_source, tfds_source
from tests.data.written import store_tfds


def images(count, channels=3, dtype="uint8"):
    return [np.full((2 + row, 3, channels), row, dtype) for row in range(count)]


def store_labelled(data_dir, name="some", **splits):
    """Splits are `(label, number of images)`."""
    rows = {split: [(image, label) for image in images(count)] for split, (label, count) in splits.items()}
    store_tfds(data_dir, name, rows, classes=2)


@pytest.mark.slow
def test_images_of_different_sizes_stream_in_an_order_that_depends_on_its_seed_alone(tmp_path):
    store_tfds(tmp_path, "sizes", {"train": images(20)})
    source = open_source("tfds:sizes", data_dir=tmp_path)
    assert source.image_shape == (None, None, 3)
    examples = list(source.examples().as_numpy_iterator())
    assert [example["index"] for example in examples] == list(range(20))
    fixed = [example["image"] for example in examples]
    assert sorted(len(image) for image in fixed) == list(range(2, 22))
    assert source.class_names is None and {int(example["label"]) for example in examples} == {-1}
    orders = {}
    for global_seed, seed in ((0, 0), (1, 0), (1, 1)):
        tf.random.set_seed(global_seed)
        # As in an epoch of `pretrain_dataset`, where the seed is a symbolic tensor.
        epochs = tf.data.Dataset.from_tensors(tf.constant(seed, tf.int64)).flat_map(source.examples)
        orders[global_seed, seed] = [int(example["index"]) for example in epochs]
    shuffled = list(source.examples(0).as_numpy_iterator())
    for example in shuffled:
        np.testing.assert_array_equal(example["image"], fixed[example["index"]])
    assert orders[0, 0] == orders[1, 0] == [int(example["index"]) for example in shuffled] != orders[1, 1]
    assert sorted(orders[0, 0]) == list(range(20)) != orders[0, 0]


@pytest.mark.parametrize("test, expected", [((1, 4), 4), ((-1, 4), 3)], ids=["labelled", "unlabelled, as ImageNet's"])
def test_test_is_the_labelled_split_that_is_not_for_training(tmp_path, test, expected):
    store_labelled(tmp_path, train=(0, 2), validation=(1, 3), test=test)
    assert open_source("tfds:some", "test", data_dir=tmp_path).num_examples == expected
    assert open_source("tfds:some", "validation", data_dir=tmp_path).num_examples == 3
    with pytest.raises(ValueError, match="`split` of tfds:some .*train, .*split='other'"):
        open_source("tfds:some", "other", data_dir=tmp_path)


def test_sixteen_bit_images_are_refused(tmp_path):
    store_tfds(tmp_path, "wide", {"train": images(2, 1, "uint16")}, channels=1, dtype=np.uint16)
    with pytest.raises(ValueError, match="8-bit .*Received: tfds:wide"):
        open_source("tfds:wide", data_dir=tmp_path)


def test_a_set_that_is_not_prepared_is_refused_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_source, "_online", lambda: False)
    store_labelled(tmp_path, train=(0, 2))
    for name, hint in (
        ("cifar11", "cifar10"),
        ("qqqqqqqqqqqqqqqq", "{}: some"),  # like no other: what is prepared
        ("imagenette/nothing", "full-size"),
        ("cifar10", "not prepared in {}, and there is no internet here"),
        ("mnist", "keras_moco.data.import_idx"),
        ("imagenet2012", "{}/downloads/manual: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"),
    ):
        with pytest.raises(ValueError, match=f"Received: tfds:{name}.*{re.escape(hint.format(tmp_path))}"):
            open_source(f"tfds:{name}", data_dir=tmp_path)


def test_a_failed_download_is_one_sentence_and_was_announced(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(tfds_source, "_online", lambda: True)
    monkeypatch.setattr(tfds_source.logging, "warning", lambda text, *args: said.append(text % args))

    def fail(builder, **_):
        raise ConnectionError("connection\n  lost")

    monkeypatch.setattr(tfds_source.tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match="ConnectionError: connection lost"):
        open_source("tfds:cifar10", data_dir=tmp_path)
    assert "tfds:cifar10" in said[-1] and str(tmp_path) in said[-1]
