"""Views that the training step finishes are those that the pipeline would have finished."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_sample_image

from keras_moco.augment import Fused, RandomResizedCrop, moco_v2
from keras_moco.data import array_source, pretrain_dataset
from keras_moco.methods import MoCo
from keras_moco.networks import Encoder, linear_head
from keras_moco.optimizers import SGD
from tests.small_training import strategy_of, without_autotune

BATCH, SIZE, STEPS = 8, 16, 3


@pytest.fixture(scope="module")
def source():
    photo = load_sample_image("flower.jpg")
    corners = np.random.default_rng(0).integers(0, [427 - 40, 640 - 50], (3 * BATCH, 2))
    return array_source(np.stack([photo[top : top + 40, left : left + 50] for top, left in corners]))


@pytest.fixture(scope="module")
def recipe():
    return moco_v2(SIZE)


@pytest.fixture(scope="module")
def crop():
    return Fused([RandomResizedCrop(SIZE)])  # the whole recipe takes seconds to trace


def batches(source, recipe, on_host, context=None):
    entries = ("query", "key") if on_host else ("query", "key", "draws")
    data = pretrain_dataset(source, recipe, BATCH, 5, context=context, entries=entries, finish=on_host)
    return without_autotune(data)


def train(source, recipe, on_host, replicas=1, finish=True):
    """Losses of three steps, each an epoch, so that the history holds every one."""
    keras.utils.set_random_seed(1)
    strategy = strategy_of(replicas)
    with strategy.scope():
        backbone = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.Conv2D(8, 3, strides=2, activation="relu")])
        model = MoCo(Encoder(backbone, linear_head(8, 8)), queue_size=20, momentum=0.9, temperature=0.2)
        model.compile(optimizer=SGD(0.05), jit_compile=False)
    if not on_host and finish:
        model.augmentation = recipe
    data = strategy.distribute_datasets_from_function(lambda context: batches(source, recipe, on_host, context))
    history = model.fit(data, epochs=STEPS, steps_per_epoch=1, verbose=0, shuffle=False)
    return np.array(history.history["loss"])


@pytest.mark.slow
def test_views_are_the_same_up_to_a_level(source, recipe):
    finish = tf.function(lambda begun, draws: recipe.finish(begun, draws, on_host=False))
    pairs = zip(batches(source, recipe, True).take(1), batches(source, recipe, False).take(1), strict=True)
    for finished, begun in pairs:
        for number, name in enumerate(("query", "key")):
            assert begun[name].shape == (BATCH, SIZE, 3, SIZE)  # which no one takes for finished views
            view, expected = finish(begun[name], begun["draws"][:, number]).numpy(), finished[name].numpy()
            assert view.dtype == expected.dtype == np.uint8
            # Rounded to levels from floats of two kernels.
            np.testing.assert_allclose(view.astype(int), expected.astype(int), atol=1)
            assert np.mean(view != expected) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_model_learns_the_same_from_either(source, crop, replicas):
    on_host = train(source, crop, True, replicas)
    on_device = train(source, crop, False, replicas)
    np.testing.assert_allclose(on_device, on_host, rtol=1e-2)  # views differ by a level here and there
    assert np.ptp(on_host) > 0.01


def test_unfinished_views_are_refused(source, crop):
    with pytest.raises(ValueError):
        train(source, crop, False, finish=False)
