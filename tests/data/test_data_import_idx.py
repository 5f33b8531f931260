import gzip
import struct

import numpy as np
import pytest

from keras_moco.data import open_source
from keras_moco.data.import_idx import main

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
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, shape in SHAPES.items():
        images = rng.integers(0, 256, shape, dtype="uint8")
        labels = np.arange(shape[0], dtype="uint8") % 3
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels.idx1-ubyte", labels)
        arrays[prefix] = images, labels
    return folder, arrays


def run(folder, data_dir, *more, name="tiny_set"):
    return main([str(folder), "--name", name, "--data_dir", str(data_dir), *more])


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_was_imported_comes_back_bit_for_bit_and_in_the_same_order(idx, tmp_path, monkeypatch, in_memory):
    folder, arrays = idx
    assert run(folder, tmp_path / "tfds", "--class_names", "cat, dog,bird") == 0
    from keras_moco.data import tfds_source

    if not in_memory:
        monkeypatch.setattr(tfds_source, "MEMORY_BYTES", 0)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        source = open_source("tfds:tiny_set", split, data_dir=tmp_path / "tfds")
        assert (source.num_examples, source.image_shape) == (SHAPES[prefix][0], (5, 4, 1))
        assert source.class_names == ("cat", "dog", "bird")
        images, labels = arrays[prefix]
        for seed in (None, 1):
            examples = list(source.examples(seed).as_numpy_iterator())
            order = [example["index"] for example in examples]
            assert sorted(order) == list(range(len(images)))
            if seed is None or split == "train":  # three test images may well be shuffled into their own order
                assert (order == sorted(order)) == (seed is None)
            np.testing.assert_array_equal([example["image"][..., 0] for example in examples], images[order])
            np.testing.assert_array_equal([example["label"] for example in examples], labels[order])


def test_a_name_that_tfds_knows_too_opens_what_was_imported(idx, tmp_path):
    folder, _ = idx
    images = np.random.default_rng(1).integers(0, 256, (7, 28, 28), dtype="uint8")
    for prefix in SHAPES:
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images[: SHAPES[prefix][0]])
    assert run(folder, tmp_path, name="fashion_mnist") == 0
    source = open_source("tfds:fashion_mnist", data_dir=tmp_path)
    assert source.num_examples == 7 and source.num_classes == 10 and source.class_names[9] == "Ankle boot"
    import tensorflow_datasets as tfds

    loaded = tfds.load("fashion_mnist", split="train", data_dir=tmp_path, download=False)
    received = [example["image"][..., 0] for example in loaded.as_numpy_iterator()]
    np.testing.assert_array_equal(received, images)


def test_unnamed_classes_are_numbered(idx, tmp_path):
    assert run(idx[0], tmp_path) == 0
    assert open_source("tfds:tiny_set", data_dir=tmp_path).class_names == ("0", "1", "2")


def test_an_existing_data_set_is_not_overwritten(idx, tmp_path, capsys):
    (tmp_path / "tiny_set").mkdir()
    assert run(idx[0], tmp_path) == 2
    assert "must not hold the data set already" in capsys.readouterr().err


def damage(folder, case):
    path = folder / "train-labels.idx1-ubyte"
    content = path.read_bytes()
    if case == "missing":
        path.unlink()
    elif case == "magic":
        path.write_bytes(b"\0\0\x08\x03" + content[4:])
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "truncated":
        path.write_bytes(content[:-1])
    elif case == "counts":
        write_idx(path, np.zeros(6, "uint8"))
    elif case == "gzip":
        path = folder / "train-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:-12])
    elif case == "not gzip":
        (folder / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")


@pytest.mark.parametrize(
    "case, message",
    [
        (
            "missing",
            "must hold one of train-labels-idx1-ubyte.gz, train-labels-idx1-ubyte, train-labels.idx1",
        ),
        ("magic", "must begin with the magic number 0x00000801"),
        ("empty", "which begins with nothing"),
        ("truncated", "as many bytes as its header says, 7 for shape (7,)"),
        ("counts", "Received: 7 images, 6 labels"),
        ("gzip", "whose gzip stream is broken"),
        ("not gzip", "whose gzip stream is broken"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(idx, tmp_path, capsys, case, message):
    damage(idx[0], case)
    assert run(idx[0], tmp_path) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("import_idx: ") and message in captured.err and captured.out == ""
    assert not (tmp_path / "tiny_set").exists()


@pytest.mark.parametrize("names", ["cat,dog", "cat,dog,dog"])
def test_class_names_must_name_every_label(idx, tmp_path, capsys, names):
    assert run(idx[0], tmp_path, "--class_names", names) == 2
    assert "must be distinct and name every label, 0 to 2" in capsys.readouterr().err


def test_a_name_tfds_could_not_open_is_refused(idx, tmp_path, capsys):
    assert run(idx[0], tmp_path, name="Tiny-Set") == 2
    assert "must be lower-case letters" in capsys.readouterr().err


def test_the_command_has_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--class_names" in capsys.readouterr().out
