"""Zip archives of a folder of images, written by Python's own module and read as the folder would be."""

import warnings
import zipfile

import numpy as np
import pytest

from keras_moco.data import open_source, zip_archive
from tests.data.written import encoded, read, smooth, write_zip

PNG = [encoded(smooth(number, 20 + number, 30 - number), "png") for number in range(5)]
CLASSES = {"bee/2.png": PNG[1], "bee/deep/1.PNG": PNG[2], "ant/3.png": PNG[0], "ant b/4.png": PNG[3]}
METHODS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}


def unpacked(path):
    """The folder beside an archive with its content, unpacked by Python."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(path.with_suffix(""))
    return f"folder:{path.with_suffix('')}"


def assert_like_the_folder(path, name, split="train"):
    found, same = open_source(f"zip:{path}", split), open_source(name, split)
    assert (found.class_names, found.image_shape) == (same.class_names, same.image_shape)
    assert found.digests | same.digests == found.digests
    for image, expected in zip(read(found), read(same), strict=True):
        np.testing.assert_array_equal(image["image"], expected["image"])
        assert (image["label"], image["index"]) == (expected["label"], expected["index"])
    return found


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_classes_are_those_of_the_folder(tmp_path, method):
    path = tmp_path / "photos.zip"
    write_zip(path, CLASSES, method)
    source = assert_like_the_folder(path, unpacked(path))
    assert source.class_names == ("ant", "ant b", "bee")
    assert source.files[0] == f"{path}/ant/3.png"


def test_images_without_folders_are_unlabelled(tmp_path):
    path = tmp_path / "photos.zip"
    write_zip(path, {"b.png": PNG[0], "a.png": PNG[1]})
    assert assert_like_the_folder(path, unpacked(path)).class_names is None


@pytest.mark.parametrize("test", ["test", "validation"])
def test_splits_are_those_of_the_folder(tmp_path, test):
    path = tmp_path / "photos.zip"
    write_zip(path, {"train/ant/1.png": PNG[0], "train/bee/1.png": PNG[1], f"{test}/ant/1.png": PNG[2]})
    name = unpacked(path)
    assert assert_like_the_folder(path, name, "train").num_examples == 2
    assert assert_like_the_folder(path, name, "test").num_examples == 1
    write_zip(path, {"train/ant/1.png": PNG[0]})
    assert open_source(f"zip:{path}").class_names == ("ant",)


def test_split_within_a_folder_of_its_name_is_that_of_the_folder(tmp_path):
    path = tmp_path / "photos.zip"
    train = {"seg_train/seg_train/ant/1.png": PNG[0], "seg_train/seg_train/bee/1.png": PNG[1]}
    write_zip(path, train | {"seg_test/seg_test/bee/1.png": PNG[2]})
    name = unpacked(path)
    assert assert_like_the_folder(path, name).class_names == ("ant", "bee")
    assert assert_like_the_folder(path, name, "test").labels().tolist() == [1]


def test_one_folder_around_everything_is_opened_and_what_is_no_image_is_ignored(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(zip_archive.logging, "warning", lambda text, *args: logged.append(text % args))
    path = tmp_path / "photos.zip"
    files = {"photos/": b"", **{f"photos/{name}": data for name, data in CLASSES.items()}}
    others = {"__MACOSX/photos/ant/._3.png": b"", "photos/.thumbs/5.png": PNG[4], "photos/ant/.png": b""}
    write_zip(path, {**files, **others, "photos/ant/notes.txt": b"an ant", "read me": b""})
    name = unpacked(path) + "/photos"
    assert assert_like_the_folder(path, name).num_examples == 4
    assert [text for text in logged if "zip:" in text] == [
        f"zip:{path}: 1 files that do not end in {' '.join(zip_archive.SUFFIXES)} are not read: 1 .txt; the "
        "first one: ant/notes.txt",
        f"zip:{path}: 3 hidden files, with names that begin with a dot or below __MACOSX, are not read, the first one: "
        "__MACOSX/photos/ant/._3.png",
    ]


def test_a_damaged_image_is_skipped_and_described(tmp_path):
    path = tmp_path / "photos.zip"
    write_zip(path, {f"{number}.png": data for number, data in enumerate([*PNG, b""])}, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        places = [info.header_offset for info in archive.infolist()]
    data = bytearray(path.read_bytes())
    data[places[1]] ^= 1  # of a header
    data[places[2] + 30 + len("2.png")] = 0xFF  # the first byte of what is deflated
    path.write_bytes(data)
    source = open_source(f"zip:{path}", max_bad_fraction=0.9)
    good = [example["index"] for example in read(source)]
    assert good == [0, 3, 4]
    assert source.bad.met[1] == f"{path}/1.png (the archive is damaged at its header)"
    assert source.bad.met[2].startswith(f"{path}/2.png (it cannot be decompressed: ")
    assert source.bad.met[5] == f"{path}/5.png (an empty file)"


def test_wrong_checksum_of_a_stored_image_is_noticed(tmp_path):
    path = tmp_path / "photos.zip"
    write_zip(path, {"a.png": PNG[0], "b.png": PNG[1] + bytes(9)})
    data = path.read_bytes()
    path.write_bytes(data.replace(PNG[1] + bytes(9), PNG[1] + bytes(8) + b"1"))
    source = open_source(f"zip:{path}", max_bad_fraction=0.9)
    assert [example["index"] for example in read(source)] == [0]
    assert source.bad.met == {1: f"{path}/b.png (its checksum is wrong)"}


# What cannot be opened.


def assert_refused(path, received, split="train"):
    with pytest.raises(ValueError) as error:
        open_source(f"zip:{path}", split)
    assert f"Received: {received}" in str(error.value)


def test_what_is_no_complete_zip_file_is_refused(tmp_path):
    path = tmp_path / "photos.zip"
    assert_refused(path, f"{path}, No such file or directory.")
    assert_refused(tmp_path, f"{tmp_path}, a folder.")
    write_zip(path, CLASSES)
    path.write_bytes(path.read_bytes()[:-30])
    assert_refused(path, f"{path}, File is not a zip file.")


@pytest.mark.parametrize(
    "files, received",
    [
        ({"ant/1.png": PNG[0], "2.png": PNG[1]}, "{path} with 1 images beside 1 folders"),
        ({"ant/1.png": PNG[0], "bee/": b""}, "{path}/bee, which holds none"),
        ({"read me": b""}, "{path}, with none"),
        ({"a.png": b"no image"}, "{path}/a.png (of no known format"),
    ],
    ids=["images beside classes", "empty class", "no image", "unreadable"],
)
def test_archives_that_a_folder_would_be_refused_for_are_refused(tmp_path, files, received):
    path = tmp_path / "photos.zip"
    write_zip(path, files)
    assert_refused(path, received.format(path=path))


def test_missing_split_is_refused(tmp_path):
    path = tmp_path / "photos.zip"
    write_zip(path, CLASSES)
    assert_refused(path, f"'zip:{path}', without `train`", "test")
    write_zip(path, {"train/ant/1.png": PNG[0]})
    assert_refused(path, f"'zip:{path}', without `test`", "test")


def test_encrypted_and_unusually_compressed_images_are_refused(tmp_path):
    path = tmp_path / "photos.zip"
    write_zip(path, {"a.png": PNG[0]}, zipfile.ZIP_LZMA)
    assert_refused(path, f"{path}, with a.png, compressed by lzma.")
    write_zip(path, {"a.png": PNG[0]})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory at the end
    path.write_bytes(data)
    assert_refused(path, f"{path}, with a.png, encrypted.")


def test_two_files_of_one_name_are_refused(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("a.png", PNG[0])
        archive.writestr("a.png", PNG[1])
    assert_refused(path, f"{path} with two files a.png.")
