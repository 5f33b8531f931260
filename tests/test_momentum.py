"""The key encoder's two moves: the copy at the start, and equation 2 afterwards."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_moco.momentum import copy_weights, momentum_update


def network(seed, name=None, hidden=5):
    """Dense, BatchNorm, dense, with every weight drawn at random, moving statistics included."""
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(hidden), layers.BatchNormalization(), layers.Dense(3)], name=name
    )
    rng = np.random.default_rng(seed)
    model.set_weights([np.float32(rng.uniform(0.1, 1, w.shape)) for w in model.weights])
    return model


def values(variables):
    return [np.array(variable) for variable in variables]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99, 0.999, 1.0])
def test_every_parameter_follows_equation_2(momentum):
    key, query = network(1), network(2)
    before, source = values(key.trainable_variables), values(query.trainable_variables)
    momentum_update(key, query, momentum)
    assert len(before) == 6
    for variable, old, new in zip(key.trainable_variables, before, source, strict=True):
        np.testing.assert_allclose(variable, momentum * old + (1 - momentum) * new, rtol=1e-6)


def test_momentum_0_copies_the_parameters():
    key, query = network(1), network(2)
    momentum_update(key, query, 0.0)
    for ours, theirs in zip(key.trainable_variables, query.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_momentum_1_leaves_the_parameters():
    key, query = network(1), network(2)
    before = values(key.trainable_variables)
    momentum_update(key, query, 1.0)
    for ours, old in zip(key.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(ours, old)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_moving_statistics_are_no_parameters_and_stay(momentum):
    key, query = network(1), network(2)
    before = values(key.non_trainable_variables)
    momentum_update(key, query, momentum)
    assert len(before) == 2
    for ours, old in zip(key.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(ours, old)


def test_the_query_encoder_is_not_moved():
    key, query = network(1), network(2)
    before = values(query.weights)
    momentum_update(key, query, 0.5)
    for theirs, old in zip(query.weights, before, strict=True):
        np.testing.assert_array_equal(theirs, old)


def test_the_first_copy_takes_every_weight_moving_statistics_included():
    key, query = network(1), network(2)
    copy_weights(query, key)
    assert len(key.weights) == 8
    for ours, theirs in zip(key.weights, query.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "operation",
    [copy_weights, lambda source, target: momentum_update(target, source, 0.5)],
    ids=["copy", "momentum update"],
)
def test_models_that_do_not_match_are_refused(operation):
    query, key = network(1, "queries"), network(2, "keys", hidden=6)
    with pytest.raises(ValueError) as error:
        operation(query, key)
    assert str(error.value) == (
        "`source` and `target` must have the same weights in the same order. Received: 8 weights in 'queries' "
        "and 8 in 'keys', or other shapes. Build both from one configuration."
    )
