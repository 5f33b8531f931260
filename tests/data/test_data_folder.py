"""A folder of image files as a source; damaged and odd files have tests of their own."""

import numpy as np
import pytest
from PIL import Image

from keras_moco.data import open_source, plain_read_errors
from tests.data.written import read


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
    (tmp_path / "b.webp").write_bytes(b"RIFF")  # an ending that is not read, which is said
    pixels = [save(tmp_path / f"{name}.png", seed=name) for name in range(9)]
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names is None and source.num_classes == 0
    assert "1 files" in caplog.text and str(tmp_path / "b.webp") in caplog.text
    shuffled = read(source, seed=3)
    order = [example["index"] for example in shuffled]
    assert sorted(order) == list(range(9)) and order != list(range(9))
    for example in shuffled:
        assert example["label"] == -1
        np.testing.assert_array_equal(example["image"], pixels[example["index"]])


def test_gray_first_makes_all_gray_behind_a_broken_file(tmp_path):
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
    np.testing.assert_array_equal(images[3], with_alpha[..., 0])


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
        (["a.png", "b.png"], "train", r"{}/a\.png \(no JPEG.*none of the first 2 files"),
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
