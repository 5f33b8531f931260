import pytest


@pytest.fixture(autouse=True)
def without_xla(monkeypatch):
    """Augmentations are compiled for every size of a batch, which takes longer than all the rest."""
    monkeypatch.setattr("keras_moco.augment.compiled.has_xla", lambda: False)
