import re

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.data import open_source, tfds_source


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(tfds_source, "_online", lambda: False)


def store(data_dir, name, splits, labelled=True, channels=3, **image):
    """Writes a TFDS data set of tiny PNG images without registering it."""
    tfds = tfds_source.tfds
    features = {"image": tfds.features.Image(shape=(None, None, channels), encoding_format="png", **image)}
    if labelled:
        features["label"] = tfds.features.ClassLabel(num_classes=2)

    def rows(label, count):
        for row in range(count):
            example = {"image": np.full((2 + row, 3, channels), row, image.get("dtype", "uint8"))}
            yield row, {**example, "label": label} if labelled else example

    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        data_dir=data_dir,
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: rows(*label_and_count) for split, label_and_count in splits.items()},
    )


def test_images_of_different_sizes_stream(tmp_path):
    store(tmp_path, "sizes", {"train": (1, 6)})
    source = open_source("tfds:sizes", data_dir=tmp_path)
    assert source.image_shape == (None, None, 3)
    fixed = {int(example["index"]): example["image"] for example in source.examples().as_numpy_iterator()}
    assert list(fixed) == list(range(6))
    shuffled = list(source.examples(1).as_numpy_iterator())
    assert sorted(example["index"] for example in shuffled) == list(range(6))
    assert [example["index"] for example in shuffled] != list(range(6))
    for example in shuffled:
        np.testing.assert_array_equal(example["image"], fixed[int(example["index"])])


def test_the_order_of_a_stream_hangs_on_its_own_seed_alone(tmp_path):
    store(tmp_path, "sizes", {"train": (1, 20)})
    source = open_source("tfds:sizes", data_dir=tmp_path)
    orders = {}
    for global_seed in (0, 1):
        tf.random.set_seed(global_seed)
        for seed in (0, 1):
            # As in an epoch of `pretrain_dataset`, where the seed is a symbolic tensor.
            epochs = tf.data.Dataset.from_tensors(tf.constant(seed, tf.int64)).flat_map(source.examples)
            orders[global_seed, seed] = [int(example["index"]) for example in epochs]
            assert orders[global_seed, seed] == [int(example["index"]) for example in source.examples(seed)]
    assert orders[0, 0] == orders[1, 0] and orders[0, 1] == orders[1, 1]
    assert orders[0, 0] != orders[0, 1] and sorted(orders[0, 0]) == list(range(20))


def test_without_labels_labels_are_minus_one(tmp_path):
    store(tmp_path, "unlabelled", {"train": (None, 2)}, labelled=False)
    source = open_source("tfds:unlabelled", data_dir=tmp_path)
    assert source.class_names is None
    assert [example["label"] for example in source.examples().as_numpy_iterator()] == [-1, -1]


@pytest.mark.parametrize(
    "splits, expected",
    [
        ({"train": (0, 2), "validation": (1, 3)}, 3),
        ({"train": (0, 2), "validation": (1, 3), "test": (1, 4)}, 4),
        ({"train": (0, 2), "validation": (1, 3), "test": (-1, 4)}, 3),  # as ImageNet's
    ],
)
def test_test_is_the_labelled_split_that_is_not_for_training(tmp_path, splits, expected):
    store(tmp_path, "some", splits)
    assert open_source("tfds:some", "test", data_dir=tmp_path).num_examples == expected
    assert open_source("tfds:some", "validation", data_dir=tmp_path).num_examples == 3


def test_an_unknown_split_lists_the_known_ones(tmp_path):
    store(tmp_path, "some", {"train": (0, 2)})
    with pytest.raises(ValueError, match="`split` of tfds:some must be one of train. Received: split='test'"):
        open_source("tfds:some", "test", data_dir=tmp_path)


def test_sixteen_bit_images_are_refused(tmp_path):
    store(tmp_path, "wide", {"train": (0, 2)}, channels=1, dtype=np.uint16)
    with pytest.raises(ValueError, match="must have a feature `image` of 8-bit images with 1 or 3 channels"):
        open_source("tfds:wide", data_dir=tmp_path)


def test_an_unknown_name_suggests_close_ones(tmp_path, offline):
    with pytest.raises(ValueError, match="Received: tfds:cifar11. Did you mean .*cifar10"):
        open_source("tfds:cifar11", data_dir=tmp_path)


def test_an_unknown_name_like_no_other_lists_what_is_prepared(tmp_path, offline):
    store(tmp_path, "some", {"train": (0, 2)})
    with pytest.raises(ValueError, match=re.escape(f"Prepared in {tmp_path}: some.")):
        open_source("tfds:qqqqqqqqqqqqqqqq", data_dir=tmp_path)


def test_an_unknown_config_lists_the_known_ones(tmp_path, offline):
    with pytest.raises(ValueError, match="Its configs are .*full-size"):
        open_source("tfds:imagenette/nothing", data_dir=tmp_path)


def test_offline_a_download_is_not_attempted(tmp_path, offline):
    with pytest.raises(ValueError, match="tfds:cifar10, not prepared in .*, and there is no internet here"):
        open_source("tfds:cifar10", data_dir=tmp_path)
    with pytest.raises(ValueError, match="or import its IDX files with `python -m keras_moco.data.import_idx`"):
        open_source("tfds:mnist", data_dir=tmp_path)


def test_imagenet_names_the_files_it_needs(tmp_path, offline):
    with pytest.raises(ValueError, match="Put its files into .*downloads/manual: ILSVRC2012_img_train.tar and ILSVRC"):
        open_source("tfds:imagenet2012", data_dir=tmp_path)


def test_a_failed_download_is_one_sentence_and_was_announced(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(tfds_source, "_online", lambda: True)
    monkeypatch.setattr(tfds_source.logging, "warning", lambda text, *args: said.append(text % args))

    def fail(builder, **_):
        raise ConnectionError("connection\n  lost")

    monkeypatch.setattr(tfds_source.tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match="and preparing it failed: ConnectionError: connection lost."):
        open_source("tfds:cifar10", data_dir=tmp_path)
    assert said[-1:] == [f"tfds:cifar10 is not prepared in {tmp_path}: downloading and preparing it now."]
