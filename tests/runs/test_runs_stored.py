"""A run and the models that version 0.1.0 wrote, before its files moved to the rooms where they are now, still open.

`stored/run` was trained by that version: two epochs of `tests.tiny.TINY_RUN` with `backbone_width=4, embedding_dim=8,
queue_size=128`. `expected.npz` holds eight images and what its encoder made of them.
"""

import dataclasses
import importlib
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_moco import MoCo
from keras_moco.commands.pretrain import pretrain
from keras_moco.config.flagfiles import read_flagfile
from keras_moco.runs.load import load_backbone, load_encoder
from tests.tiny import TINY_RUN

assert TINY_RUN["backbone"] == "tiny"  # which that module registers
STORED = Path(__file__).parent / "stored"
EXPECTED = np.load(STORED / "expected.npz")
IMAGES = EXPECTED["images"].astype("float32")
OLD_NAMES = """
backbones.RESNETS backbones.resnet batch_norm.resolve callbacks.Checkpoint callbacks.Stopped callbacks.restore
callbacks.save config.Config contrast.info_nce convert.from_pytorch data.open_source distribution.WorkerLost
evaluating.evaluate evaluation.knn_accuracy evaluation_config.EvaluationConfig export.export_backbone
loading.load_backbone methods.METHODS models.HEADS models.Encoder models.MoCo momentum.copy_weights
momentum.momentum_update optimizers.SGD presets.moco schedules.learning_rate training.pretrain
""".split()


@pytest.mark.parametrize("path", ["run", "encoder.keras", "moco.keras"])
def test_a_stored_encoder_gives_the_embeddings_that_it_gave(path):
    encoder = load_encoder(STORED / path)
    np.testing.assert_allclose(encoder(IMAGES), EXPECTED["embeddings"], atol=1e-5)


@pytest.mark.parametrize("path", ["run", "encoder.keras", "export/backbone.keras", "export/saved_model"])
def test_a_stored_backbone_gives_the_features_that_it_gave(path):
    backbone = load_backbone(STORED / path, trust_saved_model="saved_model" in path)
    np.testing.assert_allclose(backbone(IMAGES), EXPECTED["backbone"], rtol=1e-4, atol=1e-5)


def test_a_stored_model_continues_training():
    model = keras.models.load_model(STORED / "moco.keras")
    assert isinstance(model, MoCo) and model.steps_done == 22 and model.optimizer.iterations == 22
    batch = np.repeat(IMAGES, 4, axis=0)
    model.fit({"query": batch, "key": batch}, batch_size=32, verbose=0)
    assert model.steps_done == 23


def test_a_stored_run_resumes(tmp_path, capsys):
    folder = shutil.copytree(STORED / "run", tmp_path / "run")
    config = read_flagfile(folder / "flags.cfg")
    results = pretrain(dataclasses.replace(config, epochs=3, allow_config_change=("epochs",)))
    assert "after 2 of 3 epochs" in capsys.readouterr().out
    assert (results["epochs"], results["steps"]) == (3, 33)
    assert (folder / "checkpoints" / "step-000000033").is_dir()


@pytest.mark.parametrize("name", OLD_NAMES)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_former_name_still_imports(name):
    module, _, name = name.partition(".")
    assert getattr(importlib.import_module(f"keras_moco.{module}"), name) is not None
