"""The momentum update, equation 2."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_moco.methods import momentum_update
from keras_moco.networks import copy_weights


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


@pytest.mark.parametrize("momentum", [0.0, 0.99, 1.0])
def test_parameters_alone_follow_equation_2(momentum):
    key, query = network(1), network(2)
    before, statistics, source = map(values, (key.trainable_variables, key.non_trainable_variables, query.weights))
    momentum_update(key, query, momentum)
    assert (len(before), len(statistics)) == (6, 2)
    for variable, old, new in zip(key.trainable_variables, before, query.trainable_variables, strict=True):
        expected = momentum * old + (1 - momentum) * np.array(new)
        np.testing.assert_allclose(variable, expected, rtol=0 if momentum in (0, 1) else 1e-6)
    for ours, old in zip(key.non_trainable_variables + query.weights, statistics + source, strict=True):
        np.testing.assert_array_equal(ours, old)


def test_models_that_do_not_match_are_refused():
    query, key = network(1, "queries"), network(2, "keys", hidden=6)
    with pytest.raises(ValueError, match="8 weights in 'queries' and 8 in 'keys'"):
        copy_weights(query, key)
    with pytest.raises(ValueError, match="8 weights in 'queries' and 8 in 'keys'"):
        momentum_update(key, query, 0.5)
