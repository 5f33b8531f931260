"""InfoNCE against its formula, and against the values known without any calculation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.contrast import info_nce
from tests import reference


def unit(rng, *shape):
    rows = rng.normal(size=shape)
    return np.float32(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def loss_of(logits, labels):
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("negatives", [1, 64, 4096])
def test_with_equal_similarities_the_loss_is_the_log_of_the_number_of_candidates(negatives, temperature):
    one = unit(np.random.default_rng(1), 1, 8)
    loss = loss_of(*info_nce(np.repeat(one, 5, 0), np.repeat(one, 5, 0), np.repeat(one, negatives, 0), temperature))
    np.testing.assert_allclose(loss, np.full(5, np.log(1 + negatives)), rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_the_loss_is_equation_1(temperature):
    rng = np.random.default_rng(2)
    queries, keys, negatives = unit(rng, 6, 8), unit(rng, 6, 8), unit(rng, 30, 8)

    def one(q, k):
        positive = np.exp(q @ k / temperature)
        return -np.log(positive / (positive + sum(np.exp(q @ row / temperature) for row in negatives)))

    expected = [one(q, k) for q, k in zip(np.float64(queries), np.float64(keys), strict=True)]
    np.testing.assert_allclose(loss_of(*info_nce(queries, keys, negatives, temperature)), expected, rtol=1e-5)


def test_the_positive_is_candidate_0_and_divided_by_the_temperature_as_the_others():
    rng = np.random.default_rng(3)
    queries, keys, negatives = unit(rng, 4, 8), unit(rng, 4, 8), unit(rng, 10, 8)
    logits, labels = info_nce(queries, keys, negatives, temperature=0.5)
    np.testing.assert_array_equal(labels, np.zeros(4, "int32"))
    np.testing.assert_allclose(logits[:, 0], np.diag(queries @ keys.T) / 0.5, atol=1e-6)
    np.testing.assert_allclose(logits[:, 1:], queries @ negatives.T / 0.5, atol=1e-6)


def test_the_gradient_of_the_queries_equals_the_one_derived_by_hand():
    rng = np.random.default_rng(4)
    queries, keys, negatives = unit(rng, 6, 8), unit(rng, 6, 8), unit(rng, 30, 8)
    watched = tf.constant(queries)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        loss = tf.reduce_mean(loss_of(*info_nce(watched, keys, negatives, 0.2)))
    _, expected = reference.info_nce(np.float64(queries), np.float64(keys), np.float64(negatives), 0.2)
    np.testing.assert_allclose(tape.gradient(loss, watched), expected, rtol=1e-4, atol=1e-6)
