"""Some of the images of a source, and labelled views of them."""

import collections
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.augment import RandomResizedCrop, supervised
from keras_moco.data import (
    array_source,
    balanced_indices,
    evaluation_dataset,
    open_source,
    pretrain_dataset,
    read_images,
    subset,
)
from keras_moco.data.subset import sample
from tests.batches import take

CLASSES, EACH = ("ant", "bee", "cat"), 4
CHOSEN = [9, 2, 5, 3]  # in this order on purpose


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve images; the number of one is its brightness."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(len(CLASSES) * EACH):
        (folder / CLASSES[number // EACH]).mkdir(exist_ok=True)
        pixels = np.full((10 + number, 12, 3), 10 * number, "uint8")
        Image.fromarray(pixels).save(folder / CLASSES[number // EACH] / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def records(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("records")
    (out / "labels.txt").write_text("\n".join(CLASSES))
    with tf.io.TFRecordWriter(str(out / "train-0")) as writer:
        for number, path in enumerate(sorted(folder.rglob("*.png"))):
            feature = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[path.read_bytes()])),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number // EACH])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return out


@pytest.fixture(params=["arrays", "folder", "tfrecord"])
def source(request, folder, records):
    if request.param == "folder":
        return open_source(f"folder:{folder}")
    if request.param == "tfrecord":
        return open_source(f"tfrecord:{records}/{{split}}-*")
    images = np.broadcast_to(np.arange(12).reshape(-1, 1, 1, 1) * 10, (12, 16, 16, 3)).astype("uint8")
    return array_source(images, np.arange(12) // EACH, CLASSES)


def brightness(examples):
    return [int(example["image"][0, 0, 0]) // 10 for example in examples]


def test_a_subset_holds_what_was_chosen_in_the_order_of_its_source(source):
    part = subset(source, CHOSEN)
    assert part.num_examples == 4 and part.class_names == CLASSES
    assert brightness(part.examples()) == sorted(CHOSEN)
    assert [int(example["index"]) for example in part.examples()] == [0, 1, 2, 3]
    assert [int(example["label"]) for example in part.examples()] == [0, 0, 1, 2]
    np.testing.assert_array_equal(part.labels(), [0, 0, 1, 2])
    np.testing.assert_array_equal(source.labels(), np.arange(12) // EACH)


def test_a_subset_can_be_shuffled_trained_on_and_evaluated(source):
    part = subset(source, CHOSEN)
    orders = {tuple(brightness(part.examples(seed))) for seed in range(8)}
    assert len(orders) > 1 and {tuple(sorted(order)) for order in orders} == {(2, 3, 5, 9)}
    batch = take(pretrain_dataset(part, RandomResizedCrop(8), 4, entries=("query", "label", "index")), 3)
    levels = (batch["query"][:, 0, 0, 0] / 10).round().astype(int)
    np.testing.assert_array_equal(levels, np.sort(CHOSEN)[batch["index"]])
    np.testing.assert_array_equal(batch["label"], levels // EACH)
    (whole,) = evaluation_dataset(part, 8).as_numpy_iterator()
    np.testing.assert_array_equal(whole["label"], [0, 0, 1, 2])


def test_files_of_a_subset_keep_their_names(folder):
    part = subset(open_source(f"folder:{folder}"), CHOSEN)
    assert [path[-6:] for path in part.files] == ["02.png", "03.png", "05.png", "09.png"]


def test_an_unreadable_image_of_a_subset_is_told_by_its_name(folder, tmp_path):
    for path in folder.rglob("*.png"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_bytes(b"" if path.name == "05.png" else path.read_bytes())
    part = subset(open_source(f"folder:{tmp_path}", max_bad_fraction=0.5), CHOSEN)
    assert brightness(part.examples()) == [2, 3, 9]
    assert re.fullmatch(r"1 of 4 images .*/bee/05\.png \(an empty file\)", part.bad.summary())


@pytest.mark.parametrize(
    "indices, received",
    [
        ([], "0 indices."),
        ([3, 3], "2 indices, 1 different ones from 3 to 3."),
        ([12], "1 indices, 1 different ones from 12"),
    ],
)
def test_indices_must_be_those_of_images(indices, received, source):
    with pytest.raises(
        ValueError, match=f"^`indices` must be of images, each once, from 0 to 11. Received: {received}"
    ):
        subset(source, indices)


def test_one_view_with_its_label_is_the_first_of_two(source):
    augmentation = supervised(8, crop_scale=(0.5, 1.0))
    two = take(pretrain_dataset(source, augmentation, 5, seed=3), 4)
    one = take(pretrain_dataset(source, augmentation, 5, seed=3, entries=("query", "index", "label")), 4)
    np.testing.assert_array_equal(one["query"], two["query"])
    np.testing.assert_array_equal(one["index"], two["index"])
    np.testing.assert_array_equal(one["label"], one["index"] // EACH)
    assert set(one) == {"query", "index", "label"}


# Shares of the labels


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 1.0])
def test_every_class_has_as_many(fraction):
    labels = np.random.default_rng(0).permutation(np.arange(1000) % 10)
    chosen = balanced_indices(labels, fraction, seed=1)
    assert len(chosen) == len(set(chosen.tolist())) == round(1000 * fraction)
    assert set(collections.Counter(labels[chosen].tolist()).values()) == {round(100 * fraction)}


def test_what_a_division_leaves_over_goes_to_single_images_of_classes():
    chosen = balanced_indices(np.arange(100) % 4, 0.1)
    assert sorted(collections.Counter((chosen % 4).tolist()).values()) == [2, 2, 3, 3]


def test_a_class_that_is_short_of_images_gives_what_it_has():
    labels = np.array([0] * 90 + [1] * 10)
    assert collections.Counter(labels[balanced_indices(labels, 0.5)].tolist()) == {0: 25, 1: 10}


def test_the_seed_decides_and_each_image_is_as_likely():
    labels = np.arange(60) % 3
    np.testing.assert_array_equal(balanced_indices(labels, 0.2, seed=4), balanced_indices(labels, 0.2, seed=4))
    counts = sum(np.bincount(balanced_indices(labels, 0.2, seed), minlength=60) for seed in range(400))
    assert counts.sum() == 400 * 12
    assert np.all(np.abs(counts - 80) < 5 * np.sqrt(400 * 0.2 * 0.8))  # five standard deviations


@pytest.mark.parametrize(
    "labels, fraction, message",
    [
        ([0, 1, 2], 0.5, "at least one of each class. Received: 50 % of 3 images, 2, for 3 classes. Raise the share."),
        ([0, -1, 1], 1.0, "Received: 1 images without a label, classes without an image: []."),
        ([0, 2, 2], 1.0, "Received: 0 images without a label, classes without an image: [1]."),
    ],
)
def test_labels_that_cannot_be_shared_out(labels, fraction, message):
    with pytest.raises(ValueError) as caught:
        balanced_indices(labels, fraction)
    assert str(caught.value).endswith(message)


# Single files


def test_single_files_are_read_as_for_evaluation(folder):
    paths = sorted(folder.rglob("*.png"))[3:5]
    images = read_images(paths, 8, channels=3)
    expected = [batch["image"] for batch in evaluation_dataset(open_source(f"folder:{folder}"), 8).as_numpy_iterator()]
    np.testing.assert_array_equal(images, np.concatenate(expected)[3:5])
    assert read_images(paths[:1], 8, channels=1).shape == (1, 8, 8, 1)


@pytest.mark.parametrize("content, reason", [(None, "No such file or directory"), (b"x", "no JPEG, PNG, BMP or GIF")])
def test_a_file_that_is_no_image_is_told(content, reason, tmp_path):
    path = tmp_path / "x.png"
    if content:
        path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_images([path], 8, 3)
    assert str(caught.value) == (
        f"An image file must be a complete JPEG, PNG, BMP or GIF. Received: {path} ({reason}). Correct or leave it out."
    )


def test_a_sample_is_some_images_with_their_own_indices(source):
    part = sample(source, 5, seed=1)
    indices = [int(example["index"]) for example in part.examples()]
    assert part.num_examples == len(set(indices)) == 5
    assert brightness(part.examples()) == indices
    assert [int(example["label"]) for example in part.examples()] == [index // EACH for index in indices]
    batches = evaluation_dataset(part, 8, batch_size=2)
    assert [index for batch in batches for index in batch["index"].numpy().tolist()] == indices
    assert sample(source, 12) is source


def test_a_sample_is_drawn_by_lot_but_out_of_large_files_it_is_what_comes_first(source):
    samples = [[int(each["index"]) for each in sample(source, 5, seed).examples()] for seed in range(3)]
    if source.name.startswith("tfrecord:"):
        assert samples == 3 * [[0, 1, 2, 3, 4]]
    else:
        assert samples[0] != samples[1] != samples[2] != samples[0]
