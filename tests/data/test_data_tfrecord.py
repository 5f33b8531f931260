"""TFRecord files, written by TensorFlow's own writer and read back."""

import bz2
import dataclasses
import gzip
import inspect
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.commands.evaluate import evaluate
from keras_moco.config import Config, EvaluationConfig
from keras_moco.data import evaluation_dataset, open_source, plain_read_errors, subset, tfrecord
from keras_moco.data.crc32c import checksum_of
from keras_moco.data.identity import differences
from keras_moco.evaluation import fine_tune, linear_sweep_on_images
from tests.batches import take
from tests.data.written import encoded, read, record, time_limit, write_records
from tests.tiny import tiny_config
from tests.whole_runs import pretrain

NAMES = ("ant", "bee", "cat")
SIZES = {"00000-of-00002": 6, "00001-of-00002": 9}  # records of the two shards
# Files are read in turn, one record each.
ORDER = [(shard, number) for number in range(9) for shard, size in SIZES.items() if number < size]


def pixels_of(shard, number):
    seed = 100 * list(SIZES).index(shard) + number
    y, x = np.mgrid[: 20 + number, : 30 - number] / 30  # smooth, so that JPEG decoders agree
    noise = np.random.default_rng(seed).integers(0, 200, 3)
    return (np.stack([x + y] * 3, axis=-1) * 25 + noise).astype("uint8")


def label_of(shard, number):
    return (number + list(SIZES).index(shard)) % len(NAMES)


def write_shards(folder, labelled=True, names=True, compression=("", ""), **features):
    """The even records are JPEGs, the odd ones PNGs."""
    folder.mkdir(exist_ok=True)
    for (shard, size), how in zip(SIZES.items(), compression, strict=True):
        records = []
        for number in range(size):
            kind, options = ("png", {}) if number % 2 else ("jpeg", {"quality": 95})
            image = encoded(pixels_of(shard, number), kind, **options)
            records.append(record(image, label_of(shard, number) if labelled else None, **features))
        write_records(folder / f"train-{shard}", records, how)
    if names:
        (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")
    return f"tfrecord:{folder}/train-*"


PNG = encoded(pixels_of(*ORDER[0]), "png")


def assert_holds(example, place):
    expected = pixels_of(*place).astype(int)
    np.testing.assert_allclose(example["image"].astype(int), expected, atol=0 if place[1] % 2 else 3)


def test_images_labels_and_indices_are_those_written(tmp_path):
    source = open_source(write_shards(tmp_path))
    assert (source.num_examples, source.image_shape, source.class_names) == (15, (None, None, 3), NAMES)
    for index, (found, place) in enumerate(zip(read(source), ORDER, strict=True)):
        assert_holds(found, place)
        assert (found["index"], found["label"]) == (index, label_of(*place))


def test_names_of_files_in_the_records_are_known_by_index(tmp_path):
    assert open_source(write_shards(tmp_path)).files_of([0, 3]) == [None, None]
    for shard, size in SIZES.items():
        records = [tf.train.Example.FromString(record(PNG)) for _ in range(size)]
        for number, each in enumerate(records[:-1]):  # the last one has no name
            each.features.feature["image/filename"].bytes_list.value.append(
                b"caf\xe9_%s_%d" % (shard[4:5].encode(), number)
            )
        write_records(tmp_path / f"train-{shard}", [each.SerializeToString() for each in records])
    source, indices = open_source(f"tfrecord:{tmp_path}/train-*"), [14, 3, 0, 11]
    names = [f"caf\udce9_{list(SIZES).index(shard)}_{number}" for shard, number in map(ORDER.__getitem__, indices)]
    assert source.files_of(indices) == [None, *names[1:]]
    assert subset(source, [11, 3, 0]).files_of([2, 0]) == [names[3], names[2]]


@pytest.mark.parametrize("names, labelled", [(False, True), (True, False)], ids=["no-names", "no-labels"])
def test_without_labels_or_names_of_classes_images_are_unlabelled(tmp_path, names, labelled):
    source = open_source(write_shards(tmp_path, labelled, names))
    assert bool(source.class_names) == names
    assert {int(found["label"]) for found in read(source)} == {-1}


def test_a_shuffle_is_a_permutation_that_keeps_indices(tmp_path):
    source = open_source(write_shards(tmp_path))
    orders = []
    for seed in (1, 2):
        examples = read(source, seed)
        orders.append([int(found["index"]) for found in examples])
        for found in examples:
            assert_holds(found, ORDER[found["index"]])
            assert found["label"] == label_of(*ORDER[found["index"]])
    assert [sorted(order) for order in orders] == [list(range(15))] * 2
    assert orders[0] != orders[1] and list(range(15)) not in orders


def test_the_split_in_a_pattern_stands_for_the_words_of_a_split(tmp_path):
    write_shards(tmp_path)
    pattern = f"tfrecord:{tmp_path}/{{split}}-*"
    for word in ("test", "validation", "val"):
        write_records(tmp_path / f"{word}-0", [record(PNG, 2)])
        assert open_source(pattern).num_examples == 15
        test = open_source(pattern, "test")
        assert (test.num_examples, test.split, test.class_names) == (1, "test", NAMES)
        (tmp_path / f"{word}-0").unlink()


def test_a_damaged_image_is_skipped_and_described(tmp_path):
    write_records(tmp_path / "a", [record(image) for image in (PNG, b"", PNG[:-60], PNG)] + [record()])
    pattern = f"tfrecord:{tmp_path}/a"
    source = open_source(pattern, max_bad_fraction=0.6)
    assert [found["index"] for found in read(source)] == [0, 3]
    assert source.bad.summary().startswith("3 of 5 ")
    reasons = {1: "without an image", 2: "a damaged, incomplete or too large PNG", 4: "without an image"}
    for index, reason in reasons.items():
        assert f"record {index} of {pattern} (train; record {index} of {tmp_path}/a: {reason}" in source.bad.summary()
    with pytest.raises(ValueError) as error, plain_read_errors():
        read(open_source(pattern, strict=True))
    assert f"Received: record 1 of {pattern} (train; record 1 of {tmp_path}/a: without an image" in str(error.value)


def test_a_damaged_image_is_named_by_the_file_it_was_made_from_and_by_its_place(tmp_path):
    images = [PNG, PNG[:-60], PNG, PNG]
    for shard in range(2):
        records = []
        for number, image in list(enumerate(images))[shard::2]:
            example = tf.train.Example.FromString(record(image))
            example.features.feature["image/filename"].bytes_list.value.append(b"photos/%d.png" % number)
            records.append(example.SerializeToString())
        write_records(tmp_path / f"a-{shard}", records, "GZIP" if shard else "")
    source = open_source(f"tfrecord:{tmp_path}/a-*", max_bad_fraction=0.6)
    read(source)
    said = f"photos/1.png, record 0 of {tmp_path}/a-1: a damaged, incomplete or too large PNG)"
    assert source.bad.met[1].endswith(f"; {said}")
    assert subset(source, [1, 3]).place_of(0) == f"record 0 of {tmp_path}/a-1"


# What cannot be opened.


def assert_refused(name, received, split="train"):
    with pytest.raises(ValueError) as error:
        open_source(name, split)
    assert f"Received: {received}" in str(error.value)


def test_a_pattern_without_files_or_without_the_split_is_refused(tmp_path):
    name = f"tfrecord:{tmp_path}/train-*"
    assert_refused(name, f"{name!r}, split='train', which matches none")
    write_shards(tmp_path)
    assert_refused(name, repr(name), split="test")
    assert_refused(f"tfrecord:{tmp_path}/{{split}}-*", "split='unlabelled'", split="unlabelled")


def test_records_without_images_are_refused(tmp_path):
    for number, (records, received) in enumerate(
        (
            ([record(PNG, feature="image")] * 3, "without a readable image in `image/encoded`"),
            ([b"no example at all"], "whose first records cannot be read: "),
            ([], "1 files without any"),
        )
    ):
        write_records(tmp_path / f"{number}", records)
        assert_refused(f"tfrecord:{tmp_path}/{number}", f"tfrecord:{tmp_path}/{number}, {received}")


def test_truncated_compressed_or_damaged_file_is_refused(tmp_path):
    name = write_shards(tmp_path)
    path = tmp_path / "train-00001-of-00002"
    data = path.read_bytes()
    for lost, number in ((1, 8), (30, 8), (len(data) - 5, 0)):
        path.write_bytes(data[: len(data) - lost])
        assert_refused(name, f"{path}, which ends inside record {number}")
    path.write_bytes(bz2.compress(data))
    assert_refused(name, f"{path}, which is damaged at the length of record 0")
    changed = bytearray(data)
    changed[begin_of(data, 4) + 1] ^= 1  # of its length
    path.write_bytes(changed)
    assert_refused(name, f"{path}, which is damaged at the length of record 4")


# Compressed files.


@pytest.mark.parametrize("compression", [("GZIP", "GZIP"), ("", "ZLIB")], ids=["gzip", "plain and zlib"])
def test_compressed_files_hold_what_the_plain_ones_do(tmp_path, compression):
    plain = open_source(write_shards(tmp_path / "plain"))
    source = open_source(write_shards(tmp_path / "compressed", compression=compression))
    assert source.buffer == plain.buffer
    for index, (found, place) in enumerate(zip(read(source), ORDER, strict=True)):
        assert_holds(found, place)
        assert (found["index"], found["label"]) == (index, label_of(*place))


@pytest.mark.parametrize("size", [0x8B1F, 0x9C78])
def test_a_plain_file_whose_first_length_looks_compressed_is_plain(tmp_path, size):
    padding = size - len(record(PNG + bytes(size // 2))) + size // 2
    write_records(tmp_path / "a", [record(PNG + bytes(padding))] * 2)
    assert (tmp_path / "a").read_bytes()[:2] in (b"\x1f\x8b", b"\x78\x9c")
    assert len(read(open_source(f"tfrecord:{tmp_path}/a"))) == 2


def test_truncated_or_damaged_compressed_file_is_refused(tmp_path):
    name = write_shards(tmp_path, compression=("GZIP", "ZLIB"))
    for path in (tmp_path / f"train-{shard}" for shard in SIZES):
        data = path.read_bytes()
        for lost in (1, 30, len(data) - 20):
            path.write_bytes(data[: len(data) - lost])
            assert_refused(name, f"{path}, which cannot be decompressed, since its compressed content is incomplete")
        path.write_bytes(data[:-4] + bytes(4))
        assert_refused(name, f"{path}, which cannot be decompressed, since its compressed content is damaged: ")
        path.write_bytes(data)
    whole = gzip.decompress((tmp_path / "train-00000-of-00002").read_bytes())
    (tmp_path / "train-00000-of-00002").write_bytes(gzip.compress(whole[:-5]))
    assert_refused(name, f"{tmp_path}/train-00000-of-00002, which ends inside record 5")


def test_compressed_file_that_is_damaged_during_a_run_stops_it(tmp_path):
    source = open_source(write_shards(tmp_path, compression=("GZIP", "")))
    path = tmp_path / "train-00000-of-00002"
    path.write_bytes(path.read_bytes()[:-300])
    with (
        pytest.raises(ValueError, match=r"\AA compressed TFRecord .*train-00000-of-00002, which now cannot be .*\Z"),
        plain_read_errors(),
    ):
        read(source)


# Features of other names.


def test_features_of_other_names_are_read(tmp_path):
    name = write_shards(tmp_path, feature="jpg", label_feature="label")
    source = open_source(name, tfrecord_image_feature="jpg", tfrecord_label_feature="label")
    for found, place in zip(read(source), ORDER, strict=True):
        assert_holds(found, place)
        assert found["label"] == label_of(*place)


def example(**features):
    """A serialised `tf.train.Example` of bytes, whole numbers and floats."""
    built = {}
    for name, values in features.items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0])]
        lists = {"bytes_list": tf.train.BytesList, "int64_list": tf.train.Int64List, "float_list": tf.train.FloatList}
        built[name] = tf.train.Feature(**{kind: lists[kind](value=values)})
    return tf.train.Example(features=tf.train.Features(feature=built)).SerializeToString()


def test_records_without_the_image_feature_are_refused_with_those_they_have(tmp_path):
    write_records(tmp_path / "a", [example(name=[b"a.png"], png=[PNG], size=[20, 30], where=[0.5])])
    assert_refused(
        f"tfrecord:{tmp_path}/a",
        f"tfrecord:{tmp_path}/a, without a readable image in `image/encoded` of its first records; the first one has "
        "`name` bytes[1], `png` bytes[1], `size` int64[2], `where` float[1]. Give --tfrecord_image_feature=png.",
    )


def test_labels_of_another_name_or_kind_are_refused_with_the_features_of_a_record(tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    name = f"tfrecord:{tmp_path}/a"
    write_records(tmp_path / "a", [example(image=[PNG], size=[20], my_label=[1], box=[1, 2])])
    listed = f"{name}, with a first record that has `box` int64[2], `image` bytes[1], `my_label` int64[1], `size` int64"
    for label in ("box", "image", "unknown"):
        with pytest.raises(ValueError) as error:
            open_source(name, tfrecord_image_feature="image", tfrecord_label_feature=label)
        assert f"one int64 in the feature `{label}`" in str(error.value)
        assert f"Received: {listed}[1]. Give --tfrecord_label_feature=my_label." in str(error.value)
    source = open_source(name, tfrecord_image_feature="image", tfrecord_label_feature="my_label")
    assert source.labels().tolist() == [1]


def test_a_label_that_is_not_read_is_logged(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(tfrecord.logging, "warning", lambda text, *args: logged.append(text % args))
    name = write_shards(tmp_path, names=False)
    open_source(name, tfrecord_label_feature="label")
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    write_records(tmp_path / "a", [example(**{"image/encoded": [PNG], "size": [20], "my_class": [1]})])
    open_source(f"tfrecord:{tmp_path}/a")
    assert logged == [
        f"{name}: no names of classes in labels.txt beside the records, so `label` is not read",
        f"tfrecord:{tmp_path}/a: the first records have no `image/class/label`, so no label, but `image/encoded` "
        "bytes[1], `my_class` int64[1], `size` int64[1]. Give --tfrecord_label_feature=my_class.",
    ]


def test_default_features_are_those_of_a_run():
    parameters = inspect.signature(open_source).parameters
    for name in ("tfrecord_image_feature", "tfrecord_label_feature"):
        assert getattr(Config(), name) == parameters[name].default


@pytest.mark.slow
def test_evaluation_reads_the_features_of_its_run(tmp_path):
    name = write_shards(tmp_path / "images", feature="jpg", label_feature="label")
    settings = {"dataset": name, "tfrecord_image_feature": "jpg", "tfrecord_label_feature": "label", "channels": 3}
    config = tiny_config(tmp_path / "run", **settings, batch_size=8, queue_size=8, epochs=1, bn_splits=2)
    pretrain(dataclasses.replace(config, augment="moco_v1"))
    evaluate("measures", EvaluationConfig(workdir=config.workdir, split="train", batch_size=8))


# Damaged records.


def begin_of(data, number):
    """Where a record begins, by the lengths of those before."""
    place = 0
    for _ in range(number):
        place += 16 + int.from_bytes(data[place : place + 8], "little")
    return place


def damage(path, *numbers):
    data = bytearray(path.read_bytes())
    for number in numbers:
        data[begin_of(data, number) + 60] ^= 1  # of its data
    path.write_bytes(data)


@pytest.fixture(scope="module", params=["plain", "gzip"])
def damaged(tmp_path_factory, request):
    """The name of shards with records that are damaged, and one that is no example, and what is wrong by index."""
    folder = tmp_path_factory.mktemp("damaged")
    name = write_shards(folder)
    first, second = (folder / f"train-{shard}" for shard in SIZES)
    damage(first, 2)
    data = second.read_bytes()
    begin, end = begin_of(data, 3), begin_of(data, 4)
    text = b"no example at all".ljust(end - begin - 16)
    second.write_bytes(data[: begin + 12] + text + checksum_of(text) + data[end:])
    damage(second, 6)
    if request.param == "gzip":
        for path in (first, second):
            path.write_bytes(gzip.compress(path.read_bytes()))
    wrong = {
        (first, 2): "its checksum is wrong",
        (second, 3): "it is no `tf.train.Example` with the features of the others",
        (second, 6): "its checksum is wrong",
    }
    return name, {
        ORDER.index((path.name[6:], number)): f"; record {number} of {path}: {reason})"
        for (path, number), reason in wrong.items()
    }


def test_a_damaged_record_is_one_unreadable_image_and_shifts_no_other(damaged):
    name, wrong = damaged
    source = open_source(name, max_bad_fraction=0.5)
    others = [index for index in range(len(ORDER)) if index not in wrong]
    examples = list(source.read(tf.constant(1, tf.int64)).as_numpy_iterator())
    assert sorted(int(found["index"]) for found in examples) == list(range(len(ORDER)))
    for found in examples:
        index = int(found["index"])
        if index in wrong:
            assert (found["image"], found["label"]) == (b"", -1)
        else:
            pixels = tf.io.decode_image(found["image"]).numpy()
            assert_holds({"image": pixels}, ORDER[index])
            assert found["label"] == label_of(*ORDER[index])
    labels, rows = source.known_labels()
    assert rows.tolist() == others and labels.tolist() == [label_of(*ORDER[index]) for index in others]
    assert sorted(source.bad.met) == sorted(wrong)
    for index, reason in wrong.items():
        assert source.bad.met[index].endswith(reason)


@pytest.mark.slow
def test_damaged_record_is_neither_decoded_nor_chosen(damaged):
    name, wrong = damaged
    source = open_source(name, max_bad_fraction=0.5)
    others = [index for index in range(len(ORDER)) if index not in wrong]
    batch = take(evaluation_dataset(source, image_size=8, batch_size=4), -1)
    assert batch["index"].tolist() == others
    some = subset(source, [min(wrong), 13])
    assert [int(found["index"]) for found in read(some)] == [1]


@pytest.mark.slow
def test_classifiers_are_trained_without_damaged_records(damaged):
    source = open_source(damaged[0], max_bad_fraction=0.5)
    images = keras.Input((None, None, 3))
    backbone = keras.Model(images, keras.ops.mean(images, axis=(1, 2)) / 255)
    found = linear_sweep_on_images(backbone, source, source, 8, rates=(1.0, 3.0), epochs=1, batch_size=4)
    assert len(found.labels) == len(ORDER) - len(damaged[1])
    fine_tune(backbone, source, 8, epochs=1, batch_size=4)


@pytest.mark.parametrize("ends", [None, pytest.param(300, marks=pytest.mark.slow)], ids=["gone", "cut off"])
def test_records_of_a_file_lost_during_a_run_are_unreadable_images(tmp_path, ends):
    source = open_source(write_shards(tmp_path), max_bad_fraction=0.7)
    path = tmp_path / "train-00001-of-00002"
    if ends is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:ends])
    _, rows = source.known_labels()
    assert rows.tolist() == [n for n, place in enumerate(ORDER) if "00000-" in place[0]]
    assert source.bad.count == 9


def test_checksums_are_those_that_tensorflow_writes(tmp_path):
    for size in (0, 3, 255, 256, 257, 1000):
        data = np.random.default_rng(size).bytes(size)
        write_records(tmp_path / "one", [data])
        assert (tmp_path / "one").read_bytes()[-4:] == checksum_of(data)


def test_digests_depend_on_names_and_sizes_not_on_the_folder(tmp_path):
    source = open_source(write_shards(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert open_source(f"tfrecord:{tmp_path}/b/train-*").digests == source.digests
    (tmp_path / "b" / "labels.txt").write_text("\n".join(("ant", "bee", "cow")))
    changed = open_source(f"tfrecord:{tmp_path}/b/train-*").digests
    assert differences(source.digests, changed) == ["names of the classes"]


@pytest.mark.parametrize("name", ["train-2", "labels.txt"])
def test_pipes_and_other_non_files_are_refused_at_once(tmp_path, name):
    pattern = write_shards(tmp_path, names=False)
    os.mkfifo(tmp_path / name)
    with time_limit(20):
        assert_refused(pattern, f"{tmp_path / name}, a named pipe. ")


def test_class_names_that_are_no_text_are_refused(tmp_path):
    pattern = write_shards(tmp_path, names=False)
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe")
    assert_refused(pattern, f"{tmp_path}/labels.txt, 'utf-8' codec can't decode byte 0xff")
