"""The oracles of the other mechanisms against finite differences, closed forms and loops."""

import numpy as np
import pytest

from tests import reference
from tests import reference_mechanisms as mechanisms
from tests.test_reference import make_views, numerical_gradient, unit_rows

TEMPERATURE = 0.2


def test_in_batch_gradients_match_finite_differences():
    rng = np.random.default_rng(0)
    q, k = unit_rows(rng, 5, 4), unit_rows(rng, 5, 4)
    _, gradient_q, gradient_k = mechanisms.in_batch(q, k, TEMPERATURE)

    def loss():
        return mechanisms.in_batch(q, k, TEMPERATURE)[0]

    np.testing.assert_allclose(gradient_q, numerical_gradient(loss, q), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(gradient_k, numerical_gradient(loss, k), rtol=1e-6, atol=1e-8)


def test_nt_xent_gradient_matches_finite_differences():
    z = unit_rows(np.random.default_rng(0), 6, 4)
    _, gradient = mechanisms.nt_xent(z, TEMPERATURE)
    expected = numerical_gradient(lambda: mechanisms.nt_xent(z, TEMPERATURE)[0], z)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


def test_nt_xent_is_equation_1_of_simclr_over_both_orders_of_every_pair():
    z, n = unit_rows(np.random.default_rng(1), 8, 5), 4

    def one(i, j):
        below = sum(np.exp(z[i] @ z[k] / TEMPERATURE) for k in range(2 * n) if k != i)
        return -np.log(np.exp(z[i] @ z[j] / TEMPERATURE) / below)

    expected = sum(one(i, i + n) + one(i + n, i) for i in range(n)) / (2 * n)
    assert mechanisms.nt_xent(z, TEMPERATURE)[0] == pytest.approx(expected, abs=1e-12)


def test_equal_similarities_give_the_log_of_the_number_of_candidates():
    same = np.tile(np.eye(4)[:1], (6, 1))
    assert mechanisms.in_batch(same, same, TEMPERATURE)[0] == pytest.approx(np.log(6), abs=1e-12)
    assert mechanisms.nt_xent(same, TEMPERATURE)[0] == pytest.approx(np.log(5), abs=1e-12)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch norm"])
def test_end_to_end_descends_the_numerical_gradient(shared, batch_norm):
    start = reference.initial_parameters(12, 10, 6, seed=3, batch_norm=batch_norm)
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

    weights = mechanisms.copied(start)
    others = weights if shared else mechanisms.copied(start)
    for name, array in start.items():
        step = numerical_gradient(lambda: loss(weights, others), weights[name])
        np.testing.assert_allclose(oracle.query[name], array - step, rtol=1e-5, atol=1e-7, err_msg=name)
        step = numerical_gradient(lambda: loss(weights, others), others[name])
        np.testing.assert_allclose(oracle.key[name], array - step, rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_bank_moves_the_rows_of_its_batch_only():
    start = reference.initial_parameters(12, 10, 6, seed=3)
    bank = unit_rows(np.random.default_rng(4), 20, 6)
    oracle = mechanisms.MemoryBankReference(start, bank, bank_momentum=0.0, temperature=TEMPERATURE)
    images, index = make_views()[0], np.array([3, 19, 0, 7, 8, 11, 2, 5])
    oracle.step(images, index, np.array([1, 4]), 0.1)
    expected = bank.copy()
    expected[index] = reference.encode(start, images)[0]
    np.testing.assert_allclose(oracle.bank, expected, rtol=1e-12)


def test_lars_moves_a_kernel_by_its_own_length_times_the_trust():
    parameters = {"kernel": np.array([[3.0, 4.0]]), "bias": np.array([1.0])}
    velocity = mechanisms.zeros_like(parameters)
    gradients = {"kernel": np.array([[0.0, 0.02]]), "bias": np.array([0.5])}
    mechanisms.lars(parameters, velocity, gradients, learning_rate=2.0, momentum=0.9, weight_decay=0.0, trust=0.1)
    np.testing.assert_allclose(parameters["kernel"], [[3.0, 3.0]])  # 4 - 2 * 0.1 * 5, whatever the gradient's length
    np.testing.assert_allclose(parameters["bias"], [0.0])  # 1 - 2 * 0.5
    # The rate is part of the velocity, so the weights move on although the next rate is 0.
    mechanisms.lars(parameters, velocity, gradients, learning_rate=0.0, momentum=0.9, weight_decay=0.0, trust=0.1)
    np.testing.assert_allclose(parameters["kernel"], [[3.0, 2.1]])
