"""A folder of image files as a source; damaged and odd files have tests of their own."""

import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_moco.data import open_source, plain_read_errors, read_images
from keras_moco.data.identity import differences
from tests.data.written import read, time_limit


def save(path, mode="RGB", size=(7, 5), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "LA": (2,), "RGB": (3,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype="uint8")
    Image.fromarray(pixels, mode=None).save(path)
    return pixels


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path):
    first = save(tmp_path / "bird" / "b.png", seed=1)
    second = save(tmp_path / "bird" / "deeper" / "a.PNG", size=(4, 9), seed=2)
    third = save(tmp_path / "ant" / "z.png", seed=3)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    save(tmp_path / "ant" / ".hidden.png")
    save(tmp_path / ".cache" / "x.png")
    source = open_source(f"folder:{tmp_path}")
    assert (source.num_examples, source.image_shape, source.class_names) == (3, (None, None, 3), ("ant", "bird"))
    for example, label, pixels in zip(read(source), [0, 1, 1], [third, first, second], strict=True):
        assert example["label"] == label
        np.testing.assert_array_equal(example["image"], pixels)


def test_a_flat_folder_is_unlabelled_and_a_shuffle_keeps_indices(tmp_path, caplog):
    (tmp_path / "b.txt").write_bytes(b"text")  # an ending that is not read, which is said
    pixels = [save(tmp_path / f"{name}.png", seed=name) for name in range(9)]
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names is None and source.num_classes == 0
    assert "1 files" in caplog.text and str(tmp_path / "b.txt") in caplog.text
    shuffled = read(source, seed=3)
    order = [example["index"] for example in shuffled]
    assert sorted(order) == list(range(9)) and order != list(range(9))
    for example in shuffled:
        assert example["label"] == -1
        np.testing.assert_array_equal(example["image"], pixels[example["index"]])


def test_first_readable_gray_file_makes_all_gray(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    gray = save(tmp_path / "b.png", "L")
    colour = save(tmp_path / "c.png", "RGB", seed=1)
    with_alpha = save(tmp_path / "d.png", "LA", seed=2)
    source = open_source(f"folder:{tmp_path}", max_bad_fraction=0.5)
    assert source.image_shape == (None, None, 1) and source.num_examples == 4
    with plain_read_errors():
        images = {int(example["index"]): example["image"][..., 0] for example in read(source)}
    assert list(images) == [1, 2, 3]
    np.testing.assert_array_equal(images[1], gray)
    np.testing.assert_allclose(images[2], colour @ [0.299, 0.587, 0.114], atol=1.01)
    opacity = with_alpha[..., 1] / 255
    np.testing.assert_array_equal(images[3], np.round(with_alpha[..., 0] * opacity + 255 * (1 - opacity)))


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_train_and_test_folders_are_the_splits(tmp_path, test_name):
    for number in (1, 2):
        save(tmp_path / "train" / "cat" / f"{number}.png")
    save(tmp_path / test_name / "cat" / "3.png")
    assert open_source(f"folder:{tmp_path}").num_examples == 2
    assert open_source(f"folder:{tmp_path}", "test").num_examples == 1


@pytest.mark.parametrize(
    "files, split, received",
    [
        (None, "train", "'folder:{}'"),
        (["notes.txt"], "train", "{}, with none"),
        (["a.png", "b.png"], "train", r"{}/a\.png \(of no known format.*none of 2 files"),
        (["cat/1.png", "dog/notes.txt"], "train", "{}/dog, which holds none"),
        (["cat/1.png", "2.png"], "train", "{} with 1 images beside 1 sub-folders"),
        (["cat/1.png"], "test", "split='test'.* without `train`"),
        (["train/cat/1.png"], "test", "split='test'.* with `train` only"),
    ],
    ids=["missing", "empty", "unreadable", "empty-class", "beside-classes", "no-train", "no-test"],
)
def test_a_folder_that_cannot_be_opened_is_refused(tmp_path, files, split, received):
    folder = tmp_path / "images"
    for name in files or []:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not an image")
    with pytest.raises(ValueError, match=received.format(folder)):
        open_source(f"folder:{folder}", split)


# What is no file, links, and folders that are locked


def names_of(source, root):
    return [os.path.relpath(path, root) for path in source.files]


def test_pipes_sockets_and_devices_are_skipped_and_logged(tmp_path, caplog):
    pixels = save(tmp_path / "cat" / "b.png")
    os.mkfifo(tmp_path / "cat" / "a.png")
    os.symlink(tmp_path / "cat" / "a.png", tmp_path / "cat" / "c.png")
    os.symlink("/dev/zero", tmp_path / "cat" / "d.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "cat" / "e.png"))  # whose names may not be long
        with time_limit(20):
            source = open_source(f"folder:{tmp_path}", cache=True)
            (example,) = read(source)
    np.testing.assert_array_equal(example["image"], pixels)
    assert (
        "4 pipes, sockets or devices, which are no files, " in caplog.text
        and str(tmp_path / "cat" / "a.png") in caplog.text
    )


def test_folder_is_read_once_however_many_links_lead_to_it(tmp_path, caplog):
    root = tmp_path / "images"
    for name in ("bee/1.png", "cat/2.png", "cat/deeper/3.png"):
        save(root / name)
    save(tmp_path / "outside" / "4.png")
    os.symlink(root / "bee", root / "ant")  # a class that is another one
    os.symlink(root, root / "cat" / "loop")
    os.symlink(tmp_path / "outside", root / "cat" / "b")
    os.symlink(tmp_path / "outside", root / "cat" / "a")
    os.symlink(tmp_path / "nothing", root / "cat" / "5.png")
    with time_limit(20):
        source = open_source(f"folder:{root}")
    assert source.class_names == ("bee", "cat")
    assert names_of(source, root) == ["bee/1.png", "cat/2.png", "cat/5.png", "cat/a/4.png", "cat/deeper/3.png"]
    assert source.labels().tolist() == [0, 1, 1, 1, 1]
    note = "3 links lead to folders that are read already, and are not read again, the first one: "
    assert f"{note}{root}/ant" in caplog.text


def test_names_with_odd_characters_are_read(tmp_path):
    odd = tmp_path / "a\nb **c** \x1b[31m"
    save(odd / "1\n.png")
    source = open_source(f"folder:{tmp_path}", strict=True)
    assert source.class_names == (odd.name,) and len(read(source)) == 1


OPEN = """
import sys
from keras_moco.data import open_source
for name in sys.argv[1:]:
    try:
        open_source(name)
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_unreadable_folder_is_named_with_the_reason(tmp_path):
    names, locked = [], []
    for number, folder in enumerate((".", "cat", "cat/deeper", "cat")):
        root = tmp_path / f"{number}"
        for name in ("bee/1.png", "cat/2.png", "cat/deeper/3.png"):
            save(root / name)
        names.append(f"folder:{root}")
        locked.append(root / folder)
    names[-1] = f"tfrecord:{tmp_path}/3/cat/*"
    for folder in locked:
        folder.chmod(0)
    command = [sys.executable, "-c", OPEN, *names]
    if os.access(locked[0], os.R_OK):  # as root may, whatever the permissions, unless it gives that up
        command = ["setpriv", "--bounding-set=-all", *command]
        if subprocess.run(["setpriv", "--bounding-set=-all", "true"], capture_output=True).returncode:
            pytest.skip("giving up the rights of root is not permitted")
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    for folder in locked:
        folder.chmod(0o755)
    said = done.stdout.splitlines()
    assert len(said) == len(locked), done.stderr
    for folder, line in zip(locked, said, strict=True):
        assert f"Received: {folder}, of which the operating system says: Permission denied. " in line


def test_digests_notice_changed_names_classes_and_sizes(tmp_path):
    root = tmp_path / "images"
    for name in ("bee/1.png", "cat/2.png", "cat/3.png"):
        save(root / name)
    before = open_source(f"folder:{root}").digests
    shutil.copytree(root, tmp_path / "moved")
    assert differences(before, open_source(f"folder:{tmp_path}/moved").digests) == []
    save(root / "cat" / "2.png", size=(30, 20))
    assert differences(before, open_source(f"folder:{root}").digests) == ["sizes of the files"]
    shutil.rmtree(root)
    shutil.copytree(tmp_path / "moved", root)
    (root / "cat" / "2.png").rename(root / "bee" / "2.png")
    assert differences(before, open_source(f"folder:{root}").digests) == ["names of the files", "classes"]


def test_names_other_than_utf8_are_read_and_escaped_in_messages(tmp_path):
    names = [b"caf\xe9.png", b"x\xff.png"]
    pixels = save(tmp_path / "a.png")
    for name in names:
        shutil.copy(tmp_path / "a.png", os.path.join(os.fsencode(tmp_path), name))
    (tmp_path / "a.png").unlink()
    source = open_source(f"folder:{tmp_path}", max_bad_fraction=0.5)
    assert [os.path.basename(os.fsencode(file)) for file in source.files] == names and source.digests
    os.truncate(source.files[1], 0)
    (found,) = read(source)
    np.testing.assert_array_equal(found["image"], pixels)
    assert r"/x\udcff.png (an empty file)" in source.bad.summary()
    np.testing.assert_array_equal(read_images(source.files[:1], 5, 3).shape, (1, 5, 5, 3))
