"""In whose company BatchNorm normalises queries and keys, against statistics worked out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_moco import batch_norm, distribution
from keras_moco.layers import SplitBatchNormalization, splittable
from keras_moco.models import Encoder, MoCo, linear_head

BATCH, SEED, SPLITS = 16, 3, 2
MODES = ("split", "shuffle", "sync", "plain")
pytestmark = pytest.mark.filterwarnings("ignore:bn_mode='sync':UserWarning")


class Statistics(layers.BatchNormalization):
    """In training gives each image, instead of itself, the mean of the group that it would be normalised by."""

    splits = 1

    def call(self, inputs, training=False):
        n, width = inputs.shape
        groups = tf.reshape(inputs, (n // self.splits, self.splits, width))
        means = tf.reduce_mean(groups, axis=0, keepdims=True)
        if self.synchronized:
            means = tf.distribute.get_replica_context().all_reduce("MEAN", means)
        return tf.reshape(tf.broadcast_to(means, groups.shape), (n, width))


def strategy_of(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{replica}" for replica in range(replicas)])


def seen_by(mode, replicas):
    """The group means that queries and their keys meet in one step, `(BATCH, width)` each, and the images.

    Query and key images are the same, and so are both encoders: only the company can make a difference.
    """
    strategy = strategy_of(replicas)
    images = np.random.default_rng(0).uniform(0, 1, (BATCH, 3)).astype("float32")
    with strategy.scope():
        mode = batch_norm.resolve(mode, SPLITS, replicas)
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
    """For each image, by hand: the images in whose company its key is encoded, and those of its query."""
    n = BATCH // replicas
    if mode == "shuffle":
        order = np.array(distribution.permutation(BATCH, SEED, 5))
    elif mode == "split":
        local = np.array(distribution.permutation(n, SEED, 5))
        order = np.concatenate([replica * n + local for replica in range(replicas)])
    else:
        order = np.arange(BATCH)

    def group(place):
        """All places with which one shares statistics."""
        if mode == "sync":
            return range(BATCH)
        if mode == "split":
            return [other for other in range(BATCH) if other // n == place // n and other % SPLITS == place % SPLITS]
        return [other for other in range(BATCH) if other // n == place // n]

    places = np.argsort(order)
    return [order[list(group(places[image]))] for image in range(BATCH)], [list(group(i)) for i in range(BATCH)]


@pytest.mark.parametrize(
    "mode, replicas", [(mode, n) for mode in MODES for n in (1, 2, 4) if (mode, n) != ("shuffle", 1)]
)
def test_queries_and_keys_meet_the_statistics_of_their_mode(mode, replicas):
    queries, keys, images = seen_by(mode, replicas)
    of_keys, of_queries = groups_of_keys(mode, replicas)
    np.testing.assert_allclose(queries, [images[group].mean(axis=0) for group in of_queries], rtol=1e-5)
    # Row i belongs to image i: the keys have come back in order.
    np.testing.assert_allclose(keys, [images[group].mean(axis=0) for group in of_keys], rtol=1e-5)
    if mode in ("split", "shuffle"):
        assert (np.abs(queries - keys).max(axis=-1) > 1e-4).all()
    else:
        np.testing.assert_allclose(queries, keys, rtol=1e-6)


@pytest.mark.parametrize("mode, replicas, differ", [("split", 1, True), ("plain", 1, False), ("shuffle", 2, True)])
def test_a_models_own_step_keeps_pairs_from_giving_themselves_away(mode, replicas, differ):
    strategy = strategy_of(replicas)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        backbone = keras.Sequential(
            [keras.Input((4, 4, 3)), layers.Flatten(), SplitBatchNormalization(), layers.Dense(8)]
        )
        model = MoCo(Encoder(backbone, linear_head(8, 6)), queue_size=BATCH, bn_mode=mode, bn_splits=4, seed=SEED)
    images = np.random.default_rng(0).uniform(0, 255, (BATCH, 4, 4, 3)).astype("float32")

    def step(local):
        views = {"query": local, "key": local}
        [contrast] = model.contrast(views, model.encode_targets(views))
        return contrast.logits[:, 0] * model.temperature

    shares = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(images, replicas)[context.replica_id_in_sync_group])
    )
    similarities = tf.function(lambda local: strategy.run(step, (local,)))(shares)
    similarities = np.concatenate(strategy.experimental_local_results(similarities))
    # Equal encoders, equal images: a pair is told from others by its similarity of 1 unless the statistics differ.
    assert (similarities < 0.999).all() if differ else (similarities > 0.99999).all()


def test_shuffling_on_one_replica_is_refused_with_the_way_out():
    message = (
        "`bn_mode='shuffle'` must have two replicas or more: on one, shuffling changes nobody's company. "
        "Received: 1 replica. Use bn_mode='split', which imitates replicas on one, or several devices."
    )
    with pytest.raises(ValueError) as error:
        batch_norm.resolve("shuffle", 8, 1).check(1)
    assert str(error.value) == message
    backbone = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten()])
    model = MoCo(Encoder(backbone, linear_head(48, 6)), queue_size=BATCH, bn_mode="shuffle")
    model.compile("sgd")
    views = np.zeros((BATCH, 4, 4, 3), "float32")
    data = tf.data.Dataset.from_tensors({"query": views, "key": views})
    with pytest.raises(ValueError, match="must have two replicas or more.*Use bn_mode='split'"):
        model.fit(data, verbose=0)
    assert int(model.step) == 0


def test_unknown_modes_list_the_known():
    with pytest.raises(ValueError) as error:
        batch_norm.resolve("ghost", 8, 1)
    assert str(error.value) == (
        "`bn_mode` must be one of auto, split, shuffle, sync, plain. Received: 'ghost'. Choose one of them."
    )


@pytest.mark.parametrize("splits", [0, -1, 2.5])
def test_groups_are_counted_from_one(splits):
    with pytest.raises(ValueError) as error:
        batch_norm.resolve("split", splits, 1)
    assert str(error.value) == (
        f"`bn_splits` must be a positive integer. Received: bn_splits={splits}. The CIFAR-10 demo uses 8."
    )


def test_synchronised_statistics_come_with_the_authors_warning():
    backbone = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten()])
    with pytest.warns(UserWarning, match="'sync' is not sufficient with a queue, say the authors of MoCo"):
        MoCo(Encoder(backbone, linear_head(48, 6)), queue_size=BATCH, bn_mode="sync")


# Models made elsewhere.


def stock_model():
    images = keras.Input((8, 8, 3))
    inner = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(momentum=0.8, epsilon=1e-3)], name="inner")
    x = inner(images)
    x = layers.BatchNormalization(axis=3, center=False, name="norm")(x)
    return keras.Model(images, layers.ReLU()(x), name="stock")


def lived_in(model):
    rng = np.random.default_rng(0)
    model.set_weights([np.float32(rng.uniform(0.5, 1.5, w.shape)) for w in model.weights])
    return model


def test_stock_models_become_splittable_with_the_same_weights():
    model = lived_in(stock_model())
    images = np.random.default_rng(1).normal(size=(6, 8, 8, 3)).astype("float32")
    copy = splittable(model)
    assert copy is not model and copy.name == "stock"
    norms = batch_norm.batch_norm_layers(copy)
    assert [type(norm) for norm in norms] == 2 * [SplitBatchNormalization]
    assert sorted((norm.momentum, norm.epsilon, norm.center) for norm in norms) == [
        (0.8, 1e-3, True),
        (0.99, 1e-3, False),
    ]
    for training in (False, True):
        np.testing.assert_allclose(
            copy(images, training=training), model(images, training=training), rtol=1e-4, atol=1e-4
        )
    assert [type(norm) for norm in batch_norm.batch_norm_layers(model)] == 2 * [layers.BatchNormalization]


def test_models_without_stock_batch_norm_stay_as_they_are():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), SplitBatchNormalization()])
    assert splittable(model) is model


def test_keras_applications_are_split_on_one_replica():
    backbone = keras.applications.MobileNetV2((32, 32, 3), include_top=False, weights=None, alpha=0.35)
    model = MoCo(Encoder(backbone, linear_head(1280, 8)), queue_size=32)
    norms = [norm for side in (model.query_encoder, model.key_encoder) for norm in batch_norm.batch_norm_layers(side)]
    assert len(norms) == 2 * 52
    assert {norm.splits for norm in norms} == {8}
    for ours, theirs in zip(model.query_encoder.backbone.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Subclassed(keras.Model):
    """A backbone that cannot be taken apart."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization()
        self(keras.Input((4,)))

    input_shape = output_shape = (None, 4)

    def call(self, inputs, training=False):
        return self.norm(inputs, training=training)


def test_a_layer_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError) as error:
        batch_norm.resolve("split", 8, 1).set_on(Subclassed())
    assert str(error.value) == (
        "Every BatchNorm layer must be able to split its batch on one replica. Received: 'batch_normalization' of "
        "class BatchNormalization in a model that cannot be taken apart. Build the backbone with "
        "`keras_moco.layers.SplitBatchNormalization`, or give `bn_mode='plain'`."
    )
    batch_norm.resolve("shuffle", 8, 2).set_on(Subclassed())
    batch_norm.resolve("plain", 8, 1).set_on(Subclassed())
