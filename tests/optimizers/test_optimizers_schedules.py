"""The learning rate at every step against the formulas of the official code, written out in Python."""

import math

import numpy as np
import pytest
from keras.optimizers.schedules import CosineDecay

from keras_moco.optimizers.schedules import InSteps, Staircase, Warmup, learning_rate

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


@pytest.mark.parametrize("name, warmup", [("constant", 0), ("step", 0), ("cosine", 0), ("cosine", 5)])
def test_rate_of_every_step_is_the_official_formula_after_a_line_from_0(name, warmup):
    epochs, rise = 20, warmup * STEPS
    for per_step in (False, True):
        schedule = learning_rate(name, RATE, epochs, STEPS, per_step=per_step, warmup_epochs=warmup)
        expected = [RATE * step / rise for step in range(rise)]
        for later in range((epochs - warmup) * STEPS):
            epoch = later / STEPS if per_step else later // STEPS
            expected.append(FORMULAS[name](epoch, epochs - warmup))
        # The cosine of float32: next to its end, where the rate is near 0, rounding is a large part of it.
        np.testing.assert_allclose(rates(schedule, range(epochs * STEPS)), expected, rtol=1e-4, atol=1e-8)


def test_steps_of_moco_v1_fall_at_epochs_120_and_160():
    schedule = learning_rate("step", RATE, 200, STEPS)
    around = [epoch * STEPS + offset for epoch in (120, 160) for offset in (-1, 0)]
    np.testing.assert_allclose(rates(schedule, around), [0.03, 0.003, 0.003, 0.0003], rtol=1e-6)


def test_unknown_schedules_and_warm_ups_without_an_epoch_after_them_are_refused():
    with pytest.raises(ValueError, match="constant, step, cosine.*'cosin'"):
        learning_rate("cosin", RATE, 10, STEPS)
    for warmup in (-1, 10, 0.5):
        with pytest.raises(ValueError, match=f"warmup_epochs={warmup}, epochs=10"):
            learning_rate("cosine", RATE, 10, STEPS, warmup_epochs=warmup)


@pytest.mark.parametrize("name", ["rate", "epochs", "steps_per_epoch"])
def test_numbers_that_would_end_in_no_rate_are_refused(name):
    good = {"rate": RATE, "epochs": 10, "steps_per_epoch": STEPS}
    for value in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"`{name}` must be .* Received: {name}={value}\."):
            learning_rate("cosine", **{**good, name: value})


def test_units_have_at_least_one_step():
    for kind in (Staircase, InSteps, Warmup):
        for steps in (0, -1, 1.5):
            with pytest.raises(ValueError, match=rf"Received: steps={steps}\."):
                kind(CosineDecay(1.0, 2), steps=steps)
