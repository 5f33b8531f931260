"""Each group by its own statistics, everything else as in Keras's BatchNormalization or PyTorch's BatchNorm."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_moco.layers import SplitBatchNormalization

SHAPES = [(12, 3), (12, 4, 5, 3)]
RANKS = ["rank 2", "rank 4"]
EPSILON = 1e-5


def inputs_of(shape):
    rng = np.random.default_rng(0)
    # Neighbours differ in location and scale, so that another grouping gives other numbers.
    scale = rng.uniform(0.5, 4, (shape[0],) + (1,) * (len(shape) - 1))
    return np.float32(rng.normal(1, 1, shape) * scale + scale)


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


@pytest.mark.parametrize("splits", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("shape", SHAPES, ids=RANKS)
def test_each_group_is_normalised_by_its_own_statistics(shape, splits):
    x, layer = inputs_of(shape), built(shape, splits)
    gamma, beta = np.array(layer.gamma), np.array(layer.beta)
    expected = np.empty_like(x)
    for start, group in enumerate(groups_of(x, splits)):
        mean, variance = flat(group).mean(axis=0), flat(group).var(axis=0)
        expected[start::splits] = (group - mean) / np.sqrt(variance + EPSILON) * gamma + beta
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=RANKS)
def test_float64_is_exact_to_float64(shape, splits):
    x, layer = np.float64(inputs_of(shape)), built(shape, splits, dtype="float64")
    gamma, beta, mean, variance = map(np.array, layer.weights)
    expected = np.empty_like(x)
    means, variances = [], []
    for start, group in enumerate(groups_of(x, splits)):
        means.append(flat(group).mean(axis=0))
        variances.append(flat(group).var(axis=0, ddof=1))
        expected[start::splits] = (group - means[-1]) / np.sqrt(flat(group).var(axis=0) + EPSILON) * gamma + beta
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * mean + 0.1 * np.mean(means, axis=0), rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, 0.9 * variance + 0.1 * np.mean(variances, axis=0), rtol=1e-12)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=RANKS)
def test_moving_statistics_follow_the_average_of_the_groups_with_the_unbiased_variance(shape, splits):
    x, layer = inputs_of(shape), built(shape, splits, momentum=0.8)
    mean, variance = np.array(layer.moving_mean), np.array(layer.moving_variance)
    for _ in range(2):
        layer(x, training=True)
        mean = 0.8 * mean + 0.2 * np.mean([flat(g).mean(axis=0) for g in groups_of(x, splits)], axis=0)
        variance = 0.8 * variance + 0.2 * np.mean([flat(g).var(axis=0, ddof=1) for g in groups_of(x, splits)], axis=0)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


def frozen(layer):
    layer.trainable = False
    return layer


@pytest.mark.parametrize(
    "prepare, training", [(lambda layer: layer, False), (frozen, True)], ids=["inference", "frozen in training"]
)
@pytest.mark.parametrize("shape", SHAPES, ids=RANKS)
def test_in_inference_it_is_keras_layer_with_the_same_weights(shape, prepare, training):
    x, layer = inputs_of(shape), prepare(built(shape, 2))
    keras_layer = layers.BatchNormalization(momentum=0.9, epsilon=EPSILON)
    keras_layer.build((None, *shape[1:]))
    keras_layer.set_weights(layer.get_weights())
    before = layer.get_weights()
    np.testing.assert_allclose(layer(x, training=training), keras_layer(x, training=False), rtol=1e-6, atol=1e-6)
    for ours, old in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, old)
    # 11 examples: without training nothing is split.
    assert layer(x[:11], training=training).shape == (11, *shape[1:])


def test_with_one_group_it_is_keras_layer_but_for_the_moving_variance():
    shape = (12, 4, 5, 3)
    x, layer = inputs_of(shape), built(shape, 1)
    keras_layer = layers.BatchNormalization(momentum=0.9, epsilon=EPSILON)
    keras_layer.build((None, *shape[1:]))
    keras_layer.set_weights(layer.get_weights())
    np.testing.assert_allclose(layer(x, training=True), keras_layer(x, training=True), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean, keras_layer.moving_mean, rtol=1e-5)
    positions = 12 * 4 * 5
    old = np.array(built(shape, 1).moving_variance) * 0.9
    biased, unbiased = np.array(keras_layer.moving_variance) - old, np.array(layer.moving_variance) - old
    np.testing.assert_allclose(unbiased / biased, np.full(3, positions / (positions - 1)), rtol=1e-4)


@pytest.mark.parametrize("scale, center", [(False, True), (True, False), (False, False)])
def test_scale_and_offset_can_be_left_out(scale, center):
    x = inputs_of((12, 3))
    layer = SplitBatchNormalization(2, scale=scale, center=center)
    outputs = layer(x, training=True)
    assert len(layer.trainable_variables) == scale + center
    for group in groups_of(np.array(outputs), 2):
        np.testing.assert_allclose(group.mean(axis=0), np.zeros(3), atol=1e-5)
        np.testing.assert_allclose(group.std(axis=0), np.ones(3), atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=RANKS)
def test_mixed_precision_computes_in_half_and_keeps_statistics_in_single(shape, policy):
    x = inputs_of(shape)
    exact = SplitBatchNormalization(2)
    expected = np.array(exact(x, training=True))
    layer = SplitBatchNormalization(2, dtype=policy)
    half = policy.removeprefix("mixed_")
    for training in (True, False):
        assert keras.backend.standardize_dtype(layer(x, training=training).dtype) == half
    outputs = SplitBatchNormalization(2, dtype=policy)(x, training=True)
    np.testing.assert_allclose(ops.cast(outputs, "float32"), expected, atol=0.05)
    assert {w.dtype for w in layer.weights} == {"float32"}
    np.testing.assert_allclose(layer.moving_variance, exact.moving_variance, rtol=0.02)


@pytest.mark.parametrize("shape", SHAPES, ids=RANKS)
def test_the_batch_size_may_be_unknown_when_the_graph_is_built(shape):
    x, layer = inputs_of(shape), built(shape, 3)
    same = built(shape, 3)

    @tf.function(input_signature=[tf.TensorSpec((None, *shape[1:]), tf.float32)])
    def call(images):
        return layer(images, training=True)

    np.testing.assert_allclose(call(x), same(x, training=True), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, same.moving_variance, rtol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError):
        call(x[:11])


def test_height_and_width_may_be_unknown_when_the_graph_is_built():
    shape = (12, 4, 5, 3)
    x, layer, same = inputs_of(shape), built(shape, 3), built(shape, 3)
    signature = [tf.TensorSpec((None, None, None, 3), tf.float32)]
    call = tf.function(lambda images: layer(images, training=True), input_signature=signature)
    np.testing.assert_allclose(call(x), same(x, training=True), rtol=1e-5, atol=1e-5)


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError) as error:
        built((12, 3), 5)(inputs_of((12, 3)), training=True)
    assert (
        "`splits` must divide the batch of each replica. Received: splits=5, batch=12. "
        "Change `bn_splits` or the batch size."
    ) in str(error.value)


@pytest.mark.parametrize("splits", [0, -2, 1.5])
def test_splits_must_be_a_positive_integer(splits):
    with pytest.raises(ValueError) as error:
        SplitBatchNormalization(splits)
    assert str(error.value) == (f"`splits` must be a positive integer. Received: splits={splits}. Use 1 for no split.")


def test_another_axis_is_refused():
    with pytest.raises(ValueError) as error:
        SplitBatchNormalization(2, axis=1)
    assert str(error.value) == (
        "`axis` must be -1 in split BatchNorm. Received: axis=1. Use keras.layers.BatchNormalization."
    )


def test_statistics_are_either_split_or_shared():
    with pytest.raises(ValueError) as error:
        SplitBatchNormalization(2, synchronized=True)
    assert str(error.value) == (
        "`splits` must be 1 where all replicas share their statistics. "
        "Received: splits=2, synchronized=True. Choose one of both."
    )


def test_the_configuration_makes_the_same_layer():
    layer = SplitBatchNormalization(4, momentum=0.7, epsilon=1e-3, center=False, name="norm")
    restored = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(restored) is SplitBatchNormalization
    assert restored.get_config() == layer.get_config()
    assert (restored.splits, restored.momentum, restored.epsilon, restored.center) == (4, 0.7, 1e-3, False)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=RANKS)
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
