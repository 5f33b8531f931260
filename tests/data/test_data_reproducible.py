"""The same seed gives the same batches: bit for bit, in parallel or not, from the beginning or from the middle."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_moco.augment import (
    Compose,
    Fused,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    moco_v2,
)
from keras_moco.data import array_source, open_source, pretrain_dataset
from tests.batches import assert_same, take

IMAGES, BATCH, SIZE = 24, 8, 16
KINDS = ("small arrays", "large arrays", "folder", "tfds", "tfrecord")


def smooth(number, height, width):
    """An image with an outline of its own, in which every crop looks different."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6, 5, 3), dtype="uint8")
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def sized(number):
    return smooth(number, 40 + number, 70 - 2 * number)


def write_folder(folder):
    for number in range(IMAGES):
        Image.fromarray(sized(number)).save(folder / f"{number:02}.jpg", quality=90)
    return f"folder:{folder}", None


def write_tfds(folder):
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="streamed",
        version="1.0.0",
        data_dir=folder,
        features=tfds.features.FeaturesDict({"image": image}),
        split_datasets={"train": [(number, {"image": sized(number)}) for number in range(IMAGES)]},
    )
    return "tfds:streamed", folder


def write_tfrecord(folder):
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / f"images-{shard}")) as writer:
            for number in range(shard, IMAGES, 2):
                value = tf.train.BytesList(value=[tf.io.encode_jpeg(sized(number)).numpy()])
                features = tf.train.Features(feature={"image/encoded": tf.train.Feature(bytes_list=value)})
                writer.write(tf.train.Example(features=features).SerializeToString())
    return f"tfrecord:{folder}/images-*", None


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Opens the images of a kind."""
    write = {"folder": write_folder, "tfds": write_tfds, "tfrecord": write_tfrecord}

    @functools.cache
    def named(kind):
        return write[kind](tmp_path_factory.mktemp(kind))

    @functools.cache
    def opened(kind, cache=False):
        if kind.endswith("arrays"):
            height, width = (32, 32) if kind == "small arrays" else (96, 80)
            return array_source(np.stack([smooth(number, height, width) for number in range(IMAGES)]))
        name, data_dir = named(kind)
        return open_source(name, data_dir=data_dir, cache=cache)

    return opened


def short_recipe(exact=False):
    """What takes less time to build and optimise than a published one."""
    return (Compose if exact else Fused)([RandomResizedCrop(SIZE), RandomGrayscale(), RandomHorizontalFlip()])


@pytest.fixture
def without_xla(monkeypatch):
    """For what is the same with and without: every pipeline is compiled anew."""
    monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)


def with_threads(dataset, threads):
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.autotune.cpu_budget = threads
    return dataset.with_options(options)


def assert_the_same_in_parallel(source, augmentation):
    dataset = pretrain_dataset(source, augmentation, BATCH, seed=7, entries=("query", "key", "index", "draws"))
    alone = take(with_threads(dataset, 1), 6)  # two epochs
    np.testing.assert_array_equal(np.sort(alone["index"].reshape(2, IMAGES)), [range(IMAGES)] * 2)
    assert np.ptp(alone["query"]) > 150
    assert_same(take(with_threads(dataset, 8), 6), alone)


def test_parallelism_does_not_change_a_bit(opened):
    assert_the_same_in_parallel(opened("small arrays"), moco_v2(SIZE))


@pytest.mark.parametrize("kind", ["large arrays", "folder", "tfds"])
def test_parallelism_does_not_change_a_bit_without_xla(opened, kind, without_xla):
    assert_the_same_in_parallel(opened(kind), moco_v2(SIZE) if kind == "folder" else short_recipe())


def test_parallelism_does_not_change_a_bit_without_fusion(opened):
    assert_the_same_in_parallel(opened("folder"), short_recipe(exact=True))


@pytest.fixture(scope="module")
def two_epochs(opened):
    """All of the first two epochs of a kind, read once for the tests below."""

    @functools.cache
    def two_epochs(kind, exact=False):
        return take(pretrain_dataset(opened(kind), short_recipe(exact), BATCH, seed=2), 6)

    return two_epochs


def part(batches, images):
    return {name: array[images] for name, array in batches.items()}


def in_order(batches):
    return {name: array[np.argsort(batches["index"])].astype(int) for name, array in batches.items()}


def changed(first, second):
    """Share of images of which the views are different ones."""
    return np.mean(np.abs(first - second).max(axis=(1, 2, 3)) > 5)


@pytest.mark.parametrize("kind", KINDS)
def test_another_epoch_gives_other_views_of_the_same_image(two_epochs, kind, without_xla):
    first, second = (in_order(part(two_epochs(kind), half)) for half in (slice(IMAGES), slice(IMAGES, None)))
    np.testing.assert_array_equal(first["index"], range(IMAGES))
    np.testing.assert_array_equal(second["index"], range(IMAGES))
    assert changed(first["query"], second["query"]) > 0.95
    assert changed(first["key"], second["key"]) > 0.95
    assert changed(first["query"], first["key"]) > 0.95


def test_another_seed_gives_another_order_and_other_views(opened, two_epochs, without_xla):
    expected = part(two_epochs("small arrays"), slice(IMAGES))
    other = take(pretrain_dataset(opened("small arrays"), short_recipe(), BATCH, seed=3), 3)
    assert np.mean(other["index"] == expected["index"]) < 0.3
    assert changed(in_order(other)["query"], in_order(expected)["query"]) > 0.95


@pytest.mark.parametrize("kind, exact", [("folder", False), ("small arrays", True)])
def test_the_batch_size_does_not_change_the_views(opened, two_epochs, kind, exact, without_xla):
    views = take(pretrain_dataset(opened(kind), short_recipe(exact), 12, seed=2), 4)
    assert_same({"index": views["index"]}, {"index": two_epochs(kind, exact)["index"]})
    for name in ("query", "key"):
        # One level: sums are rounded in another order.
        expected = two_epochs(kind, exact)[name].astype(int)
        np.testing.assert_allclose(views[name].astype(int), expected, atol=1)


RESUMED = [(kind, 1, 1) for kind in KINDS[:4]] + [("small arrays", 0, 3)]


@pytest.mark.parametrize("kind, epoch, step", RESUMED)
def test_going_on_is_as_if_never_stopped(opened, two_epochs, kind, epoch, step, without_xla):
    resumed = pretrain_dataset(opened(kind), short_recipe(), BATCH, seed=2, first_epoch=epoch, first_step=step)
    begin = (3 * epoch + step) * BATCH
    assert_same(take(resumed, 2), part(two_epochs(kind), slice(begin, begin + 2 * BATCH)))


@pytest.mark.parametrize("kind", ["folder", "tfds", "tfrecord"])
def test_what_is_cached_gives_the_same_batches(opened, two_epochs, kind, without_xla):
    cached = pretrain_dataset(opened(kind, cache=True), short_recipe(), BATCH, seed=2)
    assert_same(take(cached, 6), two_epochs(kind))
