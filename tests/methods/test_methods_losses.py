"""InfoNCE and NT-Xent against their formulas, and against values known without calculation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.methods.losses import in_batch, info_nce, nt_xent
from tests import reference_mechanisms


def unit(rng, *shape):
    rows = rng.normal(size=shape)
    return np.float32(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def loss_of(logits, labels):
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def test_loss_of_equal_similarities_is_the_log_of_the_number_of_candidates():
    def same(rows):
        return np.repeat(unit(np.random.default_rng(1), 1, 8), rows, 0)

    for negatives, temperature in ((1, 1.0), (4096, 0.07)):
        loss = loss_of(*info_nce(same(5), same(5), same(negatives), temperature))
        np.testing.assert_allclose(loss, np.full(5, np.log(1 + negatives)), rtol=1e-5)
    for images in (2, 64):
        one, own = same(images), np.arange(images)
        np.testing.assert_allclose(loss_of(*in_batch(one, one, own, 0.1)), np.full(images, np.log(images)), rtol=1e-5)
        expected = np.full(images, np.log(2 * images - 1))
        np.testing.assert_allclose(loss_of(*nt_xent(one, one, one, own, 0.1)), expected, rtol=1e-5)


def test_loss_is_equation_1():
    temperature = 0.2
    rng = np.random.default_rng(2)
    queries, keys, negatives = unit(rng, 6, 8), unit(rng, 6, 8), unit(rng, 30, 8)

    def one(q, k):
        positive = np.exp(q @ k / temperature)
        return -np.log(positive / (positive + sum(np.exp(q @ row / temperature) for row in negatives)))

    expected = [one(q, k) for q, k in zip(np.float64(queries), np.float64(keys), strict=True)]
    np.testing.assert_allclose(loss_of(*info_nce(queries, keys, negatives, temperature)), expected, rtol=1e-5)


# Within a batch: six images, of which a replica has the third to the fifth.
OWN = np.array([2, 3, 4])


def three_of_six():
    rng = np.random.default_rng(5)
    first, second = unit(rng, 6, 8), unit(rng, 6, 8)
    return first[OWN], first, second


def test_in_batch_compares_each_query_with_all_keys_and_names_its_own():
    queries, _, keys = three_of_six()
    logits, labels = in_batch(queries, keys, OWN, temperature=0.2)
    np.testing.assert_allclose(logits, queries @ keys.T / 0.2, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, OWN)


def test_nt_xent_compares_each_query_with_all_other_views():
    queries, siblings, keys = three_of_six()
    logits, labels = nt_xent(queries, keys, siblings, OWN, temperature=0.5)
    assert logits.shape == (3, 2 * 6 - 1)
    np.testing.assert_array_equal(labels, OWN)
    for query, own, row in zip(queries, OWN, np.array(logits), strict=True):
        others = np.delete(siblings, own, axis=0)
        np.testing.assert_allclose(row, np.concatenate([keys, others]) @ query / 0.5, rtol=1e-5, atol=1e-6)


def test_nt_xent_over_both_views_is_equation_1_of_simclr_with_its_gradient():
    rng = np.random.default_rng(6)
    views = unit(rng, 12, 8)
    watched = tf.constant(views)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        first, second = tf.split(watched, 2)
        both = [nt_xent(first, second, first, np.arange(6), 0.5), nt_xent(second, first, second, np.arange(6), 0.5)]
        loss = tf.reduce_mean([loss_of(*each) for each in both])
    expected, gradient = reference_mechanisms.nt_xent(np.float64(views), 0.5)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, watched), gradient, rtol=1e-4, atol=1e-6)
