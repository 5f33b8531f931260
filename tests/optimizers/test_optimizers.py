"""SGD and LARS against their formulas in NumPy, over a learning rate that changes at every step."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers.schedules import ExponentialDecay

from keras_moco.optimizers import LARS, SGD
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


@pytest.mark.parametrize("momentum, weight_decay, nesterov", [(0.9, 0.1, False), (0.9, 0.1, True), (0.0, 0.0, False)])
def test_sgd_is_pytorchs(momentum, weight_decay, nesterov):
    gradients, start = gradients_and_start()
    optimizer = SGD(RATES, momentum, weight_decay, nesterov)
    expected, velocity = pytorch(start, gradients, momentum, weight_decay, nesterov)
    np.testing.assert_allclose(run(optimizer, start, gradients), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(optimizer.velocities[0], velocity, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "shape, momentum, weight_decay",
    [((3, 2), 0.9, 0.1), ((2, 2, 3, 4), 0.9, 0.1), ((5,), 0.9, 0.1), ((3, 2), 0.0, 0.0)],
    ids=["dense", "convolution", "bias", "plain"],
)
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


def test_arguments_out_of_range_are_refused():
    wrong = {"learning_rate": [-0.1], "momentum": [1.0, -0.1], "weight_decay": [-0.1], "trust": [0.0]}
    for name, values in wrong.items():
        for optimizer in (LARS,) if name == "trust" else (LARS, SGD):
            for value in (*values, float("nan"), float("inf")):
                with pytest.raises(ValueError, match=rf"`{name}` must be .* Received: {name}={value}\."):
                    optimizer(**{name: value})
