"""The bank against rows of NumPy, what it draws, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf

from keras_moco.checks.graph import plain_failures
from keras_moco.layers import FeatureBank


def unit(rows):
    rows = np.asarray(rows, "float64")
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0])
def test_rows_follow_their_images(momentum):
    bank = FeatureBank(20, dim=4, momentum=momentum)
    expected = np.float64(bank.features)
    for step, indices in enumerate([[3, 0, 19], [7, 3, 1], [3, 8, 2]]):
        vectors = np.float32(unit(np.random.default_rng(step).normal(size=(3, 4))))
        bank.update(tf.constant(indices), tf.constant(vectors))
        for row, new in zip(indices, vectors, strict=True):
            expected[row] = unit(momentum * expected[row] + (1 - momentum) * new)
        np.testing.assert_allclose(bank.features, expected, rtol=1e-5, atol=1e-6)
    for dtype in ("int32", "int64", "uint8"):
        np.testing.assert_array_equal(bank.look_up(tf.constant([19, 3], dtype)), np.array(bank.features)[[19, 3]])


# What is drawn


def test_all_images_but_the_absent_ones_are_drawn():
    bank = FeatureBank(10, dim=2)
    for absent in ([0, 1, 2], [9, 8, 7], list(range(1, 10)), [5, 5, 5], [0, 0, 1, 1]):
        drawn = np.concatenate([bank.draw_indices(200, tf.constant(absent), step) for step in range(5)])
        assert not set(drawn.tolist()) & set(absent), absent
        assert len(set(drawn.tolist())) == 10 - len(absent), absent  # each repetition excludes another image


def test_draws_are_uniform_over_the_others():
    # 45 of 50 rows, 90,000 draws: chi-square with 44 degrees of freedom; its 99.9 % quantile is 78.7.
    bank, absent = FeatureBank(50, dim=2), [3, 17, 18, 40, 49]
    drawn = np.concatenate([bank.draw_indices(9000, tf.constant(absent), step) for step in range(10)])
    counts = np.delete(np.bincount(drawn, minlength=50), absent)
    assert ((counts - 2000) ** 2 / 2000).sum() < 78.7


def test_draws_depend_on_seed_and_step_alone():
    def drawn(seed, step):
        return tuple(np.array(FeatureBank(1000, 2, seed=seed).draw_indices(20, tf.constant([1]), step)).tolist())

    all_draws = {(seed, step): drawn(seed, step) for seed in range(2) for step in range(3)}
    assert len(set(all_draws.values())) == len(all_draws)
    assert drawn(1, tf.constant(2, tf.int64)) == all_draws[1, 2]


def test_draws_are_the_same_with_xla():
    bank = FeatureBank(1000, dim=2, seed=2**40)

    def draw(step):
        return bank.draw_indices(512, tf.constant([5, 999, 5]), step)

    step = tf.constant(2**33, tf.int64)
    np.testing.assert_array_equal(tf.function(draw)(step), tf.function(draw, jit_compile=True)(step))


# What is refused


@pytest.mark.parametrize("index", [-1, 10, 2**40])
@pytest.mark.parametrize("use", ["look_up", "update"])
def test_index_outside_the_bank_is_refused_and_changes_nothing(index, use):
    bank = FeatureBank(10, dim=2)
    before = np.array(bank.features)
    indices = tf.constant([3, index, 4], tf.int64)

    def step(indices):
        return bank.look_up(indices) if use == "look_up" else bank.update(indices, tf.ones((3, 2)))

    for function in (step, tf.function(step)):
        with pytest.raises(ValueError, match=rf"size of the bank, 10\. Received: {index}\."), plain_failures():
            function(indices)
    np.testing.assert_array_equal(bank.features, before)


def test_arguments_out_of_range_are_refused():
    for name, value in (("size", 0), ("size", 2.5), ("dim", -1), ("momentum", 1.1), ("momentum", float("nan"))):
        with pytest.raises(ValueError, match=f"`{name}` .* Received: {name}={value}"):
            FeatureBank(**{"size": 8, "dim": 8, name: value})
