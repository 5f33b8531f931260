"""A model for tests in which nothing is trained."""

import pytest

from keras_moco.optimizers import SGD
from tests.small_training import make_model, scramble


@pytest.fixture(scope="module")
def built():
    return make_model(optimizer=lambda: SGD(0.1))


@pytest.fixture
def model(built):
    """One that no test trains, at step 0."""
    scramble(built)
    return built
