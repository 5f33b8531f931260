"""The bank against rows of NumPy; what it draws; and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.layers import FeatureBank
from keras_moco.step_checks import plain_failures


def unit(rows):
    rows = np.asarray(rows, "float64")
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def new_vectors(n, dim=4, seed=0):
    return np.float32(unit(np.random.default_rng(seed).normal(size=(n, dim))))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_rows_follow_their_images(momentum):
    bank = FeatureBank(20, dim=4, momentum=momentum)
    expected = np.float64(bank.features)
    for step, indices in enumerate([[3, 0, 19], [7, 3, 1], [3, 8, 2]]):
        vectors = new_vectors(3, seed=step)
        bank.update(tf.constant(indices), tf.constant(vectors))
        for row, new in zip(indices, vectors, strict=True):
            expected[row] = unit(momentum * expected[row] + (1 - momentum) * new)
        np.testing.assert_allclose(bank.features, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bank.look_up([19, 3]), expected[[19, 3]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_indices_may_be_of_any_integer_type(dtype):
    bank = FeatureBank(9, dim=4)
    np.testing.assert_array_equal(bank.look_up(tf.constant([8, 0], dtype)), np.array(bank.features)[[8, 0]])


def test_it_starts_as_unit_vectors_in_all_directions():
    rows = np.array(FeatureBank(4096, dim=16).features)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), np.ones(4096), rtol=1e-5)
    # Uniform on the sphere: mean 0 and covariance I / 16; five standard errors of the estimates.
    np.testing.assert_allclose(rows.mean(axis=0), np.zeros(16), atol=5 * 16**-0.5 * 4096**-0.5)
    assert np.abs(np.array(FeatureBank(4096, dim=16, seed=1).features) - rows).max() > 0.1


# What is drawn.


@pytest.mark.parametrize("absent", [[0, 1, 2], [9, 8, 7], [4], [0, 9, 5, 3], list(range(1, 10))])
def test_absent_images_are_never_drawn_and_all_others_are(absent):
    bank = FeatureBank(10, dim=2)
    drawn = np.concatenate([bank.draw_indices(200, tf.constant(absent), step) for step in range(5)])
    assert set(drawn.tolist()) == set(range(10)) - set(absent)


@pytest.mark.parametrize("absent", [[5, 5, 5], [9, 9, 0], [0, 0, 1, 1]])
def test_an_image_that_is_there_twice_is_not_drawn_either(absent):
    bank = FeatureBank(10, dim=2)
    drawn = np.concatenate([bank.draw_indices(200, tf.constant(absent), step) for step in range(5)])
    assert drawn.min() >= 0 and drawn.max() < 10 and not set(drawn.tolist()) & set(absent)
    assert len(set(drawn.tolist())) == 10 - len(absent)


def test_draws_are_uniform_over_the_others():
    # 45 of 50 rows, 90,000 draws: chi-square with 44 degrees of freedom; its 99.9 % quantile is 78.7.
    bank, absent = FeatureBank(50, dim=2), [3, 17, 18, 40, 49]
    drawn = np.concatenate([bank.draw_indices(9000, tf.constant(absent), step) for step in range(10)])
    counts = np.delete(np.bincount(drawn, minlength=50), absent)
    assert ((counts - 2000) ** 2 / 2000).sum() < 78.7


def test_draws_hang_on_seed_and_step_alone():
    def drawn(seed, step):
        return tuple(np.array(FeatureBank(1000, 2, seed=seed).draw_indices(20, tf.constant([1]), step)).tolist())

    all_draws = {(seed, step): drawn(seed, step) for seed in range(3) for step in range(5)}
    assert len(set(all_draws.values())) == len(all_draws)
    assert drawn(2, tf.constant(4, tf.int64)) == all_draws[2, 4]


def test_more_may_be_drawn_than_there_are():
    bank = FeatureBank(5, dim=3)
    rows = np.array(bank.draw(64, tf.constant([2]), 0))
    assert rows.shape == (64, 3)
    assert {tuple(row) for row in rows} == {tuple(row) for row in np.delete(np.array(bank.features), 2, axis=0)}


def test_draws_are_the_same_with_xla():
    bank = FeatureBank(1000, dim=2, seed=2**40)

    def draw(step):
        return bank.draw_indices(512, tf.constant([5, 999, 5]), step)

    step = tf.constant(2**33, tf.int64)
    np.testing.assert_array_equal(tf.function(draw)(step), tf.function(draw, jit_compile=True)(step))


# What is refused.


@pytest.mark.parametrize("index", [-1, 10, 2**40])
@pytest.mark.parametrize("use", ["look_up", "update"])
def test_an_index_outside_of_the_bank_is_refused_and_nothing_changes(index, use):
    bank = FeatureBank(10, dim=2)
    before = np.array(bank.features)
    indices = tf.constant([3, index, 4], tf.int64)

    def step(indices):
        return bank.look_up(indices) if use == "look_up" else bank.update(indices, tf.ones((3, 2)))

    for function in (step, tf.function(step)):
        with pytest.raises(ValueError) as error, plain_failures():
            function(indices)
        assert str(error.value) == (
            "`index` of an image must be at least 0 and less than the size of the bank, 10. "
            f"Received: {index}. Make `bank_size` the number of training images, and count them from 0."
        )
    np.testing.assert_array_equal(bank.features, before)


@pytest.mark.parametrize("name, arguments", [("size", (0, 8)), ("size", (2.5, 8)), ("dim", (8, 0)), ("dim", (8, -1))])
def test_sizes_must_be_positive_integers(name, arguments):
    value = arguments[0] if name == "size" else arguments[1]
    with pytest.raises(ValueError) as error:
        FeatureBank(*arguments)
    assert str(error.value) == f"`{name}` must be a positive integer. Received: {name}={value}. Give 1 or more."


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_momentum_must_be_in_range(momentum):
    with pytest.raises(ValueError) as error:
        FeatureBank(8, 8, momentum=momentum)
    assert str(error.value) == (
        f"`momentum` of a bank must be in [0, 1]. Received: momentum={momentum}. Wu et al. use 0.5."
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_it_stays_in_single_precision(policy):
    keras.config.set_dtype_policy(policy)
    bank = FeatureBank(8, 4)
    bank.update([1], tf.ones((1, 4), policy.removeprefix("mixed_")))
    assert bank.features.dtype == "float32" and bank.look_up([1]).dtype == "float32"


def test_the_configuration_makes_the_same_layer():
    bank = FeatureBank(8, 4, momentum=0.25, seed=3, name="bank")
    again = keras.layers.deserialize(keras.layers.serialize(bank))
    assert again.get_config() == bank.get_config()
    np.testing.assert_array_equal(again.features, bank.features)
