"""Folders with splits, several folders as one set, and the classes that training and test images share."""

import os

import numpy as np
import pytest
from PIL import Image

from keras_moco.data import open_source
from keras_moco.data.identity import differences
from tests.data.written import time_limit


def write(root, *names):
    """An image for each name, and an empty folder for each that ends in a slash."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (root / name).mkdir(exist_ok=True)
        elif name.endswith(".png"):
            Image.new("L", (3, 3)).save(root / name)
        else:
            (root / name).write_text("no image")
    return f"folder:{root}"


def names_of(source, root):
    return [os.path.relpath(path, root) for path in source.files]


# Names of splits


@pytest.mark.parametrize(
    "train, test",
    [("Train", "Test"), ("TRAIN", "testing"), ("training", "Val"), ("seg_train", "seg_test"), ("train", "valid")],
)
def test_splits_have_many_names(tmp_path, train, test):
    name = write(tmp_path, f"{train}/cat/1.png", f"{test}/cat/2.png")
    assert names_of(open_source(name), tmp_path) == [f"{train}/cat/1.png"]
    assert names_of(open_source(name, "test"), tmp_path) == [f"{test}/cat/2.png"]


def test_test_split_is_test_before_val_before_validation_before_valid(tmp_path):
    name = write(tmp_path, "train/0.png")
    for folder in ("valid", "Validation", "VAL", "test"):  # each one precedes those before
        write(tmp_path, f"{folder}/1.png")
        assert names_of(open_source(name, "test"), tmp_path) == [f"{folder}/1.png"]


@pytest.mark.parametrize(
    "folders, both", [("Train train", "Train and train"), ("train training", "train and training"),
                      ("train test Test val", "Test and test")]
)  # fmt: skip
def test_two_folders_for_a_split_are_refused(tmp_path, folders, both):
    name = write(tmp_path, *(f"{folder}/1.png" for folder in folders.split()))
    with pytest.raises(ValueError, match=rf"must have one sub-folder for .* with {both} in {tmp_path}\. Merge"):
        open_source(name)


@pytest.mark.parametrize("split", ["train", "test"])
def test_class_called_train_is_not_taken_for_a_split(tmp_path, split):
    name = write(tmp_path, "car/1.png", "plane/deep/2.png", "train/3.png", ".cache/4.png", "docs/a.txt", "test/5.png")
    received = (
        rf"{tmp_path}/train may be the training split, or a class as car, plane may be\. If it is the split, move "
    )
    with pytest.raises(ValueError, match=received + r"car, plane away; if it is a class, rename it\."):
        open_source(name, split)


def test_what_holds_no_images_may_be_beside_splits(tmp_path, caplog):
    name = write(tmp_path, "train/a/1.png", "docs/a.txt", ".cache/2.png", "labels/", "docs/.old/3.png", "overview.png")
    assert names_of(open_source(name), tmp_path) == ["train/a/1.png"]
    note = "1 images beside the sub-folder `train` are not read, the first one: "
    assert f"{note}{tmp_path}/overview.png" in caplog.text


def test_inside_of_a_split_nothing_is_a_split(tmp_path):
    name = write(tmp_path, "train/train/1.png", "train/test/2.png", "val/train/3.png")
    train, test = open_source(name), open_source(name, "test")
    assert train.class_names == test.class_names == ("test", "train")
    assert (train.labels().tolist(), test.labels().tolist()) == ([0, 1], [1])


@pytest.mark.parametrize("train, test", [("seg_train", "seg_test"), ("train", "val"), ("Training", "testing")])
def test_split_within_a_folder_of_its_name_is_read_as_kaggle_ships_it(tmp_path, train, test, caplog):
    classes = (f"{train}/{train}/cat/1.png", f"{train}/{train}/dog/2.png", f"{test}/{test}/dog/3.png")
    name = write(tmp_path, *classes, f"{train}/.DS_Store", "seg_pred/seg_pred/4.png")
    found, tested = open_source(name), open_source(name, "test")
    assert found.class_names == tested.class_names == ("cat", "dog") and tested.labels().tolist() == [1]
    assert names_of(found, tmp_path) == list(classes[:2]) and names_of(tested, tmp_path) == [classes[2]]
    assert "images in `seg_pred` are not read" in caplog.text


def test_split_within_a_folder_of_its_name_may_be_unlabelled_and_the_other_split_not(tmp_path):
    name = write(tmp_path, "train/train/1.png", "train/train/2.png", "test/cat/3.png")
    assert open_source(name).class_names is None and open_source(name, "test").class_names == ("cat",)


@pytest.mark.parametrize(
    "files, classes",
    [
        (["train/train/1.png", "train/cat/2.png"], ("cat", "train")),
        (["train/train/1.png", "train/notes.txt"], ("train",)),
        (["train/test/1.png", "train/cat/2.png", "test/test/3.png"], ("cat", "test")),
    ],
    ids=["another folder", "a file", "a class of training"],
)
def test_folder_of_the_name_of_its_split_may_be_a_class(tmp_path, files, classes):
    name = write(tmp_path, *files)
    assert open_source(name).class_names == classes
    if "test/test/3.png" in files:
        assert open_source(name, "test").labels().tolist() == [1]


def test_without_a_training_split_test_is_a_class(tmp_path):
    assert open_source(write(tmp_path, "test/1.png", "cat/2.png")).class_names == ("cat", "test")


# Classes of the test split


def test_test_images_have_the_labels_of_the_training_classes(tmp_path):
    train = [f"train/{each}/1.png" for each in ("ant", "bee", "cat")]
    name = write(tmp_path, *train, "test/bee/1.png", "test/cat/2.png", "test/cat/3.png")
    test = open_source(name, "test")
    assert test.class_names == open_source(name).class_names == ("ant", "bee", "cat")
    assert test.labels().tolist() == [1, 2, 2]
    write(tmp_path, "test/dog/1.png", "test/eel/1.png")
    with pytest.raises(ValueError, match=r"2 classes \(dog, eel\) that training, of 3 classes \(ant, bee, cat\), does"):
        open_source(name, "test")


def test_test_class_without_images_is_refused_and_unlabelled_training_has_no_say(tmp_path):
    name = write(tmp_path, "train/ant/1.png", "train/bee/1.png", "test/bee/1.png", "test/ant/")
    with pytest.raises(ValueError, match=rf"Every class .*Received: {tmp_path}/test/ant, which holds none"):
        open_source(name, "test")
    other = write(tmp_path / "other", "train/1.png", "test/bee/1.png")
    assert open_source(other).class_names is None and open_source(other, "test").class_names == ("bee",)


# Several folders


def test_images_of_several_folders_are_one_set(tmp_path):
    write(tmp_path / "a", "cat/2.png", "dog/1.png")
    write(tmp_path / "b", "train/cat/1.png", "train/eel/1.png", "test/cat/9.png")
    name = f"folder:{tmp_path}/a,{tmp_path}/b"
    train, test = open_source(name), open_source(name, "test")
    assert train.name == name and train.class_names == ("cat", "dog", "eel")
    # Within a class in the order of the folders.
    assert names_of(train, tmp_path) == ["a/cat/2.png", "b/train/cat/1.png", "a/dog/1.png", "b/train/eel/1.png"]
    assert train.labels().tolist() == [0, 0, 1, 2]
    assert names_of(test, tmp_path) == ["b/test/cat/9.png"] and test.labels().tolist() == [0]


def test_moving_all_folders_changes_nothing(tmp_path):
    for place in ("x", "y"):
        write(tmp_path / place / "b", "cat/1.png")
        write(tmp_path / place / "a", "cat/2.png", "dog/1.png")
    x, y = (open_source(f"folder:{tmp_path}/{place}/b,{tmp_path}/{place}/a").digests for place in "xy")
    assert differences(x, y) == []
    assert differences(x, open_source(f"folder:{tmp_path}/x/a,{tmp_path}/x/b").digests) == ["names of the files"]


def test_comma_in_an_existing_path_is_part_of_it(tmp_path):
    for folder in ("a,b", "a", "b"):
        write(tmp_path / folder, f"{len(folder)}.png")
    assert names_of(open_source(f"folder:{tmp_path}/a,b"), tmp_path) == ["a,b/3.png"]


@pytest.mark.parametrize("inner_first", [False, True])
def test_folder_in_two_roots_is_read_once(tmp_path, inner_first, caplog):
    write(tmp_path / "a", "cat/1.png", "dog/2.png")
    os.symlink(tmp_path / "a" / "dog", tmp_path / "link")
    roots = [tmp_path / "a", tmp_path / "a" / "cat", tmp_path / "link", tmp_path / "a"]
    with time_limit(20):
        source = open_source(f"folder:{','.join(map(str, roots[::-1] if inner_first else roots))}")
    assert names_of(source, tmp_path) == ["a/cat/1.png", "a/dog/2.png"] and source.class_names == ("cat", "dog")
    assert "2 folders are read already by another path, and are not read again" in caplog.text
    assert f"1 links lead to folders that are read already, and are not read again, the first one: {tmp_path}/link" in (
        caplog.text
    )


def test_folder_above_a_followed_link_is_read_once(tmp_path):
    write(tmp_path / "outside", "deep/1.png", "2.png")
    write(tmp_path / "images" / "cat", "3.png")
    os.symlink(tmp_path / "outside" / "deep", tmp_path / "images" / "cat" / "a")
    os.symlink(tmp_path / "outside", tmp_path / "images" / "cat" / "b")
    source = open_source(f"folder:{tmp_path}/images")
    assert names_of(source, tmp_path / "images") == ["cat/3.png", "cat/a/1.png", "cat/b/2.png"]


@pytest.mark.parametrize(
    "files, roots, split, received",
    [
        (["a/1.png"], "a,b", "train", "of which '{}/b' is: No such file"),
        (["a/1.png", "b.txt"], "a,b.txt", "train", "of which '{}/b.txt' is: a file"),
        (["a/1.png"], "a,", "train", "of which '' is: nothing"),
        (["a/1.png", "b/cat/1.png"], "a,b", "train", "{}/a with 1 images beside 1 sub-folders"),
        (["a/cat/1.png", "b/dog/"], "a,b", "train", "{}/b/dog, which holds none"),
        (["a/", "b/"], "a,b", "train", "{0}/a, {0}/b, with none"),
        (["a/1.png", "b/2.png"], "a,b", "test", "without `train`"),
        (["a/1.png", "b/train/2.png"], "a,b", "test", "with `train` only"),
    ],
    ids=["missing", "file", "nothing", "mixed", "empty-class", "empty", "no-splits", "no-test"],
)
def test_folders_that_make_no_set_are_refused(tmp_path, files, roots, split, received):
    write(tmp_path, *files)
    name = ",".join(f"{tmp_path}/{root}" if root else "" for root in roots.split(","))
    with pytest.raises(ValueError, match=f"Received: .*{received.format(tmp_path)}"):
        open_source(f"folder:{name}", split)


def test_class_may_be_empty_in_one_of_several_folders(tmp_path):
    write(tmp_path, "a/cat/1.png", "b/cat/", "b/dog/1.png")
    assert open_source(f"folder:{tmp_path}/a,{tmp_path}/b").labels().tolist() == [0, 1]


def test_test_split_inside_of_the_training_images_is_logged(tmp_path, caplog):
    write(tmp_path / "a", "train/1.png", "test/2.png")
    assert open_source(f"folder:{tmp_path}/a", "test").num_examples == 1 and "also for training" not in caplog.text
    assert open_source(f"folder:{tmp_path}/a,{tmp_path}/a/test", "test").num_examples == 1
    assert f"images of the test split are also for training: {tmp_path}/a/test" in caplog.text


# What is not read


def test_unread_files_are_counted_by_ending(tmp_path, caplog):
    endings = [".a1"] * 3 + [".B2", ".b2"] + [""] * 2 + [f".z{number}" for number in range(4)]
    for number, ending in enumerate(endings):
        (tmp_path / f"{number:02}{ending}").write_bytes(b"")
    Image.fromarray(np.zeros((3, 3), "uint8")).save(tmp_path / "x.png")
    open_source(f"folder:{tmp_path}")
    counts = "3 .a1, 2 .b2, 2 without an ending, 1 .z0, 1 .z1, 2 others"
    note = f"11 files are not read: {counts}; the first one: {tmp_path}/00.a1. Convert images to one of .jpg "
    assert f"folder:{tmp_path}: {note}" in caplog.text
