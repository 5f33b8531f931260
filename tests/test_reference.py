"""The NumPy oracle against finite differences, closed forms and loops: an untested oracle proves nothing."""

import numpy as np
import pytest

from tests import reference
from tests.reference import MoCoReference

TEMPERATURE = 0.2


def unit_rows(rng, *shape):
    rows = rng.normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def make_reference(queue_size=13, batch_norm=False, **settings):
    parameters = reference.initial_parameters(12, 10, 6, seed=3, batch_norm=batch_norm)
    return MoCoReference(
        parameters, unit_rows(np.random.default_rng(4), queue_size, 6), temperature=TEMPERATURE, **settings
    )


def make_views(step=0, batch=8, noise=0.1):
    rng = np.random.default_rng(100 + step)
    images = rng.normal(size=(batch, 3, 4))
    return [images + noise * rng.normal(size=images.shape) for _ in range(2)]


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


def test_info_nce_gradient_matches_finite_differences():
    rng = np.random.default_rng(0)
    q, k, queue = unit_rows(rng, 5, 4), unit_rows(rng, 5, 4), unit_rows(rng, 9, 4)
    _, gradient = reference.info_nce(q, k, queue, TEMPERATURE)
    expected = numerical_gradient(lambda: reference.info_nce(q, k, queue, TEMPERATURE)[0], q)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "batch_norm, groups",
    [(False, None), (True, None), (True, reference.interleaved(8, 4)), (True, reference.contiguous(8, 2))],
    ids=["plain", "batch norm", "split batch norm", "batch norm on two replicas"],
)
def test_encoder_gradients_match_finite_differences(batch_norm, groups):
    parameters = reference.initial_parameters(12, 10, 6, seed=3, batch_norm=batch_norm)
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


def test_each_batch_norm_group_is_normalized_alone():
    x = np.random.default_rng(6).normal(2, 3, (12, 5))
    output, _, (mean, variance) = reference.batch_norm(x, np.ones(5), np.zeros(5), reference.interleaved(12, 4))
    for share in range(4):
        rows = x[share::4]
        np.testing.assert_allclose(
            output[share::4], (rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + 1e-5), rtol=1e-12
        )
        np.testing.assert_allclose(mean[share], rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(variance[share], rows.var(axis=0, ddof=1), rtol=1e-12)


def test_groups_of_rows_are_those_of_splits_and_of_replicas():
    np.testing.assert_array_equal(reference.interleaved(6, 3).T, [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(reference.contiguous(6, 3).T, [[0, 1], [2, 3], [4, 5]])


def test_sgd_decays_through_the_velocity_and_keeps_the_rate_outside():
    weights, velocity = {"w": np.array([1.0])}, {"w": np.array([0.0])}
    reference.sgd(weights, velocity, {"w": np.array([0.0])}, 1.0, momentum=0.5, weight_decay=0.2)
    reference.sgd(weights, velocity, {"w": np.array([0.0])}, 0.1, momentum=0.5, weight_decay=0.2)
    # v1 = 0.2, w1 = 0.8; v2 = 0.5 * 0.2 + 0.2 * 0.8, w2 = 0.8 - 0.1 * v2.
    assert weights["w"][0] == pytest.approx(0.8 - 0.1 * (0.1 + 0.16))


def test_key_encoder_follows_the_query_weights_of_the_step_before():
    moco = make_reference(momentum=0.9)
    first = moco.query["w1"].copy()
    moco.step(*make_views(0), learning_rate=0.5)
    np.testing.assert_allclose(moco.key["w1"], first, rtol=1e-12)  # equal before the first step
    second = moco.query["w1"].copy()
    assert np.abs(second - first).max() > 1e-3
    moco.step(*make_views(1), learning_rate=0.5)
    np.testing.assert_allclose(moco.key["w1"], 0.9 * first + 0.1 * second, rtol=1e-12)


def test_queue_is_a_ring_that_keeps_the_newest_keys():
    moco = make_reference(queue_size=13, momentum=1.0)
    views = [make_views(step) for step in range(3)]
    for query_images, key_images in views:
        moco.step(query_images, key_images, learning_rate=0.0)
    keys = np.concatenate([reference.encode(moco.key, key_images)[0] for _, key_images in views])  # (24, 6)
    assert moco.pointer == 24 % 13
    # Key number i is at i mod K; the newest 13 of 24 are left.
    np.testing.assert_allclose(moco.queue[np.arange(11, 24) % 13], keys[11:], rtol=1e-12)


def test_own_keys_are_no_negatives_of_the_step():
    moco = make_reference(queue_size=8)
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


def test_permutation_changes_keys_only_through_batch_norm_groups():
    query_images, key_images = make_views()
    permutation = np.random.default_rng(7).permutation(8)
    split, replicas = reference.interleaved(8, 4), reference.contiguous(8, 2)
    cases = [(False, None, True), (True, None, True), (True, split, False), (True, replicas, False)]
    for batch_norm, groups, equal in cases:
        ordered = make_reference(queue_size=8, batch_norm=batch_norm, groups=groups)
        shuffled = make_reference(queue_size=8, batch_norm=batch_norm, groups=groups)
        ordered.step(query_images, key_images, 0.1)
        shuffled.step(query_images, key_images, 0.1, permutation=permutation)
        assert np.allclose(ordered.queue, shuffled.queue, rtol=0, atol=1e-9) == equal


def test_moving_statistics_are_each_encoders_own():
    moco = make_reference(batch_norm=True, groups=reference.interleaved(8, 4))
    query_images, key_images = make_views()
    moco.step(query_images, key_images, 0.1)
    start = make_reference(batch_norm=True).query
    for images, statistics in [(query_images, moco.query_statistics), (key_images, moco.key_statistics)]:
        hidden = images.reshape(8, -1) @ start["w1"] + start["b1"]
        np.testing.assert_allclose(statistics["mean"], 0.1 * hidden.mean(axis=0), rtol=1e-9)
        variance = np.mean([hidden[share::4].var(axis=0, ddof=1) for share in range(4)], axis=0)
        np.testing.assert_allclose(statistics["variance"], 0.9 + 0.1 * variance, rtol=1e-9)
