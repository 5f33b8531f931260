"""TFRecord files, written by TensorFlow's own writer and read back."""

import gzip
import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.augment import RandomResizedCrop
from keras_moco.data import evaluation_dataset, open_source, plain_read_errors, pretrain_dataset

NAMES = ("ant", "bee", "cat")
SIZES = {"00000-of-00002": 6, "00001-of-00002": 9}  # records of the two shards
# Files are read in turn, one record each.
ORDER = [(shard, record) for record in range(9) for shard, size in SIZES.items() if record < size]


def pixels_of(shard, record, channels=3):
    seed = 100 * list(SIZES).index(shard) + record
    y, x = np.mgrid[: 20 + record, : 30 - record] / 30  # smooth, so that JPEG decoders agree
    noise = np.random.default_rng(seed).integers(0, 200, channels)
    return (np.stack([x + y] * channels, axis=-1) * 25 + noise).astype("uint8")


def is_jpeg(record):
    return record % 2 == 0


def encoded(pixels, kind):
    with io.BytesIO() as file:
        Image.fromarray(pixels.squeeze()).save(file, kind, **({"quality": 95} if kind == "jpeg" else {}))
        return file.getvalue()


def example(image=None, label=None, name="image/encoded"):
    features = {}
    if image is not None:
        features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    if label is not None:
        features["image/class/label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(path, records, options=None):
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for record in records:
            writer.write(record)


def label_of(shard, record):
    return (record + list(SIZES).index(shard)) % len(NAMES)


def write_shards(folder, split="train", channels=3, labelled=True):
    for shard, size in SIZES.items():
        images = [pixels_of(shard, record, channels) for record in range(size)]
        kinds = ["jpeg" if is_jpeg(record) else "png" for record in range(size)]
        labels = [label_of(shard, record) if labelled else None for record in range(size)]
        write(
            folder / f"{split}-{shard}",
            [example(encoded(pixels, kind), label) for pixels, kind, label in zip(images, kinds, labels, strict=True)],
        )


def write_names(folder):
    (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")


@pytest.fixture
def labelled(tmp_path):
    write_shards(tmp_path)
    write_names(tmp_path)
    return f"tfrecord:{tmp_path}/train-*"


def read(source, seed=None):
    return list(source.examples(seed).as_numpy_iterator())


def assert_holds(example, place, channels=3):
    shard, record = place
    tolerance = 3 if is_jpeg(record) else 0
    expected = pixels_of(shard, record, channels).astype(int)
    np.testing.assert_allclose(example["image"].astype(int), expected, atol=tolerance)


def test_images_labels_and_indices_are_those_written(labelled):
    source = open_source(labelled)
    assert (source.num_examples, source.image_shape, source.class_names) == (15, (None, None, 3), NAMES)
    for index, (found, place) in enumerate(zip(read(source), ORDER, strict=True)):
        assert_holds(found, place)
        assert (found["index"], found["label"]) == (index, label_of(*place))


def test_without_names_of_classes_images_are_unlabelled(tmp_path):
    write_shards(tmp_path)  # with labels in the records
    source = open_source(f"tfrecord:{tmp_path}/train-*")
    assert source.class_names is None and source.num_classes == 0
    assert {int(found["label"]) for found in read(source)} == {-1}


def test_records_without_a_label_have_none(tmp_path):
    write_shards(tmp_path, labelled=False)
    write_names(tmp_path)
    assert {int(found["label"]) for found in read(open_source(f"tfrecord:{tmp_path}/train-*"))} == {-1}


def test_gray_first_makes_all_gray(tmp_path):
    write_shards(tmp_path, channels=1)
    source = open_source(f"tfrecord:{tmp_path}/train-*")
    assert source.image_shape == (None, None, 1)
    for found, place in zip(read(source), ORDER, strict=True):
        assert_holds(found, place, channels=1)


@pytest.mark.parametrize("cache", [False, True])
def test_a_shuffle_is_a_permutation_that_keeps_indices(labelled, cache):
    source = open_source(labelled, cache=cache)
    orders = []
    for seed in (1, 2, 1):
        examples = read(source, seed)
        orders.append([int(found["index"]) for found in examples])
        for found in examples:
            place = ORDER[found["index"]]
            assert_holds(found, place)
            assert found["label"] == label_of(*place)
    assert [sorted(order) for order in orders] == [list(range(15))] * 3
    assert orders[0] == orders[2] != orders[1] and list(range(15)) not in orders


def test_epochs_read_every_image_once_and_views_are_those_of_their_index(labelled):
    whole = RandomResizedCrop(16, scale=(1, 1), ratio=(1.0, 4.0))
    batches = list(pretrain_dataset(open_source(labelled), whole, 5).take(6).as_numpy_iterator())
    index = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(np.sort(index.reshape(2, 15)), [range(15)] * 2)
    views = np.concatenate([batch["query"] for batch in batches])
    for view, number in zip(views, index, strict=True):
        expected = pixels_of(*ORDER[number]).mean(axis=(0, 1))
        np.testing.assert_allclose(view.mean(axis=(0, 1)), expected, atol=3)


@pytest.mark.parametrize("word", ["test", "validation", "val"])
def test_the_split_in_a_pattern_stands_for_the_words_of_a_split(tmp_path, word):
    write_shards(tmp_path, "train")
    write(tmp_path / f"{word}-0", [example(encoded(pixels_of(*ORDER[0]), "png"), 2)])
    write_names(tmp_path)
    pattern = f"tfrecord:{tmp_path}/{{split}}-*"
    assert open_source(pattern).num_examples == 15
    test = open_source(pattern, "test")
    assert (test.num_examples, test.split, test.class_names) == (1, "test", NAMES)
    (batch,) = evaluation_dataset(test, image_size=8)
    assert (int(batch["label"][0]), int(batch["index"][0])) == (2, 0)


def test_a_damaged_image_is_left_out_and_described(tmp_path):
    good = encoded(pixels_of(*ORDER[0]), "png")
    write(tmp_path / "a", [example(image) for image in (good, b"", good[:-200], good)] + [example()])
    pattern = f"tfrecord:{tmp_path}/a"
    source = open_source(pattern, max_bad_fraction=0.6)
    assert [found["index"] for found in read(source)] == [0, 3]
    assert source.bad.summary() == (
        "3 of 5 images could not be read and were left out: "
        + "; ".join(f"record {index} of {pattern} (train)" for index in (1, 2, 4))
    )
    with pytest.raises(ValueError) as error, plain_read_errors():
        read(open_source(pattern, strict=True))
    assert str(error.value) == (
        f"An image file must be a complete JPEG, PNG, BMP or GIF. Received: record 1 of {pattern} (train). "
        "Repair or delete it, or go without --strict_data, which leaves it out."
    )


# What cannot be opened.


def assert_refused(name, message, split="train"):
    with pytest.raises(ValueError) as error:
        open_source(name, split)
    assert str(error.value) == message


def test_no_such_file_is_an_error(tmp_path):
    name = f"tfrecord:{tmp_path}/train-*"
    assert_refused(
        name,
        f"A source of TFRecords must name existing files. Received: {name!r}, split='train', which matches none. "
        "Correct it, for example to tfrecord:/data/images/{split}-*. (Splits are train, test.)",
    )


def test_a_test_split_wants_a_place_in_the_pattern(labelled):
    assert_refused(
        labelled,
        f"A pattern must have `{{split}}` in it to be opened as split='test'. Received: {labelled!r}. Its images are "
        "the `train` split.",
        split="test",
    )


def test_an_unknown_split_is_an_error_that_lists_the_known_ones(tmp_path):
    write_shards(tmp_path)
    with pytest.raises(ValueError, match="train, test"):
        open_source(f"tfrecord:{tmp_path}/{{split}}-*", "unlabelled")


def test_another_feature_is_an_error(tmp_path):
    image = encoded(pixels_of(*ORDER[0]), "png")
    write(tmp_path / "a", [example(image, name="image")] * 3)
    name = f"tfrecord:{tmp_path}/a"
    assert_refused(
        name,
        "Records must be `tf.train.Example` with a JPEG, PNG, BMP or GIF in the feature `image/encoded`. Received: "
        f"{name}, without a readable image in `image/encoded` of its first records. Write them so.",
    )


def test_records_of_another_kind_are_an_error(tmp_path):
    write(tmp_path / "a", [b"no example at all"])
    name = f"tfrecord:{tmp_path}/a"
    with pytest.raises(ValueError) as error:
        open_source(name)
    assert str(error.value).startswith(
        "Records must be `tf.train.Example` with a JPEG, PNG, BMP or GIF in the feature `image/encoded`. Received: "
        f"{name}, whose first records cannot be read: "
    )
    assert str(error.value).endswith(". Write them so.")


@pytest.mark.parametrize("lost, record", [(1, 8), (30, 8), (5000, 0)])
def test_a_file_that_breaks_off_is_an_error(labelled, lost, record):
    path = pathlib.Path(labelled.removeprefix("tfrecord:")).parent / "train-00001-of-00002"
    data = path.read_bytes()
    path.write_bytes(data[: max(len(data) - lost, 5)])
    assert_refused(
        labelled,
        f"A TFRecord file must be complete, and not compressed. Received: {path}, which ends inside record {record}. "
        "Write it again.",
    )


@pytest.mark.parametrize("how", ["writer", "gzip"])
def test_a_compressed_file_is_an_error(tmp_path, how):
    records = [example(encoded(pixels_of(*place), "png")) for place in ORDER]
    path = tmp_path / "a"
    write(path, records, tf.io.TFRecordOptions(compression_type="GZIP") if how == "writer" else None)
    if how == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert_refused(
        f"tfrecord:{path}",
        f"A TFRecord file must be complete, and not compressed. Received: {path}, which ends inside record 0. "
        "Write it again.",
    )


def test_a_file_without_records_is_an_error(tmp_path):
    write(tmp_path / "a", [])
    write(tmp_path / "b", [])
    assert_refused(
        f"tfrecord:{tmp_path}/*",
        f"TFRecord files must hold records. Received: tfrecord:{tmp_path}/*, 2 files without any.",
    )


def test_a_changed_byte_is_found_by_its_checksum(labelled):
    path = pathlib.Path(labelled.removeprefix("tfrecord:")).parent / "train-00000-of-00002"
    data = bytearray(path.read_bytes())
    data[40] ^= 255
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"Received: {labelled.replace('*', '.')}, whose first records cannot be read"):
        open_source(labelled)
