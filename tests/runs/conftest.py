"""The model of the tests of callbacks: both are about what is saved during `fit`."""

from tests.callbacks.conftest import first_state, model, no_power_cut

__all__ = ["first_state", "model", "no_power_cut"]
