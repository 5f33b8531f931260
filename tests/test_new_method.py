"""A method from outside needs only hooks: no existing file changes, and runs, saving and evaluation work with it."""

import dataclasses

import numpy as np
import pytest

from keras_moco import methods
from keras_moco.commands import pretrain
from keras_moco.commands.evaluate import evaluate
from keras_moco.config import Config, EvaluationConfig
from keras_moco.optimizers import SGD
from keras_moco.runs import load
from tests import new_method
from tests.small_encoder import small_encoder
from tests.small_training import batches
from tests.tiny import TINY_RUN

TEMPERATURE = 0.2


def test_a_step_equals_the_papers():
    model = new_method.MoCoV3(small_encoder(), temperature=TEMPERATURE)
    model.compile(optimizer=SGD(0.1), jit_compile=False)
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
    # The encoders were alike at the start, so the first momentum step changed nothing; the second does.
    before, query = ([np.array(v) for v in encoder.variables] for encoder in (model.key_encoder, model.encoder))
    model.fit(batches(1), steps_per_epoch=1, verbose=0)
    for ours, old, theirs in zip(model.key_encoder.variables, before, query, strict=True):
        np.testing.assert_allclose(ours, 0.99 * old + 0.01 * theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_run_with_it_trains_resumes_and_is_evaluated(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(methods.METHODS, "moco_v3", new_method.MomentumInBatch())  # the line that a method adds
    own = {"method": "moco_v3", "key_momentum": 0.98, "temperature": TEMPERATURE}
    settings = {name: value for name, value in TINY_RUN.items() if name not in ("bn_splits", "queue_size")} | own
    config = Config(**settings, workdir=str(tmp_path / "run"))
    pretrain.pretrain(dataclasses.replace(config, epochs=1))
    text = capsys.readouterr().out
    assert "method: moco_v3" in text and f"{2 * np.log(128):.2f} at chance level" in text
    results = pretrain.pretrain(dataclasses.replace(config, epochs=2, allow_config_change=("epochs",)))
    assert results["steps"] == 2 * (1437 // 128) and "knn_top1" in results
    _, model = load.load_model(tmp_path / "run")
    assert isinstance(model, new_method.MoCoV3) and model.momentum == 0.98
    evaluate("knn", EvaluationConfig(workdir=str(tmp_path / "run")))
    assert (tmp_path / "run" / "export" / "saved_model").is_dir()
