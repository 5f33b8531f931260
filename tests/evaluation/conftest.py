"""A finished run that all tests of evaluations share."""

import shutil
from pathlib import Path

import pytest
import sklearn.manifold
from matplotlib.figure import Figure

from keras_moco.data import evaluation_dataset, open_source
from keras_moco.evaluation import FeatureExtractor, extract_features, finetune, semi, target
from tests.evaluation.finished_run import SIZE, make_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the folder of the run, for one test."""
    return shutil.copytree(trained.path, tmp_path / "run")


@pytest.fixture(scope="session")
def features(trained):
    """Features of the backbone of the run, by split."""
    return {
        split: extract_features(trained.encoder.features, evaluation_dataset(open_source("digits", split), SIZE))
        for split in ("train", "test")
    }


@pytest.fixture
def figures(monkeypatch):
    """All figures that would be saved; rendering, which takes most of the time, is skipped."""
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (saved.append(self), Path(path).write_bytes(b"")))
    return saved


@pytest.fixture
def quick(monkeypatch):
    """The first two numbers of each row in place of t-SNE, which takes longer."""
    monkeypatch.setattr(sklearn.manifold.TSNE, "fit_transform", lambda self, features: features[:, :2])


@pytest.fixture
def silent(trained, monkeypatch):
    """Fails if anything is computed; the run need not be loaded for that."""
    monkeypatch.setattr(target, "open_trained_encoder", lambda *_: (trained.encoder, 0))
    monkeypatch.setattr(FeatureExtractor, "_embed", lambda *_: pytest.fail("features were extracted"))
    for module in (finetune, semi):
        monkeypatch.setattr(module, "fine_tune", lambda *_, **__: pytest.fail("something was trained"))
