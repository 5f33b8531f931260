"""SGD and LARS against their formulas in NumPy, over a learning rate that changes at every step."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.optimizers.schedules import ExponentialDecay

from keras_moco.optimizers import LARS, SGD
from keras_moco.schedules import learning_rate
from tests import reference_mechanisms

STEPS = 6
RATES = ExponentialDecay(0.5, decay_steps=1, decay_rate=0.5)  # halves at every step


def gradients_and_start(shape=(3, 2)):
    rng = np.random.default_rng(1)
    return rng.normal(size=(STEPS, *shape)), rng.normal(size=shape)


def pytorch(start, gradients, momentum, weight_decay, nesterov):
    """The algorithm in the documentation of `torch.optim.SGD` (dampening 0)."""
    w, v = start.copy(), np.zeros_like(start)
    for step, gradient in enumerate(gradients):
        g = gradient + weight_decay * w
        v = momentum * v + g
        w = w - 0.5 * 0.5**step * (g + momentum * v if nesterov else v)
    return w, v


def run(optimizer, start, gradients):
    w = keras.Variable(np.float32(start))
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient, "float32")], [w])
    return np.array(w)


@pytest.mark.parametrize("nesterov", [False, True], ids=["plain", "nesterov"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_pytorchs(momentum, weight_decay, nesterov):
    gradients, start = gradients_and_start()
    optimizer = SGD(RATES, momentum, weight_decay, nesterov)
    expected, velocity = pytorch(start, gradients, momentum, weight_decay, nesterov)
    np.testing.assert_allclose(run(optimizer, start, gradients), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(optimizer.velocities[0], velocity, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1], ids=["rate in the velocity", "and decoupled decay"])
def test_keras_own_sgd_is_another_algorithm_when_the_rate_changes(weight_decay):
    gradients, start = gradients_and_start()
    theirs = run(keras.optimizers.SGD(RATES, 0.9, weight_decay=weight_decay or None), start, gradients)
    expected, _ = pytorch(start, gradients, 0.9, weight_decay, nesterov=False)
    assert np.abs(theirs - expected).max() > 0.1


def test_keras_own_sgd_is_the_same_at_a_constant_rate_without_decay():
    gradients, start = gradients_and_start()
    ours = run(SGD(0.1, 0.9, weight_decay=0.0), start, gradients)
    np.testing.assert_allclose(ours, run(keras.optimizers.SGD(0.1, 0.9), start, gradients), rtol=1e-5, atol=1e-6)


def test_weight_decay_reaches_biases_and_batch_norm():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    model.set_weights([np.full(w.shape, 2.0, "float32") for w in model.weights])
    optimizer = SGD(0.5, momentum=0.9, weight_decay=0.1)
    optimizer.apply([ops.zeros(w.shape) for w in model.trainable_variables], model.trainable_variables)
    assert [w.name for w in model.trainable_variables] == ["kernel", "bias", "gamma", "beta"]
    for w in model.trainable_variables:
        np.testing.assert_allclose(w, np.full(w.shape, 2.0 - 0.5 * 0.1 * 2.0), rtol=1e-6)


def test_the_configuration_makes_the_same_optimizer():
    gradients, start = gradients_and_start()
    optimizer = SGD(learning_rate("cosine", 0.3, 3, 2), momentum=0.8, weight_decay=0.05, nesterov=True, clipnorm=1.0)
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(restored) is SGD
    assert restored.get_config() == optimizer.get_config()
    np.testing.assert_array_equal(run(restored, start, gradients), run(optimizer, start, gradients))


@pytest.mark.parametrize("optimizer", [SGD, LARS])
@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_must_be_in_range(momentum, optimizer):
    with pytest.raises(ValueError) as error:
        optimizer(momentum=momentum)
    assert str(error.value) == f"`momentum` must be in [0, 1). Received: momentum={momentum}. The recipes use 0.9."


@pytest.mark.parametrize("optimizer", [SGD, LARS])
def test_weight_decay_must_not_be_negative(optimizer):
    with pytest.raises(ValueError) as error:
        optimizer(weight_decay=-0.1)
    assert str(error.value) == ("`weight_decay` must not be negative. Received: weight_decay=-0.1. Use 0 for none.")


# LARS


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 3, 4), (5,)], ids=["dense", "convolution", "bias"])
def test_lars_is_the_papers(shape, momentum, weight_decay):
    gradients, start = gradients_and_start(shape)
    optimizer = LARS(RATES, momentum, weight_decay, trust=0.02)
    weights, velocity = {"w": start.copy()}, {"w": np.zeros(shape)}
    for step, gradient in enumerate(gradients):
        reference_mechanisms.lars(weights, velocity, {"w": gradient}, 0.5 * 0.5**step, momentum, weight_decay, 0.02)
    np.testing.assert_allclose(run(optimizer, start, gradients), weights["w"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(optimizer.velocities[0], velocity["w"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("start, gradient", [(np.zeros((2, 2)), np.ones((2, 2))), (np.ones((2, 2)), np.zeros((2, 2)))])
def test_lars_does_not_adapt_where_a_norm_is_0(start, gradient):
    moved = run(LARS(0.5, momentum=0.0, weight_decay=0.0), start, [gradient])
    np.testing.assert_allclose(moved, start - 0.5 * gradient)


def test_lars_leaves_biases_and_batch_norm_without_decay():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    model.set_weights([np.full(w.shape, 2.0, "float32") for w in model.weights])
    optimizer = LARS(0.5, momentum=0.9, weight_decay=0.1)
    optimizer.apply([ops.zeros(w.shape) for w in model.trainable_variables], model.trainable_variables)
    kernel, *others = model.trainable_variables
    # The gradient is the decay alone, 0.1 * w, of which the rate takes 0.5 * 0.001 * |w| / |0.1 w|.
    np.testing.assert_allclose(kernel, np.full(kernel.shape, 2.0 - 0.5 * 0.001 * 2.0), rtol=1e-6)
    for w in others:
        np.testing.assert_array_equal(w, np.full(w.shape, 2.0))


def test_the_configuration_makes_the_same_lars():
    gradients, start = gradients_and_start()
    optimizer = LARS(learning_rate("cosine", 0.3, 3, 2), momentum=0.8, weight_decay=0.05, trust=0.01)
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(restored) is LARS and restored.get_config() == optimizer.get_config()
    np.testing.assert_array_equal(run(restored, start, gradients), run(optimizer, start, gradients))


def test_the_trust_must_be_positive():
    with pytest.raises(ValueError) as error:
        LARS(trust=0.0)
    assert str(error.value) == "`trust` must be positive. Received: trust=0.0. The paper uses 0.001."
