"""The same `fit` computes the same on several replicas, however its steps are executed.

Two replicas against the NumPy references are in `test_models_reference.py`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco import batch_norm, distribution
from keras_moco.callbacks import restore, save
from keras_moco.models import MoCo
from keras_moco.optimizers import SGD
from tests.small_encoder import SHAPE, small_encoder
from tests.small_training import strategy_of, without_autotune

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


def make_data(steps):
    images = np.random.default_rng(0).uniform(0, 255, (2, steps * BATCH, *SHAPE)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices({"query": images[0], "key": images[1]})
    return without_autotune(data.batch(BATCH, drop_remainder=True))


def train(model, steps):
    """So many steps, each an epoch, so that the history holds every step."""
    return model.fit(make_data(steps), epochs=steps, steps_per_epoch=1, verbose=0).history


def state(model):
    """All that the next step depends on, by place, since the variables of both encoders have the same names.

    Not the means of what is logged: `feature_std` is computed in the batch of each replica.
    """
    variables = [v for v in (*model.weights, *model.optimizer.variables) if "means/" not in v.path]
    return {f"{place} {variable.path}": np.array(variable) for place, variable in enumerate(variables)}


def assert_same(model, expected, tolerance=0.0):
    for ours, (name, theirs) in zip(state(model).values(), state(expected).items(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_four_replicas_train_as_one():
    one, four = (make_model(replicas, symmetric=True) for replicas in (1, 4))
    expected, history = train(one, 20), train(four, 20)
    names = (*EXACT, "contrast_top1", "contrast_top5", *(name for name in history if name.startswith("loss_")))
    for name in names:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert_same(four, one, 1e-5)
    assert four.steps_done == 20 and np.array(four.queue.count) == 20 * BATCH * 2


@pytest.mark.slow
def test_prediction_does_not_depend_on_the_replica_of_an_image():
    model = make_model(2, batch_norm=True)
    train(model, 3)
    images = np.float32(next(iter(make_data(1)))["query"])
    data = without_autotune(tf.data.Dataset.from_tensor_slices(images).batch(BATCH))
    np.testing.assert_allclose(model.predict(data, verbose=0), model(images), rtol=1e-5, atol=1e-6)


# How steps are executed


@pytest.mark.parametrize("replicas, policy", [(2, "float32"), pytest.param(2, "mixed_float16", marks=pytest.mark.slow)])
def test_steps_per_execution_does_not_matter(replicas, policy):
    """Two epochs of 6 steps, 4 at a time: the second execution of an epoch is shorter."""
    keras.config.set_dtype_policy(policy)
    models, histories = [], []
    for steps in (1, 4):
        model = make_model(replicas, batch_norm=True, compile={"steps_per_execution": steps})
        histories.append(model.fit(make_data(20).repeat(), epochs=2, steps_per_epoch=6, verbose=0).history)
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
        return {name: tf.ensure_shape(images, (BATCH, *SHAPE)) for name, images in views.items()}

    model = make_model(2, compile={"steps_per_execution": 3})
    with pytest.warns(UserWarning, match="ran out of data"):  # by which Keras finds the length
        # 4 batches: a whole execution and a part of one.
        model.fit(make_data(4).filter(lambda _: True).map(with_shape), epochs=2, verbose=0)
    assert model.steps_done == 8 and np.array(model.queue.count) == 8 * BATCH


def test_float16_looks_for_overflows_on_all_replicas(monkeypatch):
    keras.config.set_dtype_policy("mixed_float16")
    seen = []
    share = distribution.share_overflow
    monkeypatch.setattr(distribution, "share_overflow", lambda gradients: seen.append(1) or share(gradients))
    history = train(make_model(2), 2)
    assert seen and np.isfinite(history["loss"]).all()


def test_xla_over_several_replicas_is_refused():
    model = make_model(2, compile={"jit_compile": True})
    with pytest.raises(ValueError, match="Received: 2 replicas, jit_compile=True"):
        model.fit(make_data(2), verbose=0)
    assert model.steps_done == 0


def test_batch_that_replicas_do_not_divide_is_refused():
    model = make_model(2)
    data = make_data(2).unbatch().batch(15, drop_remainder=True)
    with pytest.raises(ValueError, match="Received: query .* on 2 replica"):
        model.fit(data, verbose=0)
    assert model.steps_done == 0


# Saved on one number of replicas, resumed on another


def test_saved_model_takes_the_groups_of_the_replicas_it_is_loaded_on(tmp_path):
    model = make_model(2, batch_norm=True)
    train(model, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.splits for layer in batch_norm.batch_norm_layers(model)] == [1, 1]
    assert [layer.splits for layer in batch_norm.batch_norm_layers(loaded)] == [8, 8]
    assert_same(loaded, model)


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
