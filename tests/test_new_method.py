"""A method from outside needs hooks only: no existing file is touched, and all around it works."""

import inspect

import keras
import numpy as np
import pytest

from keras_moco import methods, trained_run, training
from keras_moco.config import Config
from keras_moco.evaluating import evaluate
from keras_moco.evaluation_config import EvaluationConfig
from keras_moco.optimizers import SGD
from tests import new_method
from tests.small_encoder import small_encoder
from tests.small_training import batches, state, strategy_of

TEMPERATURE = 0.2


@pytest.fixture
def registered(monkeypatch):
    """What a line in `METHODS` does."""
    monkeypatch.setitem(methods.METHODS, "moco_v3", new_method.MomentumInBatch())


def make(replicas=1):
    with strategy_of(replicas).scope():
        model = new_method.MoCoV3(small_encoder(), temperature=TEMPERATURE)
        model.compile(optimizer=SGD(0.1))
    return model


def test_it_is_short():
    lines = [line for line in inspect.getsource(new_method).splitlines() if line.strip()]
    assert len(lines) < 60


def test_the_losses_of_a_step_are_those_of_the_paper():
    model = make()
    [views] = batches().take(1).as_numpy_iterator()
    expected = {}
    for name, query, key in [("loss_query_to_key", "query", "key"), ("loss_key_to_query", "key", "query")]:
        q = model.predictor(model.encoder(views[query], training=True), training=True).numpy()
        k = model.key_encoder(views[key], training=True).numpy()
        logits = q @ k.T / TEMPERATURE
        expected[name] = np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    logs = model.fit(batches(), steps_per_epoch=1, verbose=0).history
    for name, value in expected.items():
        assert logs[name][0] == pytest.approx(value, rel=1e-5)
    assert logs["loss"][0] == pytest.approx(sum(expected.values()), rel=1e-5)


def test_the_key_encoder_takes_momentum_steps_and_nothing_else():
    model = make()
    model.fit(batches(), steps_per_epoch=1, verbose=0)
    before = [variable.numpy() for variable in model.key_encoder.variables]
    query = [variable.numpy() for variable in model.encoder.variables]
    model.fit(batches(1), steps_per_epoch=1, verbose=0)
    for ours, old, theirs in zip(model.key_encoder.variables, before, query, strict=True):
        np.testing.assert_allclose(ours, 0.99 * old + 0.01 * theirs, rtol=1e-5, atol=1e-7)


def test_two_replicas_stay_alike():
    model = make(replicas=2)
    model.fit(batches(), steps_per_epoch=3, verbose=0)
    values = state(model)
    for name in values:
        if name.endswith(" on 1"):
            assert values[name] == values[name.removesuffix("1") + "0"], name
    assert any(name.endswith(" on 1") for name in values)


def test_it_can_be_saved(tmp_path):
    model = make()
    model.fit(batches(), steps_per_epoch=1, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).uniform(0, 255, (3, 4, 4, 3)).astype("float32")
    np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))


def test_a_run_trains_measures_goes_on_and_is_evaluated_with_it(registered, tmp_path, capsys):
    settings = dict(dataset="digits", workdir=str(tmp_path / "run"), image_mean=(0.3,), image_std=(0.38,))
    settings |= dict(backbone="resnet10", backbone_width=4, stem="cifar", head="mlp", embedding_dim=16)
    settings |= dict(augment="moco_cifar", crop_min_area=0.4, image_size=8, batch_size=128, base_learning_rate=0.06)
    settings |= dict(method="moco_v3", key_momentum=0.98, temperature=TEMPERATURE)
    training.pretrain(Config(**settings, epochs=1))
    text = capsys.readouterr().out
    assert "method: moco_v3" in text and f"chance is {2 * np.log(128):.2f}" in text
    results = training.pretrain(Config(**settings, epochs=2, allow_config_change=("epochs",)))
    assert results["steps"] == 2 * (1437 // 128) and "knn_top1" in results
    _, model = trained_run.load_model(tmp_path / "run")
    assert isinstance(model, new_method.MoCoV3) and model.momentum == 0.98
    evaluate("knn", EvaluationConfig(workdir=str(tmp_path / "run")))
    assert (tmp_path / "run" / "export" / "saved_model").is_dir()
