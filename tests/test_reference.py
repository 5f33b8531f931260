"""The NumPy oracles against finite differences and hand-counted numbers.

The comparisons with the package show the rest: which gradients, statistics and velocities follow from these steps.
"""

import numpy as np
import pytest

from tests import reference
from tests import reference_mechanisms as mechanisms
from tests.reference import MoCoReference

TEMPERATURE = 0.2


def unit_rows(rng, *shape):
    rows = rng.normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def make_reference(queue_size=8, **settings):
    parameters = reference.initial_parameters(12, 10, 6, seed=3)
    queue = unit_rows(np.random.default_rng(4), queue_size, 6)
    return MoCoReference(parameters, queue, temperature=TEMPERATURE, **settings)


def make_views(step=0):
    rng = np.random.default_rng(100 + step)
    images = rng.normal(size=(8, 3, 4))
    return [images + 0.1 * rng.normal(size=images.shape) for _ in range(2)]


def numerical_gradient(function, array, step=1e-6):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = function()
        array[index] = kept - step
        below = function()
        array[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


@pytest.mark.parametrize("groups", [None, reference.interleaved(8, 4)], ids=["plain", "split batch norm"])
def test_encoder_gradients_match_finite_differences(groups):
    parameters = reference.initial_parameters(12, 10, 6, seed=3, batch_norm=groups is not None)
    rng = np.random.default_rng(5)
    images, k, queue = make_views()[0], unit_rows(rng, 8, 6), unit_rows(rng, 13, 6)

    def forward():
        q, cache = reference.encode(parameters, images, reference.initial_statistics(10), groups)
        return *reference.info_nce(q, k, queue, TEMPERATURE), cache

    _, gradient_q, cache = forward()
    gradients = reference.encode_backward(gradient_q, cache)
    assert gradients.keys() == parameters.keys()
    for name, array in parameters.items():
        expected = numerical_gradient(lambda: forward()[0], array)
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


# MoCo


def test_the_key_encoder_follows_the_query_weights_of_the_previous_step():
    moco = make_reference(momentum=0.9)
    first = moco.query["w1"].copy()
    moco.step(*make_views(0), learning_rate=0.5)
    np.testing.assert_allclose(moco.key["w1"], first, rtol=1e-12)  # equal before the first step
    second = moco.query["w1"].copy()
    assert np.abs(second - first).max() > 1e-3
    moco.step(*make_views(1), learning_rate=0.5)
    np.testing.assert_allclose(moco.key["w1"], 0.9 * first + 0.1 * second, rtol=1e-12)


def test_the_keys_of_a_step_are_not_its_negatives():
    moco = make_reference()
    queue = moco.queue.copy()
    query_images, key_images = make_views()
    q, _ = reference.encode(moco.query, query_images)
    k, _ = reference.encode(moco.query, key_images)
    loss = moco.step(query_images, key_images, learning_rate=0.1)
    assert loss == pytest.approx(reference.info_nce(q, k, queue, TEMPERATURE)[0], rel=1e-12)
    np.testing.assert_allclose(moco.queue, k, rtol=1e-12)


def test_symmetric_loss_is_the_sum_of_both_directions_against_one_queue():
    symmetric = make_reference(queue_size=16, symmetric=True)
    query_images, key_images = make_views()
    there, back = make_reference(queue_size=16), make_reference(queue_size=16)
    expected = there.step(query_images, key_images, 0.1) + back.step(key_images, query_images, 0.1)
    assert symmetric.step(query_images, key_images, 0.1) == pytest.approx(expected, rel=1e-12)
    for name, start in make_reference().query.items():
        moved = (there.query[name] - start) + (back.query[name] - start)
        np.testing.assert_allclose(symmetric.query[name] - start, moved, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(symmetric.queue, np.concatenate([there.queue[:8], back.queue[:8]]), rtol=1e-12)


# The other mechanisms


def test_nt_xent_is_equation_1_of_simclr_over_both_orders_of_every_pair():
    z, n = unit_rows(np.random.default_rng(1), 8, 5), 4

    def one(i, j):
        below = sum(np.exp(z[i] @ z[k] / TEMPERATURE) for k in range(2 * n) if k != i)
        return -np.log(np.exp(z[i] @ z[j] / TEMPERATURE) / below)

    expected = sum(one(i, i + n) + one(i + n, i) for i in range(n)) / (2 * n)
    assert mechanisms.nt_xent(z, TEMPERATURE)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_end_to_end_descends_the_numerical_gradient(shared):
    start = reference.initial_parameters(12, 10, 6, seed=3, batch_norm=True)
    query, key = make_views()
    order = np.random.default_rng(2).permutation(len(query))
    groups = reference.interleaved(8, 2)
    settings = {"shared": shared, "temperature": TEMPERATURE, "sgd_momentum": 0.0, "groups": groups}
    oracle = mechanisms.EndToEndReference(start, **settings)
    oracle.step(query, key, 1.0, order)

    def loss(query_weights, key_weights):
        q, _ = reference.encode(query_weights, query, reference.initial_statistics(10), groups)
        shuffled, _ = reference.encode(key_weights, key[order], reference.initial_statistics(10), groups)
        return mechanisms.in_batch(q, shuffled[np.argsort(order)], TEMPERATURE)[0]

    weights = reference.copied(start)
    others = weights if shared else reference.copied(start)
    for name, array in start.items():
        for found, moved in ((oracle.query, weights), (oracle.key, others)):
            step = numerical_gradient(lambda: loss(weights, others), moved[name])
            np.testing.assert_allclose(found[name], array - step, rtol=1e-5, atol=1e-7, err_msg=name)


def test_lars_scales_the_step_of_a_kernel_by_its_norm():
    parameters = {"kernel": np.array([[3.0, 4.0]]), "bias": np.array([1.0])}
    velocity = reference.zeros_like(parameters)
    gradients = {"kernel": np.array([[0.0, 0.02]]), "bias": np.array([0.5])}
    mechanisms.lars(parameters, velocity, gradients, learning_rate=2.0, momentum=0.9, weight_decay=0.0, trust=0.1)
    np.testing.assert_allclose(parameters["kernel"], [[3.0, 3.0]])  # 4 - 2 * 0.1 * 5, whatever the gradient's length
    np.testing.assert_allclose(parameters["bias"], [0.0])  # 1 - 2 * 0.5
    # The rate is part of the velocity, so the weights still move although the next rate is 0.
    mechanisms.lars(parameters, velocity, gradients, learning_rate=0.0, momentum=0.9, weight_decay=0.0, trust=0.1)
    np.testing.assert_allclose(parameters["kernel"], [[3.0, 2.1]])
