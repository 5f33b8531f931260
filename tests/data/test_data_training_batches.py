"""Training batches: their shapes, order and entries, and how workers share them."""

import dataclasses
import functools
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.augment import Augmentation, Compose, Fused, RandomColorJitter, RandomResizedCrop
from keras_moco.data import array_source, open_source, pretrain_dataset, steps_per_epoch
from keras_moco.data.training_batches import order_seed
from tests.batches import assert_same, take
from tests.data.written import encoded, smooth, write

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def digits():
    return open_source("digits", "test")  # 360 images


@pytest.fixture(scope="module")
def crop():
    return RandomResizedCrop(8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of different sizes in files."""
    files = [encoded(smooth(number, 20 + number, 30 - number), "png") for number in range(6)]
    return open_source(write(tmp_path_factory.mktemp("photos"), "folder", files)[0])


class Untouched(Augmentation):
    """Views that are the images."""

    num_draws = 1

    def augment(self, images, draws):
        return images


def test_every_epoch_has_a_new_order_no_batch_spans_two_and_views_are_of_their_index(digits):
    images = digits.arrays()[0].numpy()
    batch = take(pretrain_dataset(digits, Untouched(), batch_size=100), 6)
    index = batch["index"].reshape(2, 300)
    assert all(len(set(epoch)) == 300 for epoch in index)
    assert np.mean(index[0] == index[1]) < 0.1
    np.testing.assert_array_equal(batch["query"], images[batch["index"]])
    np.testing.assert_array_equal(batch["key"], images[batch["index"]])


@pytest.mark.parametrize("finish", [True, False], ids=["host", "device"])
@pytest.mark.parametrize("make", [Fused, Compose])
def test_float_images_of_a_source_keep_their_fractions_wherever_views_are_finished(make, finish):
    levels = np.random.default_rng(0).uniform(0, 255, (6, 40, 36, 2)).astype("float32")
    zeros = array_source(np.zeros(levels.shape, "uint8"))

    def read(seed):
        return zeros.read(seed).map(lambda example: {**example, "image": tf.gather(levels, example["index"])})

    source = dataclasses.replace(zeros, arrays=None, read=read, image_shape=(None, None, 2))
    whole = make([RandomResizedCrop(36, scale=(1, 1), ratio=(0.9, 0.9)), RandomColorJitter(0, 0, 0, 0)])
    entries = ("query", "index", "draws")
    batch = next(iter(pretrain_dataset(source, whole, batch_size=6, entries=entries, finish=finish)))
    views = batch["query"] if finish else whole.finish(batch["query"], batch["draws"][:, 0], on_host=False)
    assert views.dtype == "float32"
    expected = tf.image.resize(tf.gather(levels, batch["index"]), (36, 36), antialias=True)
    np.testing.assert_allclose(views, expected, atol=1e-3)


@pytest.mark.parametrize(
    "kind, size, workers, replicas",
    [("digits", 60, 2, 4), slow("digits", 60, 1, 2), slow("photos", 4, 2, 4)],
)
def test_workers_share_every_batch_in_the_order_of_their_replicas(kind, size, workers, replicas, crop, request):
    source = request.getfixturevalue(kind)
    steps = 2 * (source.num_examples // size) + 1  # into the third epoch
    expected = take(pretrain_dataset(source, crop, size, seed=5), steps)
    rows, local = size // replicas, replicas // workers
    shares = []
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, replicas)
        dataset = pretrain_dataset(source, crop, size, seed=5, context=context)
        assert dataset.element_spec["query"].shape[0] == rows
        found = take(dataset, steps * local)
        shares.append({name: array.reshape(steps, local * rows, *array.shape[1:]) for name, array in found.items()})
    for name, array in expected.items():
        together = np.concatenate([share[name] for share in shares], axis=1).reshape(array.shape)
        # Views are resized in batches of another size, whose sums may differ in the last digits.
        np.testing.assert_allclose(together, array, rtol=1e-4, atol=0 if name == "index" else 1e-3)


@pytest.mark.slow
def test_a_worker_resumes_inside_an_epoch(digits, crop):
    context = tf.distribute.InputContext(2, 1, 2)
    assert_same(
        take(pretrain_dataset(digits, crop, 60, first_epoch=1, first_step=2, context=context), 5),
        take(pretrain_dataset(digits, crop, 60, context=context).skip(8), 5),
    )


@pytest.mark.slow
def test_a_worker_does_not_open_the_images_of_others(photos, crop, tmp_path):
    for path in pathlib.Path(photos.name.removeprefix("folder:")).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source = open_source(f"folder:{tmp_path}")
    order = [int(example["index"]) for example in source.read(order_seed(0, tf.constant(0, tf.int64)))]
    files = sorted(tmp_path.iterdir())
    for index in order[3:]:  # the second worker's half of the batch
        files[index].write_bytes(b"no image")
    first_half = tf.distribute.InputContext(2, 0, 2)
    assert list(take(pretrain_dataset(source, crop, 6, context=first_half), 1)["index"]) == order[:3]


@pytest.mark.slow
def test_fewer_entries_change_nothing_else_and_shapes_are_static(photos, crop):
    entries = ("query", "index", "label")
    every = pretrain_dataset(photos, crop, 2, entries=("query", "key", "index", "label"))
    spec = every.element_spec
    assert spec["query"] == spec["key"] == tf.TensorSpec((2, 8, 8, 3), tf.float32)
    assert spec["index"] == tf.TensorSpec((2,), tf.int64)
    expected = take(every, 2)
    assert_same(take(pretrain_dataset(photos, crop, 2, entries=entries), 2), {name: expected[name] for name in entries})


def test_batches_that_cannot_be_made_are_refused(digits, crop):
    assert [steps_per_epoch(digits, size) for size in (1, 100, 360)] == [360, 3, 1]
    for size, settings, received in (
        (2, {"entries": ("query", "image")}, "query, key, index, label, draws.*: query, image"),
        (361, {}, r"batch_size=361, digits \(test\) with 360 images"),
        (0, {}, r"batch_size=0, digits \(test\) with 360 images"),
        (100, {"first_epoch": -1}, "`first_step` from 0 to 3.*first_epoch=-1"),
        (100, {"first_step": 4}, "`first_step` from 0 to 3.*first_step=4"),
    ):
        with pytest.raises(ValueError, match=received):
            pretrain_dataset(digits, crop, size, **settings)
