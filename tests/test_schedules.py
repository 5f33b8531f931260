"""The learning rate at every step against the formulas of the official code, written out in Python."""

import math

import numpy as np
import pytest

from keras_moco.schedules import learning_rate

RATE, STEPS = 0.03, 7


def constant(epoch, epochs):
    return RATE


def step(epoch, epochs):
    """`adjust_learning_rate` with the milestones 120 and 160 of 200 epochs."""
    return RATE * 0.1 ** sum(epoch >= fraction * epochs for fraction in (0.6, 0.8))


def cosine(epoch, epochs):
    return RATE * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


FORMULAS = {"constant": constant, "step": step, "cosine": cosine}


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


@pytest.mark.parametrize("name", FORMULAS)
def test_rate_of_every_epoch_is_the_official_formula(name):
    epochs = 20
    every = rates(learning_rate(name, RATE, epochs, STEPS), range(epochs * STEPS)).reshape(epochs, STEPS)
    np.testing.assert_allclose(every[:, 0], [FORMULAS[name](e, epochs) for e in range(epochs)], rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(every, np.repeat(every[:, :1], STEPS, axis=1))  # constant within an epoch


def test_steps_of_moco_v1_fall_at_epochs_120_and_160():
    schedule = learning_rate("step", RATE, 200, STEPS)
    around = [epoch * STEPS + offset for epoch in (120, 160) for offset in (-1, 0)]
    np.testing.assert_allclose(rates(schedule, around), [0.03, 0.003, 0.003, 0.0003], rtol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_per_step_the_formula_takes_fractions_of_epochs(name):
    epochs = 20
    every = rates(learning_rate(name, RATE, epochs, STEPS, per_step=True), range(epochs * STEPS))
    expected = [FORMULAS[name](step / STEPS, epochs) for step in range(epochs * STEPS)]
    # The cosine of float32: next to its end, where the rate is near 0, rounding is a large part of it.
    np.testing.assert_allclose(every, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("per_step", [False, True], ids=["per epoch", "per step"])
def test_warm_up_is_a_line_from_0_and_the_schedule_follows(per_step):
    epochs, warmup = 20, 5
    schedule = learning_rate("cosine", RATE, epochs, STEPS, per_step=per_step, warmup_epochs=warmup)
    rise = warmup * STEPS
    expected = [RATE * step / rise for step in range(rise)]
    for later in range((epochs - warmup) * STEPS):
        epoch = later / STEPS if per_step else later // STEPS
        expected.append(cosine(epoch, epochs - warmup))
    np.testing.assert_allclose(rates(schedule, range(epochs * STEPS)), expected, rtol=1e-4, atol=1e-8)


def test_unknown_schedules_and_warm_ups_without_an_epoch_after_them_are_refused():
    with pytest.raises(ValueError, match="constant, step, cosine.*'cosin'"):
        learning_rate("cosin", RATE, 10, STEPS)
    for warmup in (-1, 10):
        with pytest.raises(ValueError, match=f"warmup_epochs={warmup}, epochs=10"):
            learning_rate("cosine", RATE, 10, STEPS, warmup_epochs=warmup)
