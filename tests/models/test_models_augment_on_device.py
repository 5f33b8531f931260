"""Views that the training step finishes are those that the pipeline would have finished."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_sample_image

from keras_moco.augment import Fused, RandomResizedCrop, moco_v2
from keras_moco.data import array_source, pretrain_dataset
from keras_moco.models import Encoder, MoCo, linear_head
from keras_moco.optimizers import SGD

BATCH, SIZE, STEPS = 8, 16, 3
PHOTO = load_sample_image("flower.jpg")


@pytest.fixture(scope="module")
def source():
    corners = np.random.default_rng(0).integers(0, [427 - 40, 640 - 50], (3 * BATCH, 2))
    return array_source(np.stack([PHOTO[top : top + 40, left : left + 50] for top, left in corners]))


@pytest.fixture(scope="module")
def recipe():
    return moco_v2(SIZE)


@pytest.fixture
def without_xla(monkeypatch):
    """For what is the same with and without: every pipeline is compiled anew."""
    monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)


def strategy_of(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{replica}" for replica in range(replicas)])


def make_model(size=SIZE, **compile):
    keras.utils.set_random_seed(1)
    backbone = keras.Sequential([keras.Input((size, size, 3)), layers.Conv2D(8, 3, strides=2, activation="relu")])
    model = MoCo(Encoder(backbone, linear_head(8, 8)), queue_size=20, momentum=0.9, temperature=0.2)
    model.compile(optimizer=SGD(0.05), **compile)
    return model


def batches(source, augmentation, on_host, context=None):
    entries = ("query", "key") if on_host else ("query", "key", "draws")
    return pretrain_dataset(source, augmentation, BATCH, 5, context=context, entries=entries, finish=on_host)


def train(source, augmentation, on_host, replicas=1, finish=True, **compile):
    """Losses of three steps, each an epoch, so that the history holds every one."""
    strategy = strategy_of(replicas)
    with strategy.scope():
        model = make_model(**compile)
        if not on_host and finish:
            model.augmentation = augmentation
    data = strategy.distribute_datasets_from_function(lambda context: batches(source, augmentation, on_host, context))
    history = model.fit(data, epochs=STEPS, steps_per_epoch=1, verbose=0, shuffle=False)
    return np.array(history.history["loss"])


def test_the_views_are_the_same_up_to_a_level(source, recipe):
    on_host = list(batches(source, recipe, True).take(STEPS).as_numpy_iterator())
    on_device = list(batches(source, recipe, False).take(STEPS))
    finish = tf.function(lambda begun, draws: recipe.finish(begun, draws, on_host=False))
    for finished, begun in zip(on_host, on_device, strict=True):
        for number, name in enumerate(("query", "key")):
            assert begun[name].shape == (BATCH, SIZE, 3, SIZE)  # a batch that nobody takes for finished views
            view = finish(begun[name], begun["draws"][:, number]).numpy()
            assert view.dtype == finished[name].dtype == np.uint8
            np.testing.assert_allclose(view.astype(int), finished[name].astype(int), atol=1)
            assert np.mean(view != finished[name]) < 0.05


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_model_learns_the_same_from_either(source, recipe, replicas, without_xla):
    on_host = train(source, recipe, True, replicas)
    on_device = train(source, recipe, False, replicas)
    np.testing.assert_allclose(on_device, on_host, rtol=1e-2)
    assert np.ptp(on_host) > 0.01


def test_several_steps_at_once_do_as_well(source, without_xla):
    augmentation = Fused([RandomResizedCrop(SIZE)])
    losses = []
    for steps in (1, 3):
        model = make_model(steps_per_execution=steps)
        model.augmentation = augmentation
        history = model.fit(batches(source, augmentation, False), epochs=1, steps_per_epoch=3, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_views_that_nobody_finishes_are_refused(source, recipe, without_xla):
    with pytest.raises(ValueError):
        train(source, recipe, False, finish=False)


# How long steps waited for their batch.


def slow_batches(seconds):
    images = np.random.default_rng(0).uniform(0, 255, (2, BATCH, 6, 6, 3)).astype("float32")

    def batch(_):
        def wait():
            time.sleep(seconds)
            return np.float32(0)

        nothing = tf.ensure_shape(tf.numpy_function(wait, [], tf.float32), [])
        return {"query": images[0] + nothing, "key": images[1] + nothing}

    return tf.data.Dataset.range(20).repeat().map(batch)


def waited(model, seconds, steps):
    model.fit(slow_batches(seconds), epochs=1, steps_per_epoch=steps, verbose=0)
    return model.data_wait


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_the_time_that_steps_wait_for_data_is_counted(steps_per_execution):
    model = make_model(size=6, steps_per_execution=steps_per_execution)
    assert waited(model, 0, 6) < 0.15
    # The first batch may be under way when the first step begins; each `fit` counts from zero.
    assert 0.05 * 5 < waited(model, 0.05, 6) < 0.05 * 6 + 0.3
    assert 0.05 * 11 < waited(model, 0.05, 12) < 0.05 * 12 + 0.3
