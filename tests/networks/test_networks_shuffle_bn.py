"""Which images share BatchNorm statistics with queries and keys, against groups worked out by hand."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_moco import distribution
from keras_moco.layers.split_batch_normalization import can_split, split_batch, splittable
from keras_moco.methods import MoCo
from keras_moco.networks import Encoder, linear_head, shuffle_bn
from tests.small_training import strategy_of

BATCH, SEED, SPLITS = 16, 3, 2
MODES = ("split", "shuffle", "sync", "plain")
pytestmark = pytest.mark.filterwarnings("ignore:bn_mode='sync':UserWarning")


class Statistics(layers.BatchNormalization):
    """Returns for each image the mean of the group that it would be normalised by."""

    splits = 1

    def call(self, inputs, training=False):
        n, width = inputs.shape
        groups = tf.reshape(inputs, (n // self.splits, self.splits, width))
        means = tf.reduce_mean(groups, axis=0, keepdims=True)
        if self.synchronized:
            means = tf.distribute.get_replica_context().all_reduce("MEAN", means)
        return tf.reshape(tf.broadcast_to(means, groups.shape), (n, width))


def group_means(mode, replicas):
    """The group means of queries and of their keys in one step, `(BATCH, width)` each, and the images.

    Query and key images are the same, and so are both encoders: only the groups can differ.
    """
    strategy = strategy_of(replicas)
    images = np.random.default_rng(0).uniform(0, 1, (BATCH, 3)).astype("float32")
    with strategy.scope():
        mode = shuffle_bn.resolve(mode, SPLITS, replicas)
        layer = Statistics()
        layer.build((None, 3))
        layer.splits, layer.synchronized = mode.splits, mode.synchronized

    def step(local):
        queries = layer(local)
        shuffled, order = mode.shuffle(local, SEED, tf.constant(5, tf.int64))
        return queries, distribution.local_slice(mode.unshuffle(layer(shuffled), order))

    shares = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(images, replicas)[context.replica_id_in_sync_group])
    )
    outputs = tf.function(lambda local: strategy.run(step, (local,)))(shares)
    queries, keys = (np.concatenate(strategy.experimental_local_results(output)) for output in outputs)
    return queries, keys, images


def groups_of_keys(mode, replicas):
    """For each image, by hand: the images in the group of its key, and those in the group of its query."""
    n = BATCH // replicas
    if mode == "shuffle":
        order = np.array(distribution.permutation(BATCH, SEED, 5))
    elif mode == "split":
        local = np.array(distribution.permutation(n, SEED, 5))
        order = np.concatenate([replica * n + local for replica in range(replicas)])
    else:
        order = np.arange(BATCH)

    def group(place):
        """All places that share statistics with one."""
        if mode == "sync":
            return range(BATCH)
        if mode == "split":
            return [other for other in range(BATCH) if other // n == place // n and other % SPLITS == place % SPLITS]
        return [other for other in range(BATCH) if other // n == place // n]

    places = np.argsort(order)
    return [order[list(group(places[image]))] for image in range(BATCH)], [list(group(i)) for i in range(BATCH)]


@pytest.mark.parametrize(
    "mode, replicas",
    [
        *((mode, 2) for mode in MODES),
        ("split", 1),
        ("plain", 1),
        *(pytest.param(mode, 4, marks=pytest.mark.slow) for mode in MODES),
    ],
)
def test_queries_and_keys_are_grouped_by_their_mode(mode, replicas):
    queries, keys, images = group_means(mode, replicas)
    of_keys, of_queries = groups_of_keys(mode, replicas)
    np.testing.assert_allclose(queries, [images[group].mean(axis=0) for group in of_queries], rtol=1e-5)
    # Row i belongs to image i: the keys have come back in order.
    np.testing.assert_allclose(keys, [images[group].mean(axis=0) for group in of_keys], rtol=1e-5)
    if mode in ("split", "shuffle"):
        assert (np.abs(queries - keys).max(axis=-1) > 1e-4).all()
    else:
        np.testing.assert_allclose(queries, keys, rtol=1e-6)


def small_model(bn_mode):
    backbone = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten()])
    return MoCo(Encoder(backbone, linear_head(48, 6)), queue_size=BATCH, bn_mode=bn_mode)


def test_modes_that_give_pairs_away_are_refused_or_warned_of():
    with pytest.warns(UserWarning, match="'sync' is not sufficient with a queue"):
        small_model("sync")
    with pytest.raises(ValueError, match="`bn_mode='shuffle'` .* Received: 1 replica.*bn_mode='split'"):
        shuffle_bn.resolve("shuffle", 8, 1).check(1)
    model = small_model("shuffle")
    model.compile("sgd", jit_compile=False)
    views = np.zeros((BATCH, 4, 4, 3), "float32")
    with pytest.raises(ValueError, match="`bn_mode='shuffle'`"):
        model.fit(tf.data.Dataset.from_tensors({"query": views, "key": views}), verbose=0)
    assert model.steps_done == 0


# Models made elsewhere


def stock_model():
    images = keras.Input((8, 8, 3))
    inner = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(momentum=0.8, epsilon=1e-3)], name="inner")
    x = inner(images)
    x = layers.BatchNormalization(axis=3, center=False, name="norm")(x)
    return keras.Model(images, layers.ReLU()(x), name="stock")


def normalised(images, layer):
    """BatchNorm in NumPy over all but the last axis, without its weights."""
    mean, variance = images.mean(axis=(0, 1, 2)), images.var(axis=(0, 1, 2))
    return (images - mean) / np.sqrt(variance + layer.epsilon)


@pytest.mark.parametrize("axis", [-1, 3, 1])
def test_layers_of_keras_split_their_batch_in_a_block_and_only_there(axis):
    layer = splittable(layers.BatchNormalization(axis=axis, momentum=0.8))
    images = np.random.default_rng(1).normal(3, 2, size=(6, 5, 4, 5)).astype("float32")
    last = np.moveaxis(images, axis, -1)
    whole = np.moveaxis(normalised(last, layer), -1, axis)
    np.testing.assert_allclose(layer(images, training=True), whole, rtol=1e-4, atol=1e-4)
    # Keras's own moving variance follows the biased estimate.
    np.testing.assert_allclose(layer.moving_variance, 0.8 + 0.2 * last.var(axis=(0, 1, 2)), rtol=1e-4)
    with split_batch(2):
        found = np.moveaxis(np.array(layer(images, training=True)), axis, -1)
        inference = layer(images, training=False)
    np.testing.assert_allclose(found[0::2], normalised(last[0::2], layer), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[1::2], normalised(last[1::2], layer), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(inference, layer(images))
    np.testing.assert_allclose(layer(images, training=True), whole, rtol=1e-4, atol=1e-4)
    assert type(layer) is layers.BatchNormalization and layer.get_config()["axis"] == layer.axis


def test_mode_can_be_added(monkeypatch):
    monkeypatch.setitem(shuffle_bn.BN_MODES, "own", lambda splits: shuffle_bn.Split(2 * splits))
    assert shuffle_bn.resolve("own", splits=3, replicas=1).splits == 6


def test_layers_are_found_however_deep_they_lie():
    model = splittable(stock_model())
    assert len(shuffle_bn.batch_norm_layers(model)) == 2
    assert all(map(can_split, shuffle_bn.batch_norm_layers(model)))
    assert all(map(can_split, shuffle_bn.batch_norm_layers(splittable(Subclassed()))))


def test_a_block_holds_for_one_thread():
    """Replicas trace their steps in threads that take turns."""
    layer = splittable(layers.BatchNormalization())
    images = np.random.default_rng(1).normal(size=(4, 2)).astype("float32")
    outside = []
    with split_batch(2):
        thread = threading.Thread(target=lambda: outside.append(np.array(layer(images, training=True))))
        thread.start()
        thread.join()
    np.testing.assert_array_equal(outside[0], layer(images, training=True))


class Own(layers.BatchNormalization):
    """A layer that may do what it likes."""


class Subclassed(keras.Model):
    def __init__(self, kind=layers.BatchNormalization):
        super().__init__()
        self.norm = kind()
        self(keras.Input((4,)))

    def call(self, inputs, training=False):
        return self.norm(inputs, training=training)


def test_modes_and_layers_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match="auto, split, shuffle, sync, plain.*'ghost'"):
        shuffle_bn.resolve("ghost", 8, 1)
    for splits in (0, 2.5):
        with pytest.raises(ValueError, match=f"bn_splits={splits}"):
            shuffle_bn.resolve("split", splits, 1)
    with pytest.raises(ValueError, match="Received: 'own' of class Own"):
        shuffle_bn.resolve("split", 8, 1).check_layers(splittable(Subclassed(Own)))
    shuffle_bn.resolve("shuffle", 8, 2).check_layers(Subclassed(Own))
    shuffle_bn.resolve("plain", 8, 1).check_layers(Subclassed(Own))
