"""A list of image files as a source."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_moco.data import open_source, plain_read_errors
from keras_moco.data.identity import differences
from tests.data.written import read, time_limit


@pytest.fixture
def folder(tmp_path):
    """Images `photos/0.png` to `photos/4.png`, each with pixels of its number."""
    (tmp_path / "photos").mkdir()
    for number in range(5):
        Image.new("L", (3, 2), number).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def write(folder, *lines, name="files.csv", ending="\n"):
    (folder / name).write_bytes(ending.join((*lines, "")).encode())
    return f"list:{folder / name}"


def test_images_are_those_of_the_lines_in_their_order(folder):
    name = write(folder, "photos/3.png", "", f"{folder}/photos/0.png", "photos/../photos/2.png")
    source = open_source(name, strict=True)
    assert [example["image"].max() for example in read(source)] == [3, 0, 2]
    assert source.class_names is None and source.labels().tolist() == [-1] * 3
    assert source.name == name and source.files[2] == f"{folder}/photos/2.png"
    assert sorted(example["index"] for example in read(source, seed=1)) == [0, 1, 2]


@pytest.mark.parametrize(
    "lines",
    [
        ["photos/3.png,cat", "photos/1.png,ant", "photos/2.png,cat"],
        ["path,label", "photos/3.png,cat", "photos/1.png,ant", "photos/2.png, cat"],
        ["\ufeffLabel,Path", 'cat,"photos/3.png"', "ant,photos/1.png", "cat,photos/2.png"],
        ["photos/3.png,cat,train", "photos/1.png,ant,Train", "photos/2.png,cat,training"],
        ["split,path,label", "train,photos/3.png,cat", "train,photos/1.png,ant", "train,photos/2.png,cat"],
    ],
    ids=["plain", "header", "order", "split", "split-header"],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_labels_are_numbered_in_the_order_of_their_names(folder, lines, ending):
    source = open_source(write(folder, *lines, ending=ending))
    assert source.class_names == ("ant", "cat") and source.labels().tolist() == [1, 0, 1]
    assert [example["image"].max() for example in read(source)] == [3, 1, 2]


def test_numbers_as_labels_keep_their_order(folder):
    source = open_source(write(folder, "photos/0.png,10", "photos/1.png,9"))
    assert source.class_names == ("9", "10") and source.labels().tolist() == [1, 0]


def test_commas_and_quotation_marks_are_those_of_csv(folder):
    shutil.copy(folder / "photos" / "4.png", folder / "photos" / 'a, "b".png')
    source = open_source(write(folder, '"photos/a, ""b"".png","x, y"'))
    assert source.files == (f'{folder}/photos/a, "b".png',) and source.class_names == ("x, y",)


def test_splits_are_lines_and_test_labels_are_those_of_training(folder):
    rows = ["path,label,split", "photos/0.png,ant,train", "photos/1.png,bee,train", "photos/2.png,bee,test"]
    train, test = (open_source(write(folder, *rows), split) for split in ("train", "test"))
    assert train.labels().tolist() == [0, 1]
    assert test.labels().tolist() == [1] and test.class_names == ("ant", "bee")
    name = write(folder, *rows, "photos/3.png,bee,val")  # is not read, since there is `test`
    assert open_source(name, "test").files == (f"{folder}/photos/2.png",)
    other = write(folder, *rows[:3], "photos/2.png,cat,valid")
    with pytest.raises(ValueError, match=r"1 classes \(cat\) that training, of 2 classes \(ant, bee\), does not have"):
        open_source(other, "test")


def test_missing_files_are_skipped_and_counted(folder):
    # More than are tried to find the number of channels, and all before the first one that exists.
    missing = [f"photos/none{number}.png" for number in range(150)]
    source = open_source(write(folder, *missing, "photos/1.png"), max_bad_fraction=0.999)
    with plain_read_errors():
        (found,) = read(source)
    assert found["index"] == 150 and source.bad.count == 150
    assert f"{folder}/photos/none0.png (No such file or directory)" in source.bad.summary()


def test_endings_of_names_do_not_matter(folder):
    (folder / "photos" / "1.png").rename(folder / "photos" / "one.dat")
    assert read(open_source(write(folder, "photos/one.dat")))[0]["image"].max() == 1


def test_names_other_than_utf8_are_found(folder):
    shutil.copy(folder / "photos" / "4.png", os.path.join(os.fsencode(folder), b"caf\xe9.png"))
    (folder / "files.csv").write_bytes(b"path,label\ncaf\xe9.png,caf\xe9\n")
    source = open_source(f"list:{folder}/files.csv", strict=True)
    assert read(source)[0]["image"].max() == 4 and source.class_names == ("caf\\xe9",) and source.digests


def test_digests_are_of_the_names_as_they_are_written(folder):
    before = open_source(write(folder, "photos/1.png,a", "photos/2.png,b")).digests
    shutil.copytree(folder, folder / "moved")
    assert differences(before, open_source(f"list:{folder}/moved/files.csv").digests) == []
    name = write(folder, "photos/2.png,b", "photos/1.png,a")
    assert differences(before, open_source(name).digests) == ["names of the files", "classes"]


@pytest.mark.parametrize(
    "lines, received",
    [
        (["", " ,"], "'list:{}/files.csv', which is empty"),
        (["path,label"], "'list:{}/files.csv', a header alone"),
        (["photos/7.png", "photos/8.png"], "none of 2 does, the first one: {}/photos/7.png.*relative to {}"),
        (["photos/1.png", "photos/./1.png"], "{}/photos/1.png in the lines 1 and 2 of"),
        (["photos/1.png,a,train", "photos/1.png,a,test"], "{}/photos/1.png in the lines 1 and 2 of"),
        (["photos/1.png,a", "photos/2.png,"], "line 2 of .* without one"),
        (["photos/1.png,a", "photos/2.png"], "line 2 of .* with 1, in place of 2"),
        (["photos/1.png,a,train,3", ], "with 'photos/1.png,a,train,3'"),
        (["filename,label", "photos/1.png,a"], "with 'filename,label'"),
        (["path,path", "photos/1.png,a"], "with 'path,path'"),
        (["label,split", "a,train"], "with 'label,split'"),
        (["image_id,breed", "photos/1.png,a"], "'image_id,breed' in "),
        (["photos/1.png,a,extra"], "'extra' in line 1 of"),
        (["photos/1.png", '"photos/2.png'], "unexpected end of data"),
        (["photos/1.png", "photos"], "{}/photos, a folder, in line 2 of"),
        (["photos/1.png", "pipe"], "{}/pipe, a named pipe, in line 2 of"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_images_is_refused(folder, lines, received):
    os.mkfifo(folder / "pipe")
    with time_limit(20), pytest.raises(ValueError, match=f"Received: .*{received.format(folder, folder)}"):
        open_source(write(folder, *lines))


def test_file_that_is_no_text_in_utf8_is_refused(folder):
    (folder / "files.csv").write_bytes("photos/1.png\n".encode("utf-16"))
    with pytest.raises(ValueError, match="in another encoding, or no text"):
        open_source(f"list:{folder}/files.csv")
    for name, kind in (("photos", "a folder"), ("nothing.csv", "No such file or directory")):
        with pytest.raises(ValueError, match=f"Received: {folder}/{name}, {kind}"):
            open_source(f"list:{folder}/{name}")


def test_split_without_lines_is_refused(folder):
    for line, split in (("photos/1.png,a", "test"), ("photos/1.png,a,test", "train")):
        with pytest.raises(ValueError, match=rf"split='{split}'.*with none.*--test_fraction=0\.1"):
            open_source(write(folder, line), split)


def test_list_may_be_cached(folder):
    source = open_source(write(folder, "photos/none.png", "photos/3.png"), cache=True, max_bad_fraction=0.5)
    shutil.rmtree(folder / "photos")
    np.testing.assert_array_equal(read(source)[0]["image"], np.full((2, 3, 1), 3))
