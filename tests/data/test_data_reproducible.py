"""The same seed gives the same batches: bit for bit, in parallel or not, from the beginning or from the middle."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.augment import Compose, Fused, RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop, moco_v2
from keras_moco.data import array_source, open_source, pretrain_dataset
from tests.batches import assert_same, take
from tests.data.written import encoded, smooth, write

IMAGES, BATCH, SIZE = 24, 8, 16
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Opens the images of a kind."""
    sized = [encoded(smooth(number, 40 + number, 70 - 2 * number), "jpeg") for number in range(IMAGES)]

    @functools.cache
    def written(kind):
        return write(tmp_path_factory.mktemp(kind), kind, sized)

    @functools.cache
    def opened(kind, cache=False):
        if kind.endswith("arrays"):
            height, width = (32, 32) if kind == "small arrays" else (96, 80)
            return array_source(np.stack([smooth(number, height, width) for number in range(IMAGES)]))
        name, data_dir = written(kind)
        return open_source(name, data_dir=data_dir, cache=cache)

    return opened


def short_recipe(exact=False):
    """Takes less time to trace than a published one."""
    return (Compose if exact else Fused)([RandomResizedCrop(SIZE), RandomGrayscale(), RandomHorizontalFlip()])


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


@pytest.mark.parametrize("kind", ["small arrays", "folder"])
def test_parallelism_does_not_change_a_bit(opened, kind):
    assert_the_same_in_parallel(opened(kind), short_recipe())


@pytest.mark.slow
@pytest.mark.parametrize("kind, exact", [("large arrays", False), ("tfds", False), ("folder", True)])
def test_parallelism_does_not_change_a_bit_of_other_kinds(opened, kind, exact):
    assert_the_same_in_parallel(opened(kind), short_recipe(exact))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small arrays", "folder"])
def test_parallelism_does_not_change_a_bit_of_a_published_recipe_under_xla(opened, kind, with_xla):
    assert_the_same_in_parallel(opened(kind), moco_v2(SIZE))


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


@pytest.mark.parametrize("kind", ["small arrays", slow("large arrays"), "folder"])
def test_another_epoch_gives_other_views_of_the_same_image(two_epochs, kind):
    first, second = (in_order(part(two_epochs(kind), half)) for half in (slice(IMAGES), slice(IMAGES, None)))
    np.testing.assert_array_equal(first["index"], range(IMAGES))
    np.testing.assert_array_equal(second["index"], range(IMAGES))
    assert changed(first["query"], second["query"]) > 0.95
    assert changed(first["key"], second["key"]) > 0.95
    assert changed(first["query"], first["key"]) > 0.95


def test_another_seed_gives_another_order_and_other_views(opened, two_epochs):
    expected = part(two_epochs("small arrays"), slice(IMAGES))
    other = take(pretrain_dataset(opened("small arrays"), short_recipe(), BATCH, seed=3), 3)
    assert np.mean(other["index"] == expected["index"]) < 0.3
    assert changed(in_order(other)["query"], in_order(expected)["query"]) > 0.95


@pytest.mark.parametrize("kind, exact", [("small arrays", False), slow("small arrays", True)])
def test_the_batch_size_does_not_change_the_views(opened, two_epochs, kind, exact):
    views = take(pretrain_dataset(opened(kind), short_recipe(exact), 12, seed=2), 4)
    expected = two_epochs(kind, True) if exact else two_epochs(kind)
    np.testing.assert_array_equal(views["index"], expected["index"])
    for name in ("query", "key"):
        # One level: sums are rounded in another order.
        np.testing.assert_allclose(views[name].astype(int), expected[name].astype(int), atol=1)


@pytest.mark.parametrize(
    "kind, epoch, step",
    [("small arrays", 0, 3), slow("large arrays", 1, 1), ("folder", 1, 1), slow("tfds", 1, 1)],
)
def test_resumed_epoch_equals_an_uninterrupted_one(opened, two_epochs, kind, epoch, step):
    resumed = pretrain_dataset(opened(kind), short_recipe(), BATCH, seed=2, first_epoch=epoch, first_step=step)
    start = (3 * epoch + step) * BATCH
    assert_same(take(resumed, 2), part(two_epochs(kind), slice(start, start + 2 * BATCH)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", slow("tfds"), slow("tfrecord")])
def test_a_cached_source_gives_the_same_batches(opened, two_epochs, kind):
    cached = pretrain_dataset(opened(kind, cache=True), short_recipe(), BATCH, seed=2)
    assert_same(take(cached, 6), two_epochs(kind))
