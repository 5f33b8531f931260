"""Some of the images of a source, and labelled views of them."""

import collections

import numpy as np
import pytest

from keras_moco.augment import RandomResizedCrop, supervised
from keras_moco.data import (
    array_source,
    balanced_indices,
    evaluation_dataset,
    labelled_dataset,
    open_source,
    pretrain_dataset,
    subset,
)
from keras_moco.data.subset import sample
from tests.batches import take
from tests.data.written import encoded, record, write_records

CLASSES, EACH = ("ant", "bee", "cat"), 4
CHOSEN = [9, 2, 5, 3]  # in this order on purpose


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve images; the number of one is its brightness."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(len(CLASSES) * EACH):
        (folder / CLASSES[number // EACH]).mkdir(exist_ok=True)
        pixels = np.full((10 + number, 12, 3), 10 * number, "uint8")
        (folder / CLASSES[number // EACH] / f"{number:02}.png").write_bytes(encoded(pixels, "png"))
    return folder


@pytest.fixture(params=["arrays", "folder", pytest.param("tfrecord", marks=pytest.mark.slow)])
def source(request, folder, tmp_path):
    if request.param == "folder":
        return open_source(f"folder:{folder}")
    if request.param == "tfrecord":
        (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
        files = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
        write_records(tmp_path / "train-0", [record(file, number // EACH) for number, file in enumerate(files)])
        return open_source(f"tfrecord:{tmp_path}/{{split}}-*")
    return arrays()


def arrays():
    images = np.broadcast_to(np.arange(12).reshape(-1, 1, 1, 1) * 10, (12, 16, 16, 3)).astype("uint8")
    return array_source(images, np.arange(12) // EACH, CLASSES)


def brightness(examples):
    return [int(example["image"][0, 0, 0]) // 10 for example in examples]


def test_a_subset_holds_the_chosen_images_in_the_order_of_its_source(source):
    part = subset(source, CHOSEN)
    assert part.num_examples == 4 and part.class_names == CLASSES
    examples = list(part.examples())
    assert brightness(examples) == sorted(CHOSEN)
    assert [int(example["index"]) for example in examples] == [0, 1, 2, 3]
    assert [int(example["label"]) for example in examples] == [0, 0, 1, 2]
    np.testing.assert_array_equal(part.labels(), [0, 0, 1, 2])
    np.testing.assert_array_equal(source.labels(), np.arange(12) // EACH)
    orders = {tuple(brightness(part.examples(seed))) for seed in range(3)}
    assert len(orders) > 1 and {tuple(sorted(order)) for order in orders} == {(2, 3, 5, 9)}
    batch = take(pretrain_dataset(part, RandomResizedCrop(8), 4, entries=("query", "label", "index")), 3)
    levels = (batch["query"][:, 0, 0, 0] / 10).round().astype(int)
    np.testing.assert_array_equal(levels, np.sort(CHOSEN)[batch["index"]])
    np.testing.assert_array_equal(batch["label"], levels // EACH)


def test_files_of_a_subset_keep_their_names_in_messages_too(folder, tmp_path):
    for path in folder.rglob("*.png"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_bytes(b"" if path.name == "05.png" else path.read_bytes())
    part = subset(open_source(f"folder:{tmp_path}", max_bad_fraction=0.5), CHOSEN)
    assert [path[-6:] for path in part.files] == ["02.png", "03.png", "05.png", "09.png"]
    assert brightness(part.examples()) == [2, 3, 9]
    assert part.bad.summary().startswith("1 of 4 ") and str(tmp_path / "bee" / "05.png") in part.bad.summary()


def test_indices_must_be_those_of_images():
    refused = {(): "0 indices", (3, 3): "2 indices, 1 different", (12,): "from 12 to 12", (-1,): "from -1 to -1"}
    for indices, received in refused.items():
        with pytest.raises(ValueError, match=f"`indices` .*from 0 to 11. Received: .*{received}"):
            subset(arrays(), indices)


def test_labelled_batches_are_the_first_of_two_views():
    augmentation = supervised(8, crop_scale=(0.5, 1.0))
    two = take(pretrain_dataset(arrays(), augmentation, 5, seed=3), 4)
    pairs = list(labelled_dataset(arrays(), augmentation, 5, seed=3).take(4).as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([image for image, _ in pairs]), two["query"])
    np.testing.assert_array_equal(np.concatenate([label for _, label in pairs]), two["index"] // EACH)


# Shares of the labels.


def test_classes_are_balanced_as_far_as_they_have_images():
    def shares(labels, fraction):
        labels = np.random.default_rng(0).permutation(labels)
        chosen = balanced_indices(labels, fraction, seed=1)
        assert len(chosen) == len(set(chosen.tolist()))
        return sorted(collections.Counter(labels[chosen].tolist()).values())

    for fraction, each in ((0.01, 1), (0.25, 25), (1.0, 100)):
        assert shares(np.arange(1000) % 10, fraction) == 10 * [each]
    assert shares(np.arange(100) % 4, 0.1) == [2, 2, 3, 3]
    assert shares([0] * 90 + [1] * 10, 0.5) == [10, 25]


def test_the_seed_decides_and_each_image_is_as_likely():
    labels = np.arange(60) % 3
    np.testing.assert_array_equal(balanced_indices(labels, 0.2, seed=4), balanced_indices(labels, 0.2, seed=4))
    counts = sum(np.bincount(balanced_indices(labels, 0.2, seed), minlength=60) for seed in range(400))
    assert counts.sum() == 400 * 12
    assert np.all(np.abs(counts - 80) < 5 * np.sqrt(400 * 0.2 * 0.8))  # five standard deviations


def test_labels_that_cannot_be_balanced_are_refused():
    for labels, fraction, received in (
        ([0, 1, 2], 0.5, "50 % of 3 images, 2, for 3 classes"),
        ([0, -1, 1], 1.0, r"1 images without a label, classes without an image: \[\]"),
        ([0, 2, 2], 1.0, r"0 images without a label, classes without an image: \[1\]"),
    ):
        with pytest.raises(ValueError, match=f"Received: {received}"):
            balanced_indices(labels, fraction)


def test_a_sample_is_some_images_with_their_own_indices(source):
    part = sample(source, 5, seed=1)
    examples = list(part.examples())
    indices = [int(example["index"]) for example in examples]
    assert part.num_examples == len(set(indices)) == 5
    assert brightness(examples) == indices
    assert [int(example["label"]) for example in examples] == [index // EACH for index in indices]
    assert take(evaluation_dataset(part, 8, batch_size=2), -1)["index"].tolist() == indices
    assert sample(source, 12) is source
    other = [int(each["index"]) for each in sample(source, 5, seed=2).examples()]
    if source.name.startswith("tfrecord:"):  # out of large files the first images
        assert indices == other == [0, 1, 2, 3, 4]
    else:
        assert indices != other
