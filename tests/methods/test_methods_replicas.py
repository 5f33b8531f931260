"""The same `fit` computes the same on several replicas, however its steps are executed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco import distribution
from keras_moco.methods import MoCo
from keras_moco.optimizers import SGD
from keras_moco.runs.checkpoints import restore, save
from tests import half_precision
from tests.small_encoder import SHAPE, small_encoder
from tests.small_training import random_batches, strategy_of

BATCH, QUEUE = 32, 75
EXACT = ("loss", "positive_similarity", "negative_similarity", "queue_fill", "key_momentum")


def make_model(replicas, batch_norm=False, compile=None, **arguments):
    keras.utils.set_random_seed(1)
    with strategy_of(replicas).scope():
        defaults = {"queue_size": QUEUE, "momentum": 0.9, "temperature": 0.2, "seed": 3}
        model = MoCo(small_encoder(batch_norm), **{**defaults, **arguments})
        model.compile(optimizer=SGD(0.1, weight_decay=1e-3), **{"jit_compile": False, **(compile or {})})
        model.optimizer.build(model.trainable_variables)
    return model


def train(model, steps):
    """So many steps, each an epoch, so that the history holds every step."""
    return model.fit(random_batches(steps, BATCH), epochs=steps, steps_per_epoch=1, verbose=0).history


def assert_same(model, expected, tolerance=0.0):
    one, other = ([*each.weights, *each.optimizer.variables] for each in (model, expected))
    for ours, theirs in zip(one, other, strict=True):
        if "means/" not in ours.path:  # `feature_std` is computed in the batch of each replica
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=ours.path)


@pytest.mark.slow
def test_four_replicas_train_as_one():
    one, four = (make_model(replicas, symmetric=True) for replicas in (1, 4))
    expected, history = train(one, 20), train(four, 20)
    names = (*EXACT, "contrast_top1", "contrast_top5", *(name for name in history if name.startswith("loss_")))
    for name in names:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert_same(four, one, 1e-5)
    assert four.steps_done == 20 and np.array(four.queue.count) == 20 * BATCH * 2


# How steps are executed


@pytest.mark.slow
@pytest.mark.parametrize("replicas, policy", [(2, "float32"), pytest.param(2, "mixed_float16", marks=pytest.mark.slow)])
def test_steps_per_execution_does_not_matter(replicas, policy):
    """Two epochs of 6 steps, 4 at a time: the second execution of an epoch is shorter."""
    half_precision.require(policy)
    keras.config.set_dtype_policy(policy)
    models, histories = [], []
    for steps in (1, 4):
        model = make_model(replicas, batch_norm=True, compile={"steps_per_execution": steps})
        histories.append(model.fit(random_batches(20, BATCH).repeat(), epochs=2, steps_per_epoch=6, verbose=0).history)
        models.append(model)
        assert model.steps_done == 12 and np.array(model.queue.count) == 12 * BATCH
    for name in EXACT:
        assert np.isfinite(histories[0][name]).all()
        # The step is a function of its own in both graphs, so that only its surroundings differ.
        np.testing.assert_allclose(histories[1][name], histories[0][name], rtol=1e-5, err_msg=name)
    assert_same(models[1], models[0], 1e-5)


@pytest.mark.slow
def test_end_of_data_of_unknown_length_is_no_step_on_two_replicas():
    def with_shape(views):
        return {name: tf.ensure_shape(views[name], (BATCH, *SHAPE)) for name in ("query", "key")}

    model = make_model(2, compile={"steps_per_execution": 3})
    with pytest.warns(UserWarning, match="ran out of data"):  # by which Keras finds the length
        # 4 batches: a whole execution and a part of one.
        model.fit(random_batches(4, BATCH).filter(lambda _: True).map(with_shape), epochs=2, verbose=0)
    assert model.steps_done == 8 and np.array(model.queue.count) == 8 * BATCH


def test_float16_looks_for_overflows_on_all_replicas(monkeypatch):
    half_precision.require("mixed_float16")
    keras.config.set_dtype_policy("mixed_float16")
    seen = []
    share = distribution.share_overflow
    monkeypatch.setattr(distribution, "share_overflow", lambda gradients: seen.append(1) or share(gradients))
    history = train(make_model(2), 2)
    assert seen and np.isfinite(history["loss"]).all()


def test_what_two_replicas_cannot_do_is_refused():
    model = make_model(2, compile={"jit_compile": True})
    with pytest.raises(ValueError, match="Received: 2 replicas, jit_compile=True"):
        model.fit(random_batches(2, BATCH), verbose=0)
    model = make_model(2)
    with pytest.raises(ValueError, match="Received: query .* on 2 replica"):
        model.fit(random_batches(2, 15), verbose=0)
    assert model.steps_done == 0


# Saved on one number of replicas, resumed on another


@pytest.mark.slow
def test_saved_model_takes_the_groups_of_the_replicas_it_is_loaded_on(tmp_path):
    model = make_model(2, batch_norm=True)
    train(model, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (model.batch_norm.splits, loaded.batch_norm.splits) == (1, 8)
    assert_same(loaded, model)


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(2, 1), pytest.param(1, 4, marks=pytest.mark.slow)])
def test_checkpoint_resumes_on_another_number_of_replicas(before, after, tmp_path):
    model, other = make_model(before), make_model(after)
    train(model, 3)
    save(model, tmp_path)
    assert restore(other, tmp_path).step == 3
    assert_same(other, model)
    for each in (model, other):
        train(each, 4)
    assert other.steps_done == 7
    assert_same(other, model, 1e-5)
