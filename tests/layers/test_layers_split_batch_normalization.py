"""Each group by its own statistics, everything else as in Keras's BatchNormalization or PyTorch's BatchNorm."""

import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_moco.layers import SplitBatchNormalization

DENSE, MAPS = (12, 3), (12, 4, 5, 3)
EPSILON = 1e-5


def inputs_of(shape, dtype="float32"):
    rng = np.random.default_rng(0)
    # Neighbours differ in location and scale, so that another grouping gives other numbers.
    scale = rng.uniform(0.5, 4, (shape[0],) + (1,) * (len(shape) - 1))
    return np.asarray(rng.normal(1, 1, shape) * scale + scale, dtype)


def built(shape, splits, **kwargs):
    """A layer whose four weights are all random."""
    layer = SplitBatchNormalization(splits, **kwargs)
    layer.build((None, *shape[1:]))
    rng = np.random.default_rng(1)
    layer.set_weights([np.float32(rng.uniform(0.5, 2, w.shape)) for w in layer.weights])
    return layer


def groups_of(x, splits):
    """Group s: the examples s, s + splits, s + 2 splits and so on."""
    return [x[start::splits] for start in range(splits)]


def flat(group):
    return np.float64(group).reshape(-1, group.shape[-1])


@pytest.mark.parametrize(
    "shape, splits, dtype, tolerance",
    [(DENSE, 3, "float32", 1e-4), (MAPS, 1, "float32", 1e-4), (MAPS, 4, "float32", 1e-4), (MAPS, 3, "float64", 1e-12)],
)
def test_each_group_is_normalised_by_its_own_statistics(shape, splits, dtype, tolerance):
    x, layer = inputs_of(shape, dtype), built(shape, splits, momentum=0.8, dtype=dtype)
    gamma, beta, mean, variance = map(np.array, layer.weights)
    groups = [flat(group) for group in groups_of(x, splits)]
    expected = np.empty_like(x)
    for start, (group, rows) in enumerate(zip(groups_of(x, splits), groups, strict=True)):
        expected[start::splits] = (group - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + EPSILON) * gamma + beta
    for _ in range(2):
        np.testing.assert_allclose(layer(x, training=True), expected, rtol=tolerance, atol=tolerance)
        # The average of the groups', with the unbiased variance.
        mean = 0.8 * mean + 0.2 * np.mean([rows.mean(axis=0) for rows in groups], axis=0)
        variance = 0.8 * variance + 0.2 * np.mean([rows.var(axis=0, ddof=1) for rows in groups], axis=0)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=min(tolerance, 1e-5))
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=min(tolerance, 1e-5))


@pytest.mark.parametrize("trainable, training", [(True, False), (False, True)], ids=["inference", "frozen"])
def test_inference_is_that_of_keras(trainable, training):
    x, layer = inputs_of(MAPS), built(MAPS, 2)
    layer.trainable = trainable
    before = layer.get_weights()
    keras_layer = layers.BatchNormalization(epsilon=EPSILON)
    keras_layer.build((None, *MAPS[1:]))
    keras_layer.set_weights(before)
    expected = keras_layer(x, training=False)
    np.testing.assert_allclose(layer(x, training=training), expected, rtol=1e-6, atol=1e-6)
    for ours, old in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, old)
    # 11 examples: without training nothing is split.
    assert layer(x[:11], training=training).shape == (11, *MAPS[1:])


def test_scale_and_offset_are_optional():
    layer = SplitBatchNormalization(2, scale=False, center=False)
    outputs = layer(inputs_of(DENSE), training=True)
    assert layer.trainable_variables == []
    for group in groups_of(np.array(outputs), 2):
        np.testing.assert_allclose(group.mean(axis=0), np.zeros(3), atol=1e-5)
        np.testing.assert_allclose(group.std(axis=0), np.ones(3), atol=1e-4)


@pytest.mark.parametrize("shape, known", [(DENSE, (None, 3)), (MAPS, (None, None, None, 3))])
def test_sizes_may_be_unknown_when_the_graph_is_built(shape, known):
    x, layer, same = inputs_of(shape), built(shape, 3), built(shape, 3)
    call = tf.function(lambda images: layer(images, training=True), input_signature=[tf.TensorSpec(known, tf.float32)])
    np.testing.assert_allclose(call(x), same(x, training=True), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, same.moving_variance, rtol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError):
        call(x[:11])


@pytest.mark.parametrize("shape, splits", [(MAPS, 1), (MAPS, 3)])
def test_gradients_equal_those_of_a_plain_composition(shape, splits):
    layer = built(shape, splits)
    x = tf.constant(inputs_of(shape))
    weights = tf.constant(np.float32(np.random.default_rng(2).normal(size=shape)))
    gamma, beta = tf.constant(layer.gamma), tf.constant(layer.beta)

    def composed(x):
        grouped = ops.reshape(x, (-1, splits, *shape[1:]))
        axes = (0, *range(2, len(shape)))
        mean = ops.mean(grouped, axis=axes, keepdims=True)
        variance = ops.mean(ops.square(grouped - mean), axis=axes, keepdims=True)
        return ops.reshape((grouped - mean) * ops.rsqrt(variance + EPSILON) * gamma + beta, shape)

    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        loss = ops.sum(weights * composed(x))
    expected = tape.gradient(loss, [x, gamma, beta])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = ops.sum(weights * layer(x, training=True))
    actual = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="splits=5, batch=12"):
        built(DENSE, 5)(inputs_of(DENSE), training=True)
    for arguments, received in (
        ({"splits": 0}, "splits=0"),
        ({"splits": 1.5}, "splits=1.5"),
        ({"splits": 2, "axis": 1}, "axis=1"),
        ({"splits": 2, "synchronized": True}, "splits=2, synchronized=True"),
    ):
        with pytest.raises(ValueError, match=f"Received: {received}"):
            SplitBatchNormalization(**arguments)
