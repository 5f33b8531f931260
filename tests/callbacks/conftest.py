"""A model that is traced once for all tests, and files that need not survive a power cut."""

import os

import numpy as np
import pytest

from keras_moco.optimizers import SGD
from tests.small_training import make_model, variables


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch):
    """Nothing here outlives the process, and waiting for the disk takes longer than all the rest."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def first_state():
    """A model and the values that its variables had at first."""
    model = make_model(optimizer=lambda: SGD(0.03, weight_decay=1e-3))
    return model, [np.array(variable) for variable in variables(model)]


@pytest.fixture
def model(first_state):
    """A model at step 0. The first test that trains it traces its step, the others find that done."""
    model, values = first_state
    for variable, value in zip(variables(model), values, strict=True):
        variable.assign(value)
    return model
