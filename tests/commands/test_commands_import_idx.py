"""The command that converts IDX files to a TensorFlow Datasets data set."""

import gzip
import os
import struct

import numpy as np
import pytest

from keras_moco.commands.import_idx import main
from keras_moco.data import open_source, tfds
from tests.data.written import read, time_limit

SHAPES = {"train": (7, 5, 4), "t10k": (3, 5, 4)}


def write_idx(path, array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def idx(tmp_path):
    """A folder of IDX files, and the arrays in them."""
    folder = tmp_path / "idx"
    folder.mkdir()
    arrays = {}
    for prefix, shape in SHAPES.items():
        images = np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")
        labels = np.arange(shape[0], dtype="uint8") % 3
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels.idx1-ubyte", labels)
        arrays[prefix] = images, labels
    return folder, arrays


def run(folder, data_dir, *more, name="tiny_set"):
    return main([str(folder), "--name", name, "--data_dir", str(data_dir), *more])


def test_imported_images_come_back_bit_for_bit_and_in_the_same_order(idx, tmp_path, monkeypatch):
    folder, arrays = idx
    assert run(folder, tmp_path / "tfds", "--class_names", "cat, dog,bird") == 0
    for split, in_memory in (("train", True), ("train", False), ("test", True)):
        monkeypatch.setattr(tfds, "MEMORY_BYTES", 1e6 * in_memory)
        source = open_source("tfds:tiny_set", split, data_dir=tmp_path / "tfds")
        assert source.image_shape == (5, 4, 1) and bool(source.arrays) == in_memory
        assert source.class_names == ("cat", "dog", "bird")
        images, labels = arrays[{"train": "train", "test": "t10k"}[split]]
        for example, image, label in zip(read(source), images, labels, strict=True):
            np.testing.assert_array_equal(example["image"][..., 0], image)
            assert example["label"] == label


def test_a_name_of_tfds_opens_the_imported_set(idx, tmp_path):
    import tensorflow_datasets as tfds

    folder, _ = idx
    images = np.random.default_rng(1).integers(0, 256, (7, 28, 28), dtype="uint8")
    for prefix in SHAPES:
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images[: SHAPES[prefix][0]])
    assert run(folder, tmp_path, name="fashion_mnist") == 0
    source = open_source("tfds:fashion_mnist", data_dir=tmp_path)
    assert source.num_examples == 7 and source.num_classes == 10 and source.class_names[9] == "Ankle boot"
    loaded = tfds.load("fashion_mnist", split="train", data_dir=tmp_path, download=False)
    np.testing.assert_array_equal([example["image"][..., 0] for example in loaded.as_numpy_iterator()], images)


def test_unnamed_classes_are_numbered_and_wrong_names_are_refused(idx, tmp_path, capsys):
    assert run(idx[0], tmp_path) == 0
    assert open_source("tfds:tiny_set", data_dir=tmp_path).class_names == ("0", "1", "2")
    assert run(idx[0], tmp_path) == 2
    assert f"Received: {tmp_path / 'tiny_set'}, which exists" in capsys.readouterr().err
    assert run(idx[0], tmp_path, name="Tiny-Set") == 2
    assert "name='Tiny-Set'" in capsys.readouterr().err
    for names in ("cat,dog", "cat,dog,dog"):
        assert run(idx[0], tmp_path / "other", "--class_names", names) == 2
        assert f"0 to 2. Received: {names.count(',') + 1} names, {names}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, change, received",
    [
        ("train-labels.idx1-ubyte", None, "train-labels-idx1-ubyte.gz, "),
        ("train-labels.idx1-ubyte", lambda content: b"\0\0\x08\x03" + content[4:], "starts with 00000803"),
        ("train-labels.idx1-ubyte", lambda content: content[:-1], "7 for shape (7,)"),
        ("t10k-labels.idx1-ubyte", lambda content: b"\0\0\x08\x01\0\0\0\x01\0", "3 images, 1 labels"),
        ("train-images-idx3-ubyte.gz", lambda content: content[:-12], "whose gzip stream is broken"),
    ],
    ids=["missing", "magic", "truncated", "counts", "gzip"],
)
def test_damaged_files_are_refused(idx, tmp_path, capsys, name, change, received):
    path = idx[0] / name
    content = path.read_bytes()
    path.unlink()
    if change:
        path.write_bytes(change(content))
    assert run(idx[0], tmp_path) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("import-idx: ") and err.count("\n") == 1
    assert received in err and str(idx[0]) in err
    assert not (tmp_path / "tiny_set").exists()


def test_a_pipe_in_place_of_a_file_is_refused_at_once(idx, tmp_path, capsys):
    path = idx[0] / "train-images-idx3-ubyte.gz"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with time_limit(20):
        assert run(idx[0], tmp_path) == 2
    assert f"Received: {path}, a named pipe. " in capsys.readouterr().err


def test_the_command_has_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--class_names" in capsys.readouterr().out
