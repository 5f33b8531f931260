"""Tar files in the format of WebDataset, written by Python's own module and read back."""

import bz2
import gzip
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from keras_moco.data import open_source, webdataset
from keras_moco.data.identity import differences
from tests.data.written import encoded, read, smooth, write_tar

NAMES = ("ant", "bee", "cat")
PIXELS = [smooth(number, 20 + number, 30 - number) for number in range(6)]
PNG = [encoded(pixels, "png") for pixels in PIXELS]
JPEG = encoded(PIXELS[4], "jpeg")


def write_shards(folder, names=NAMES, split="train"):
    """Two archives, with labels in two formats, and other files."""
    folder.mkdir(exist_ok=True)
    first = {"0/a.b.png": PNG[5], "0/x.png": PNG[0], "0/x.cls": b"2\n", "0/x.txt": b"an ant"}
    first |= {"0/x.json": b'{"label": 0}', "0/y.PNG": PNG[1]}  # where there is both, `cls` decides
    write_tar(folder / f"{split}-0.tar", {**first, "0/y.cls": b"0", ".hidden.png": PNG[5], "README": b"read me"})
    second = {"x.cls": b"1", "x.png": PNG[2], "z.json": json.dumps({"label": 1, "text": "a bee"}).encode()}
    long_name = "folder/" * 40 + "w.jpeg"  # longer than the 100 bytes of a header
    write_tar(folder / f"{split}-1.tar", {**second, "z.png": PNG[3], long_name: JPEG})
    if names:
        (folder / "labels.txt").write_text("\n".join(names) + "\n")
    return f"webdataset:{folder}/{{split}}-*.tar"


@pytest.fixture
def logged(monkeypatch):
    """What is logged."""
    texts = []
    monkeypatch.setattr(webdataset.logging, "warning", lambda text, *args: texts.append(text % args))
    return texts


def test_images_and_labels_are_those_written(tmp_path, logged):
    name = write_shards(tmp_path)
    source = open_source(name)
    assert (source.num_examples, source.image_shape, source.class_names) == (5, (None, None, 3), NAMES)
    found = read(source)
    assert [example["label"] for example in found] == [2, 0, 1, 1, -1]
    assert [example["index"] for example in found] == list(range(5))
    for example, pixels in zip(found[:4], PIXELS, strict=False):
        np.testing.assert_array_equal(example["image"], pixels)
    with Image.open(io.BytesIO(JPEG)) as image:
        np.testing.assert_allclose(found[4]["image"].astype(int), np.asarray(image), atol=4)  # decoders differ
    assert source.files[1] == f"{tmp_path}/train-0.tar/0/y.PNG"
    assert logged == [
        f"{name}: 4 files are neither image nor label, and are not read, the first one: 0/a.b.png",
        f"{name}: 1 of 5 images have no label, the first one: {'folder/' * 40}w.jpeg",
    ]


def test_without_names_classes_are_numbers_and_without_labels_there_are_none(tmp_path):
    assert open_source(write_shards(tmp_path, names=None)).class_names == ("0", "1", "2")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    assert open_source(f"webdataset:{tmp_path}/train-*").class_names == NAMES
    write_tar(
        tmp_path / "plain.tar", {"a.png": PNG[0], "a.json": b'{"text": "no label", "label": "ant"}', "b.png": PNG[1]}
    )
    source = open_source(f"webdataset:{tmp_path}/plain.tar")
    assert source.class_names is None and source.labels().tolist() == [-1, -1]


def test_the_split_in_a_pattern_stands_for_the_words_of_a_split(tmp_path):
    name = write_shards(tmp_path)
    write_tar(tmp_path / "val-0.tar", {"a.png": PNG[4], "a.cls": b"1"})
    test = open_source(name, "test")
    assert (test.num_examples, test.class_names, test.labels().tolist()) == (1, NAMES, [1])


def test_a_shuffle_is_complete_and_keeps_indices(tmp_path):
    for shard in range(2):
        images = {
            f"{number}.png": encoded(np.full((3, 4, 3), 10 * shard + number, "uint8"), "png") for number in range(10)
        }
        write_tar(tmp_path / f"{shard}.tar", images)
    source = open_source(f"webdataset:{tmp_path}/*.tar")
    orders = [[int(example["index"]) for example in read(source, seed)] for seed in (1, 2)]
    assert [sorted(order) for order in orders] == [list(range(20))] * 2 and orders[0] != orders[1]
    assert all(example["image"].max() == example["index"] for example in read(source, 1))
    assert {index // 10 for index in orders[0][:8]} == {0, 1}


def test_a_damaged_image_is_skipped_and_described(tmp_path):
    write_tar(tmp_path / "a.tar", {"a.png": PNG[0], "b.png": b"", "c.png": PNG[1][:-200]})
    source = open_source(f"webdataset:{tmp_path}/a.tar", max_bad_fraction=0.9)
    assert [example["index"] for example in read(source)] == [0]
    assert source.bad.met == {
        1: f"{tmp_path}/a.tar/b.png (an empty file)",
        2: f"{tmp_path}/a.tar/c.png (a damaged, incomplete or too large PNG)",
    }


def test_samples_and_shards_without_an_image_are_counted(tmp_path, logged):
    write_tar(tmp_path / "a.tar", {"a.png": PNG[0], "b.cls": b"1", "c.cls": b"0"})
    write_tar(tmp_path / "b.tar", {})
    name = f"webdataset:{tmp_path}/*.tar"
    assert open_source(name).num_examples == 1
    assert logged == [
        f"{name}: 2 samples have no image, and are not read, the first one: b.cls",
        f"{name}: 1 shards have no image, the first one: {tmp_path}/b.tar",
    ]


def test_links_are_not_images(tmp_path, logged):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(PNG[0])
        archive.addfile(member, io.BytesIO(PNG[0]))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(link)
    assert open_source(f"webdataset:{tmp_path}/a.tar").num_examples == 1


def test_digests_depend_on_names_and_sizes_not_on_the_folder(tmp_path):
    source = open_source(write_shards(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert open_source(f"webdataset:{tmp_path}/b/train-*").digests == source.digests
    write_tar(tmp_path / "b" / "train-1.tar", {"x.png": PNG[0] + bytes(20_000), "x.cls": b"1"})
    changed = open_source(f"webdataset:{tmp_path}/b/train-*").digests
    assert differences(source.digests, changed) == list(source.digests)[1:-1]  # all but those of names


# What cannot be opened.


def assert_refused(name, received):
    with pytest.raises(ValueError) as error:
        open_source(name)
    assert f"Received: {received}" in str(error.value)


@pytest.mark.parametrize("compress, kind", [(gzip.compress, "gzip"), (bz2.compress, "bzip2")], ids=["gzip", "bzip2"])
def test_compressed_archive_is_refused(tmp_path, compress, kind):
    write_tar(tmp_path / "a.tar", {"a.png": PNG[0]})
    (tmp_path / "a.tar").write_bytes(compress((tmp_path / "a.tar").read_bytes()))
    assert_refused(f"webdataset:{tmp_path}/a.tar", f"{tmp_path}/a.tar, compressed by {kind}. Decompress it.")


def test_incomplete_or_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, {"a.png": PNG[0], "b.png": PNG[1]})
    data = path.read_bytes()
    second = 512 + -(-len(PNG[0]) // 512) * 512  # where the second header is
    end = second + 512 + -(-len(PNG[1]) // 512) * 512
    for content, received in (
        (b"", "which cannot be read: empty file"),
        (b"no tar file" * 100, "which cannot be read: "),
        (data[: second - 600], "which cannot be read: unexpected end of data"),
        (data[:second], "which ends without the zeros that close a tar file"),
        (data[: second + 100], f"which ends inside the header at byte {second}"),
        (data[: end - 700], "which cannot be read: unexpected end of data"),
        (data[:second] + b"?" + data[second + 1 :], f"which is damaged at byte {second}, where a header should be"),
        (data[:-1] + b"?", f"where something follows after its end at byte {end}"),
        (data + data, f"where something follows after its end at byte {end}"),
    ):
        path.write_bytes(content)
        assert_refused(f"webdataset:{path}", f"{path}, {received}")


@pytest.mark.parametrize(
    "files, received",
    [
        ({"a.png": PNG[0], "a.jpg": PNG[0]}, "{path} with a.png and a.jpg"),
        ([("a.png", PNG[0]), ("a.png", PNG[1])], "{path} with a.png and a.png"),
        ({"a.png": PNG[0], "a.cls": b"ant"}, "b'ant' in a.cls of {path}"),
        ({"a.png": PNG[0], "a.cls": b"-2"}, "b'-2' in a.cls of {path}"),
        ({"a.png": PNG[0], "a.cls": b"\xff"}, r"b'\xff' in a.cls of {path}"),
        ({"a.png": PNG[0], "a.json": b"{"}, "b'{{' in a.json of {path}"),
        ({"a.png": PNG[0], "a.cls": b"%d" % 2**70}, f"b'{2**70}' in a.cls of {{path}}"),
        ({"a.txt": b""}, "webdataset:{path}, 1 files without any"),
        ({"a.png": b"no image"}, "{path}/a.png (no JPEG"),
    ],
    ids=[
        "two images",
        "one name twice",
        "text",
        "negative",
        "bytes",
        "no json",
        "too large",
        "no images",
        "unreadable",
    ],
)
def test_samples_that_are_none_are_refused(tmp_path, files, received):
    path = tmp_path / "a.tar"
    write_tar(path, files)
    assert_refused(f"webdataset:{path}", received.format(path=path))


def test_labels_without_a_name_are_refused(tmp_path):
    name = write_shards(tmp_path, names=NAMES[:2])
    with pytest.raises(ValueError, match=r"from 0 to 1, as there are 2 names .*Received: label 2 of .*0.tar/0/x.png\."):
        open_source(name)
