"""TensorFlow Datasets as a source."""

import os
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.data import open_source, subset, tfds
from keras_moco.data.tfds_files import encoded_examples, record_files
from tests.data.written import store_tfds, time_limit


def images(count, channels=3, dtype="uint8"):
    return [np.full((2 + row, 3, channels), row, dtype) for row in range(count)]


def store_labelled(data_dir, name="some", **splits):
    """Splits are `(label, number of images)`."""
    rows = {split: [(image, label) for image in images(count)] for split, (label, count) in splits.items()}
    store_tfds(data_dir, name, rows, classes=2)


@pytest.mark.slow
def test_images_of_different_sizes_stream_in_an_order_that_depends_on_its_seed_alone(tmp_path):
    store_tfds(tmp_path, "sizes", {"train": images(20)})
    source = open_source("tfds:sizes", data_dir=tmp_path)
    assert source.image_shape == (None, None, 3)
    examples = list(source.examples().as_numpy_iterator())
    assert [example["index"] for example in examples] == list(range(20))
    fixed = [example["image"] for example in examples]
    assert sorted(len(image) for image in fixed) == list(range(2, 22))
    assert source.class_names is None and {int(example["label"]) for example in examples} == {-1}
    orders = {}
    for global_seed, seed in ((0, 0), (1, 0), (1, 1)):
        tf.random.set_seed(global_seed)
        # As in an epoch of `pretrain_dataset`, where the seed is a symbolic tensor.
        epochs = tf.data.Dataset.from_tensors(tf.constant(seed, tf.int64)).flat_map(source.examples)
        orders[global_seed, seed] = [int(example["index"]) for example in epochs]
    shuffled = list(source.examples(0).as_numpy_iterator())
    for example in shuffled:
        np.testing.assert_array_equal(example["image"], fixed[example["index"]])
    assert orders[0, 0] == orders[1, 0] == [int(example["index"]) for example in shuffled] != orders[1, 1]
    assert sorted(orders[0, 0]) == list(range(20)) != orders[0, 0]


@pytest.mark.parametrize("test, expected", [((1, 4), 4), ((-1, 4), 3)], ids=["labelled", "unlabelled, as ImageNet's"])
def test_test_split_is_the_labelled_split_other_than_train(tmp_path, test, expected):
    store_labelled(tmp_path, train=(0, 2), validation=(1, 3), test=test)
    assert open_source("tfds:some", "test", data_dir=tmp_path).num_examples == expected
    assert open_source("tfds:some", "validation", data_dir=tmp_path).num_examples == 3
    with pytest.raises(ValueError, match="`split` of tfds:some .*train, .*split='other'"):
        open_source("tfds:some", "other", data_dir=tmp_path)


def test_sixteen_bit_images_are_refused(tmp_path):
    store_tfds(tmp_path, "wide", {"train": images(2, 1, "uint16")}, channels=1, dtype=np.uint16)
    with pytest.raises(ValueError, match="8-bit .*Received: tfds:wide"):
        open_source("tfds:wide", data_dir=tmp_path)


def test_a_set_that_is_not_prepared_is_refused_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_online", lambda: False)
    store_labelled(tmp_path, train=(0, 2))
    for name, hint in (
        ("cifar11", "cifar10"),
        ("qqqqqqqqqqqqqqqq", "{}: some"),  # like no other: what is prepared
        ("imagenette/nothing", "full-size"),
        ("cifar10", "not prepared in {}, and there is no internet here"),
        ("mnist", "keras-moco import-idx"),
        ("imagenet2012", "{}/downloads/manual: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"),
    ):
        with pytest.raises(ValueError, match=f"Received: tfds:{name}.*{re.escape(hint.format(tmp_path))}"):
            open_source(f"tfds:{name}", data_dir=tmp_path)


def test_failed_download_was_announced_and_ends_in_one_sentence(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(tfds, "_online", lambda: True)
    monkeypatch.setattr(tfds.logging, "warning", lambda text, *args: said.append(text % args))

    def fail(builder, **_):
        raise ConnectionError("connection\n  lost")

    monkeypatch.setattr(tfds.tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match="ConnectionError: connection lost"):
        open_source("tfds:cifar10", data_dir=tmp_path)
    assert "tfds:cifar10" in said[-1] and str(tmp_path) in said[-1]


# Half written, or damaged


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    store_labelled(folder, train=(1, 40))
    return folder


@pytest.fixture
def copy(stored, tmp_path):
    """The folder of a set that a test may write to."""
    return shutil.copytree(stored, tmp_path / "sets") / "some" / "1.0.0"


FILES = ("dataset_info.json", "features.json", "some-train.tfrecord-00000-of-00001")


@pytest.mark.parametrize(
    "file, content, received",
    [
        (FILES[0], None, "where dataset_info.json cannot be opened: No such file or directory"),
        (FILES[0], b'{"name": "so', "of which TFDS says: Failed to load JSON: Unterminated string"),
        (FILES[1], None, "where features.json cannot be opened: No such file or directory"),
        (FILES[1], b"\xff\xfe", "of which TFDS says: 'utf-8' codec can't decode byte 0xff"),
        (FILES[1], b"[" * 100_000, "of which TFDS says: maximum recursion depth exceeded"),
        (FILES[2], None, FILES[2] + " of tfds:some, No such file or directory"),
        (FILES[2], b"", "whose split train holds 0 bytes where dataset_info.json says "),
    ],
)
def test_incomplete_set_is_refused_with_its_folder(copy, file, content, received):
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(content)
    with pytest.raises(ValueError) as error:
        open_source("tfds:some", data_dir=copy.parents[1])
    said = str(error.value)
    assert received in said.partition("Received: ")[2]
    assert str(copy) in said and said.endswith(", and prepare the set again.")


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
def test_a_damaged_record_is_one_unreadable_image(copy):
    expected = read_encoded(copy)[1]
    flip_a_byte(copy / FILES[2])
    source, found = read_encoded(copy, max_bad_fraction=0.5)
    labels, rows = source.known_labels()
    ((lost, said),) = source.bad.met.items()
    assert f"record {lost} of {copy / FILES[2]}: its checksum is wrong" in said
    expected[lost] = {"image": b"", "label": -1, "index": lost}
    assert found == expected
    assert labels.tolist() == [1] * 39 and rows.tolist() == [row for row in range(40) if row != lost]


def read_encoded(copy, **settings):
    source = open_source("tfds:some", data_dir=copy.parents[1], **settings)
    return source, list(source.read(None).as_numpy_iterator())


@pytest.mark.parametrize("file", FILES[:2])
def test_description_that_is_a_pipe_is_refused_at_once(copy, file):
    (copy / file).unlink()
    os.mkfifo(copy / file)
    with time_limit(20), pytest.raises(ValueError, match=f"Received: {copy / file}, a named pipe. Delete {copy}, "):
        open_source("tfds:some", data_dir=copy.parents[1])


def test_a_damaged_record_among_images_in_memory_is_refused(tmp_path):
    store_tfds(tmp_path, "some", {"train": [(np.full((8, 8, 3), n, "uint8"), 1) for n in range(20)]}, classes=2)
    flip_a_byte(tmp_path / "some" / "1.0.0" / FILES[2])
    builder = tfds._prepared_builder("some", str(tmp_path))
    records = record_files(builder, "train")
    examples = encoded_examples(builder, "train", records)
    arrays = tfds._decoded_once(lambda: examples, 20, (8, 8, 3), records, "Do so.")
    with pytest.raises(ValueError, match=r"Received: record \d+ of .*: its checksum is wrong\. Do so\."):
        arrays()


@pytest.mark.parametrize("side", [None, 5], ids=["streamed", "in memory"])
def test_names_of_files_are_known_by_index(tmp_path, side):
    public = pytest.importorskip("tensorflow_datasets")
    names = [f"n{number:02}.JPEG" for number in range(20)]
    rows = [(name, {"image": np.full((5, 5, 3), 10 * n, "uint8"), "file_name": name}) for n, name in enumerate(names)]
    image = public.features.Image(shape=(side, side, 3), encoding_format="png")
    public.dataset_builders.store_as_tfds_dataset(
        name="some",
        version="1.0.0",
        data_dir=tmp_path,
        split_datasets={"train": rows},
        features=public.features.FeaturesDict({"image": image, "file_name": public.features.Text()}),
    )
    source = open_source("tfds:some", data_dir=tmp_path)
    for part in (source, subset(source, range(7, 12))):
        seen = list(part.examples().as_numpy_iterator())
        levels = {int(example["index"]): example["image"][0, 0, 0] // 10 for example in seen}
        assert part.files_of(levels) == [names[level] for level in levels.values()]


@pytest.mark.slow
def test_many_files_are_read_in_the_order_of_tfds(tmp_path):
    files = tfds.tfds.download.DownloadConfig(num_shards=19)
    for name, ordered in (("loose", False), ("ordered", True)):
        rows = {"train": [(np.full((4, 4, 3), number % 256, "uint8"), number % 2) for number in range(400)]}
        store_tfds(tmp_path, name, rows, 3, 2, "png", {"download_config": files, "disable_shuffling": ordered})
        builder = tfds._prepared_builder(name, str(tmp_path))
        records = record_files(builder, "train")
        ours, theirs = (
            [example["image"] for example in encoded_examples(builder, "train", which).as_numpy_iterator()]
            for which in (records, None)
        )
        assert len(records.paths) == 19 and ours == theirs
