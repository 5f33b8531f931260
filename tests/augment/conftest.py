"""Nothing here is compiled by XLA, which would take most of the time; `test_augment_xla.py` compares the two."""

import pytest


@pytest.fixture(autouse=True)
def without_xla(request, monkeypatch):
    """Unless the test asks for `with_xla`."""
    if "with_xla" not in request.fixturenames:
        monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)


@pytest.fixture
def with_xla():
    """Leaves XLA on."""
