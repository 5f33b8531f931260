"""A training that is stopped among unreadable images goes on with the batches it would have had, and opens no more."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.augment import Fused, RandomHorizontalFlip, RandomResizedCrop
from keras_moco.data import open_source, pretrain_dataset
from keras_moco.data.draws import order_seed
from tests.batches import assert_same, take

IMAGES, BATCH, STEPS = 24, 5, 4  # 20 of 24 images in an epoch
SEED, EPOCH = 2, 1
# How many are unreadable, scattered: none, some that the rest of the epoch makes up for, so many that the third batch
# is the last full one of its round, and so many that it holds the end of one round and the beginning of the next.
SOME, THREE_BATCHES, MANY = 3, 9, 10
KINDS = ("folder", "tfrecord", "tfds")


def damaged(count):
    return set(np.random.default_rng(0).permutation(np.arange(1, IMAGES))[:count].tolist())


def encoded(number, count):
    if number in damaged(count):
        return b"no image, but number %d" % number
    pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype="uint8")
    large = Image.fromarray(pixels).resize((24 + number, 40 - number), Image.Resampling.BICUBIC)
    return tf.io.encode_jpeg(np.asarray(large)).numpy()


def write_folder(folder, count):
    for number in range(IMAGES):
        (folder / f"{number:02}.jpg").write_bytes(encoded(number, count))
    return f"folder:{folder}", None


def write_tfrecord(folder, count):
    with tf.io.TFRecordWriter(str(folder / "images")) as writer:
        for number in range(IMAGES):
            value = tf.train.BytesList(value=[encoded(number, count)])
            features = tf.train.Features(feature={"image/encoded": tf.train.Feature(bytes_list=value)})
            writer.write(tf.train.Example(features=features).SerializeToString())
    return f"tfrecord:{folder}/images", None


def write_tfds(folder, count):
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()
    files = folder / "files"  # which are taken as they are, where arrays would be encoded
    files.mkdir()
    write_folder(files, count)
    tfds.dataset_builders.store_as_tfds_dataset(
        name="damaged",
        version="1.0.0",
        data_dir=folder / "sets",
        features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3))}),
        split_datasets={"train": [(path.name, {"image": str(path)}) for path in sorted(files.iterdir())]},
    )
    return "tfds:damaged", folder / "sets"


WRITE = {"folder": write_folder, "tfrecord": write_tfrecord, "tfds": write_tfds}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Opens the images of a kind, so many of them unreadable, anew each time: as another process would."""

    @functools.cache
    def written(kind, count):
        return WRITE[kind](tmp_path_factory.mktemp(kind), count)

    def opened(kind, count):
        name, data_dir = written(kind, count)
        return open_source(name, data_dir=data_dir, max_bad_fraction=0.5)

    return opened


@pytest.fixture(autouse=True)
def without_xla(monkeypatch):
    """Every pipeline would be compiled anew."""
    monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)


RECIPE = Fused([RandomResizedCrop(8), RandomHorizontalFlip()])


def batches(source, step=0, recipe=RECIPE):
    entries = ("query", "key", "index", "draws")
    return pretrain_dataset(source, recipe, BATCH, SEED, first_epoch=EPOCH, first_step=step, entries=entries)


@pytest.fixture(scope="module")
def undisturbed(opened):
    """Two epochs in one go, by one who knows of no unreadable image."""

    @functools.cache
    def undisturbed(kind, count):
        return take(batches(opened(kind, count)), 2 * STEPS)

    return undisturbed


def order(source):
    """The indices of an epoch's order, readable or not."""
    read = source.read(order_seed(SEED, tf.constant(EPOCH, tf.int64)))
    return [int(example["index"]) for example in read]


def met_until(source, step, bad):
    """The unreadable images that a process has met at the least which stops there."""
    met, passed = {}, 0
    for index in order(source):
        if passed == step * BATCH:
            break
        if index in bad:
            met[index] = f"number {index}"
        else:
            passed += 1
    return met


def assert_goes_on(source, step, expected):
    rest = take(batches(source, step), 2 * STEPS - step)
    assert_same(rest, {name: array[step * BATCH :] for name, array in expected.items()})


# What is tested below is there.


@pytest.mark.parametrize(
    "kind, count, rounds", [("folder", SOME, 1), ("folder", THREE_BATCHES, 2), *((kind, MANY, 2) for kind in KINDS)]
)
def test_an_epoch_begins_its_order_anew_where_unreadable_images_leave_it_short(
    opened, undisturbed, kind, count, rounds
):
    source = opened(kind, count)
    good = [int(example["index"]) for example in source.examples()]
    assert len(good) == IMAGES - count and source.bad.count == count
    first, second = undisturbed(kind, count)["index"].reshape(2, STEPS * BATCH)
    for epoch in (first, second):
        once = epoch[: len(good)]
        assert len(set(once)) == min(len(good), STEPS * BATCH) and set(once) <= set(good)
        np.testing.assert_array_equal(epoch[len(good) :], epoch[: max(0, STEPS * BATCH - len(good))])
    assert -(-STEPS * BATCH // len(good)) == rounds
    assert list(first) != list(second)


# Going on.


# In front of the place where the order begins anew, at it, in the batch that holds it, and behind it.
@pytest.mark.parametrize(
    "count, step", [(SOME, 0), (SOME, 1), (SOME, 4), (THREE_BATCHES, 3), (MANY, 0), (MANY, 2), (MANY, 3), (MANY, 4)]
)
def test_knowing_those_of_the_steps_before_is_enough(opened, undisturbed, count, step):
    source = opened("folder", count)
    source.bad.remember(met_until(source, step, damaged(count)))
    assert_goes_on(source, step, undisturbed("folder", count))


@pytest.mark.parametrize("count, step", [(SOME, 1), (MANY, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_one_process_has_met_is_all_that_the_next_one_needs(opened, undisturbed, kind, count, step):
    first = opened(kind, count)
    take(batches(first), step)
    written = json.dumps(first.bad.met)
    source = opened(kind, count)
    source.bad.remember(json.loads(written))
    assert source.bad.met == first.bad.met and all(type(index) is int for index in source.bad.met)
    assert_goes_on(source, step, undisturbed(kind, count))
    assert source.bad.count == count


def test_a_process_that_knows_nothing_would_go_on_with_other_batches(opened, undisturbed):
    with pytest.raises(AssertionError):
        assert_goes_on(opened("folder", MANY), 2, undisturbed("folder", MANY))


# What is not opened.


def watched(source):
    """The same source, and a list of the contents or paths of all images that are opened."""
    opened = []

    def note(image):
        opened.append(image)
        return image

    def open(image):
        return source.open(tf.ensure_shape(tf.numpy_function(note, [image], tf.string), []))

    return dataclasses.replace(source, open=open), opened


def is_bad(opened, kind, count):
    if kind == "folder":
        return int(opened.decode().rpartition("/")[2][:2]) in damaged(count)
    return opened.startswith(b"no image")


@pytest.mark.parametrize("kind", ["folder", "tfrecord"])
def test_an_image_that_is_known_to_be_unreadable_is_not_opened_again(opened, kind, caplog):
    first, found = watched(opened(kind, MANY))
    take(batches(first), STEPS)
    assert sum(is_bad(image, kind, MANY) for image in found) >= MANY and first.bad.count == MANY
    caplog.clear()
    source, found = watched(opened(kind, MANY))
    source.bad.remember(first.bad.met)
    take(batches(source, 1), 2 * STEPS)
    assert len(found) >= 2 * STEPS * BATCH and not any(is_bad(image, kind, MANY) for image in found)
    assert (source.bad.count, source.bad.summary()) == (MANY, first.bad.summary())
    assert caplog.records == []  # nor told again


class Noting(Fused):
    """Notes the draws of each image that is opened: of which epoch and place it is."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.noted = []

    def select(self, picture, draws):
        def note(draws):
            self.noted.append(draws.tobytes())
            return draws

        noted = tf.ensure_shape(tf.numpy_function(note, [draws], tf.float32), draws.shape)
        return super().select(picture, noted)


@pytest.mark.parametrize("kind, step", [("folder", 2), ("tfrecord", 4), ("tfds", 3)])
def test_what_is_passed_over_is_not_opened(opened, undisturbed, kind, step):
    first = opened(kind, SOME)
    list(first.examples())
    recipe, source = Noting([RandomResizedCrop(8), RandomHorizontalFlip()]), opened(kind, SOME)
    source.bad.remember(first.bad.met)
    rest = take(batches(source, step, recipe), 2)
    passed = undisturbed(kind, SOME)["draws"][: step * BATCH]
    noted = set(recipe.noted)
    assert {draws.tobytes() for draws in rest["draws"]} <= noted
    assert not {draws.tobytes() for draws in passed} & noted
