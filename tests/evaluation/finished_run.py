"""A finished run of a tiny network, and ways to evaluate it."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

from keras_moco import distribution
from keras_moco.commands.evaluate import evaluate
from keras_moco.config import EvaluationConfig
from keras_moco.data import open_source
from keras_moco.export.backbone import export_backbone
from keras_moco.runs.build import build_model, plan_of
from keras_moco.runs.checkpoints import save
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import load_model
from tests.tiny import TINY_RUN, tiny_config

SIZE = TINY_RUN["image_size"]


def make_run(folder):
    """A run with one checkpoint of random weights."""
    run = RunDirectory(folder)
    # With the size of the data, so that opening the run reads no images; a third of them may be unreadable.
    config = tiny_config(folder, train_examples=1437, channels=1, max_bad_fraction=0.3)
    keras.utils.set_random_seed(0)
    model = build_model(plan_of(config, 1), distribution.make_strategy("one"))
    for weight in model.encoder.trainable_weights:  # weights that no seed produces
        weight.assign(1.05 * weight)
    for _ in range(3):  # moves BatchNorm's statistics from their initial values
        model.encoder(np.random.default_rng(0).uniform(0, 255, (32, SIZE, SIZE, 1)), training=True)
    run.claim(config)
    save(model, run.checkpoints)
    export_backbone(model.encoder, run.export)
    run.results.record(steps=22, versions={"keras": "3"})
    return SimpleNamespace(path=run.path, model=model, encoder=model.encoder, export=run.export)


def train_on(folder, epochs=1):
    """Saves a newer checkpoint of a run, as further training would, and returns its model."""
    _, model = load_model(folder)
    model.step.assign(model.steps_done + 11 * epochs)
    for weight in model.encoder.trainable_weights:
        weight.assign(1.02 * weight)
    save(model, RunDirectory(folder).checkpoints, epoch=epochs)
    return model


def digits(split):
    """Images and labels as arrays."""
    return tuple(array.numpy() for array in open_source("digits", split).arrays())


def results(folder):
    return json.loads((folder / "results.json").read_text())


def refusal(mode, **settings):
    """The message of the error that an evaluation raises."""
    with pytest.raises(ValueError) as caught:
        evaluate(mode, EvaluationConfig(**settings))
    return str(caught.value)


def write_images(folder, *names, shape=(9, 9)):
    """Writes an image file of uniform grey for each name, and returns the name of the data set."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(shape, 20 * number + 20, "uint8")).save(folder / name)
    return f"folder:{folder}"
