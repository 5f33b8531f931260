"""A run that is stopped among unreadable images resumes with the batches it would have had, and opens no more."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.augment import Fused, RandomHorizontalFlip, RandomResizedCrop
from keras_moco.data import open_source, pretrain_dataset
from keras_moco.data.training_batches import order_seed
from tests.batches import assert_same, take
from tests.data.written import encoded, smooth, write

IMAGES, BATCH, STEPS = 24, 5, 4  # 20 of 24 images in an epoch
SEED, EPOCH = 2, 1
# Numbers of unreadable images, scattered: few enough for the rest of the epoch to replace them; until the third batch
# is the last full one of its round; and until it has the end of one round and the start of the next.
SOME, THREE_BATCHES, MANY = 3, 9, 10
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def damaged(count):
    return set(np.random.default_rng(0).permutation(np.arange(1, IMAGES))[:count].tolist())


def content(number, count):
    if number in damaged(count):
        return b"no image, but number %d" % number
    return encoded(smooth(number, 40 - number, 24 + number), "jpeg")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Opens the images of a kind, of which `count` are unreadable, as another process would."""

    @functools.cache
    def written(kind, count):
        return write(tmp_path_factory.mktemp(kind), kind, [content(number, count) for number in range(IMAGES)])

    def opened(kind, count):
        name, data_dir = written(kind, count)
        return open_source(name, data_dir=data_dir, max_bad_fraction=0.5)

    return opened


RECIPE = Fused([RandomResizedCrop(8), RandomHorizontalFlip()])


def batches(source, step=0, recipe=RECIPE):
    entries = ("query", "key", "index", "draws")
    return pretrain_dataset(source, recipe, BATCH, SEED, first_epoch=EPOCH, first_step=step, entries=entries)


@pytest.fixture(scope="module")
def undisturbed(opened):
    """Two epochs in one go, of a process that knows of no unreadable image."""

    @functools.cache
    def undisturbed(kind, count):
        return take(batches(opened(kind, count)), 2 * STEPS)

    return undisturbed


def met_until(source, step, bad):
    """The unreadable images that a process has met at the least which stops there."""
    met, passed = {}, 0
    for example in source.read(order_seed(SEED, tf.constant(EPOCH, tf.int64))):
        index = int(example["index"])
        if passed == step * BATCH:
            break
        if index in bad:
            met[index] = f"number {index}"
        else:
            passed += 1
    return met


def assert_resumes(source, step, expected):
    rest = take(batches(source, step), 2 * STEPS - step)
    assert_same(rest, {name: array[step * BATCH :] for name, array in expected.items()})


@pytest.mark.parametrize("count", [slow(SOME), slow(THREE_BATCHES), MANY])
def test_epoch_short_of_readable_images_starts_its_order_again(undisturbed, count):
    good = set(range(IMAGES)) - damaged(count)
    first, second = undisturbed("folder", count)["index"].reshape(2, STEPS * BATCH)
    for epoch in (first, second):
        once = epoch[: len(good)]
        assert len(set(once)) == min(len(good), STEPS * BATCH) and set(once) <= good
        np.testing.assert_array_equal(epoch[len(good) :], epoch[: max(0, STEPS * BATCH - len(good))])
    assert list(first) != list(second)


# Before the place where the order starts again, at it, in its batch, and after it.
@pytest.mark.parametrize(
    "count, step",
    [(SOME, 1), slow(THREE_BATCHES, 3), slow(MANY, 2), slow(MANY, 4)],  # MANY at 3: the next test
)
def test_resume_needs_only_the_unreadable_images_of_earlier_steps(opened, undisturbed, count, step):
    source = opened("folder", count)
    source.bad.remember(met_until(source, step, damaged(count)))
    assert_resumes(source, step, undisturbed("folder", count))


@pytest.mark.parametrize("kind", ["folder", *map(slow, ("tfrecord", "tfds", "webdataset", "zip"))])
def test_unreadable_images_of_one_process_suffice_for_the_next(opened, undisturbed, kind):
    first = opened(kind, MANY)
    take(batches(first), 3)
    written = json.dumps(first.bad.met)
    source = opened(kind, MANY)
    source.bad.remember(json.loads(written))
    assert source.bad.met == first.bad.met and all(type(index) is int for index in source.bad.met)
    assert_resumes(source, 3, undisturbed(kind, MANY))
    assert source.bad.count == MANY


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


@pytest.mark.slow
def test_images_of_earlier_steps_are_not_opened(opened, undisturbed):
    recipe, source = Noting([RandomResizedCrop(8), RandomHorizontalFlip()]), opened("folder", SOME)
    source.bad.remember({number: f"number {number}" for number in damaged(SOME)})
    rest = take(batches(source, 2, recipe), 2)
    passed = undisturbed("folder", SOME)["draws"][: 2 * BATCH]
    noted = set(recipe.noted)
    assert {draws.tobytes() for draws in rest["draws"]} <= noted
    assert not {draws.tobytes() for draws in passed} & noted
