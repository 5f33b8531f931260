"""The same `fit` gives the same numbers on one, two and four replicas, however its steps are executed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco import batch_norm, distribution
from keras_moco.callbacks import restore, save
from keras_moco.models import MoCo
from keras_moco.optimizers import SGD
from tests.small_encoder import SHAPE, small_encoder

BATCH, STEPS, QUEUE = 32, 20, 75
EXACT = ("loss", "positive_similarity", "negative_similarity", "queue_fill", "key_momentum")


def strategy_of(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{replica}" for replica in range(replicas)])


def make_model(strategy, batch_norm=False, optimizer=None, compile=None, **arguments):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        defaults = {"queue_size": QUEUE, "momentum": 0.9, "temperature": 0.2, "seed": 3}
        model = MoCo(small_encoder(batch_norm), **{**defaults, **arguments})
        model.compile(optimizer=optimizer or SGD(0.1, weight_decay=1e-3), **(compile or {}))
    return model


def make_data(steps=STEPS):
    images = np.random.default_rng(0).uniform(0, 255, (2, steps * BATCH, *SHAPE)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices({"query": images[0], "key": images[1]})
    return data.batch(BATCH, drop_remainder=True)


def train(replicas, steps=STEPS, **arguments):
    """Trains so many steps, each an epoch, so that the history holds every step: `(strategy, model, history)`."""
    strategy = strategy_of(replicas)
    model = make_model(strategy, **arguments)
    history = model.fit(make_data(steps), epochs=steps, steps_per_epoch=1, verbose=0).history
    return strategy, model, history


def state(model):
    """All that the next step depends on, by place: the two encoders' variables have the same names.

    Not the means of what is logged: `feature_std` is one of each replica's batch.
    """
    variables = [v for v in (*model.weights, *model.optimizer.variables) if "means/" not in v.path]
    return {f"{place} {variable.path}": np.array(variable) for place, variable in enumerate(variables)}


@pytest.fixture(scope="module", params=[False, True], ids=["one direction", "symmetric"])
def on_one_replica(request):
    _, model, history = train(1, symmetric=request.param)
    return request.param, state(model), history


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_without_batch_norm_train_as_one(replicas, on_one_replica):
    symmetric, expected, expected_history = on_one_replica
    _, model, history = train(replicas, symmetric=symmetric)
    names = (*EXACT, "contrast_top1", "contrast_top5", *(name for name in history if name.startswith("loss_")))
    for name in names:
        np.testing.assert_allclose(history[name], expected_history[name], rtol=1e-5, atol=1e-5, err_msg=name)
    found = state(model)
    assert len(found) == len(expected) == 2 * 6 + 2 + 2 + 6 + 2  # encoders, queue, counters; optimizer
    for ours, (name, theirs) in zip(found.values(), expected.items(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)
    assert np.array(model.step) == STEPS
    assert np.array(model.queue.count) == STEPS * BATCH * (1 + symmetric)


@pytest.mark.parametrize("bn_mode", ["shuffle", "split", "sync", "plain"])
@pytest.mark.filterwarnings("ignore:bn_mode='sync':UserWarning")
def test_replicas_stay_alike_to_the_bit(bn_mode):
    strategy, model, history = train(4, steps=50, batch_norm=True, bn_mode=bn_mode, bn_splits=2)
    variables = [*model.weights, *model.optimizer.variables]
    names = {variable.path.rpartition("/")[2] for variable in variables}
    assert {"features", "count", "step", "moving_mean", "moving_variance", "gamma", "kernel"} <= names
    for variable in variables:
        first, *others = (np.array(value) for value in strategy.experimental_local_results(variable.value))
        assert len(others) == 3
        for other in others:
            np.testing.assert_array_equal(first, other, err_msg=variable.path)
    assert np.array(model.step) == 50 and np.ptp(history["loss"]) > 0.1


def test_synchronised_batch_norm_trains_as_one_replica_with_one_group():
    with pytest.warns(UserWarning, match="not sufficient with a queue"):
        _, model, history = train(2, steps=5, batch_norm=True, bn_mode="sync")
    _, one, expected = train(1, steps=5, batch_norm=True, bn_mode="plain")
    for name in EXACT:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
    for ours, (name, theirs) in zip(state(model).values(), state(one).items(), strict=True):
        # Keras's synchronised layer follows the biased variance, ours the unbiased one.
        tolerance = 1e-2 if name.endswith("moving_variance") else 1e-4
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=name)


def test_prediction_does_not_tell_on_which_replica_an_image_was():
    _, model, _ = train(2, steps=3, batch_norm=True)
    images = np.float32(next(iter(make_data(1)))["query"])
    together = model.predict(tf.data.Dataset.from_tensor_slices(images).batch(BATCH), verbose=0)
    np.testing.assert_allclose(together, model(images), rtol=1e-5, atol=1e-6)


# How steps are executed.


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_steps_per_execution_does_not_matter(replicas, policy):
    """Two epochs of 6 steps, 4 at a time: the second execution of an epoch is shorter."""
    keras.config.set_dtype_policy(policy)
    states, histories = [], []
    for steps in (1, 4):
        model = make_model(strategy_of(replicas), batch_norm=True, compile={"steps_per_execution": steps})
        data = make_data(20).repeat()
        histories.append(model.fit(data, epochs=2, steps_per_epoch=6, verbose=0).history)
        states.append(state(model))
        assert np.array(model.step) == 12 and np.array(model.queue.count) == 12 * BATCH
    assert all(np.isfinite(value).all() for value in states[0].values())
    for name in EXACT:
        np.testing.assert_allclose(histories[1][name], histories[0][name], rtol=1e-6, err_msg=name)
    for ours, (name, theirs) in zip(states[1].values(), states[0].items(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7, err_msg=name)


def test_the_end_of_data_of_unknown_length_is_no_step_on_two_replicas():
    model = make_model(strategy_of(2), compile={"steps_per_execution": 3})
    with pytest.warns(UserWarning, match="ran out of data"):  # Keras's way of saying that the length was unknown
        # 4 batches: one whole execution and a part of one.
        model.fit(make_data(4).filter(lambda _: True).map(with_shape), epochs=2, verbose=0)
    assert np.array(model.step) == 8 and np.array(model.queue.count) == 8 * BATCH


def with_shape(views):
    return {name: tf.ensure_shape(images, (BATCH, *SHAPE)) for name, images in views.items()}


def test_float16_looks_for_overflows_on_all_replicas(monkeypatch):
    keras.config.set_dtype_policy("mixed_float16")
    seen = []
    share = distribution.share_overflow
    monkeypatch.setattr(distribution, "share_overflow", lambda gradients: seen.append(1) or share(gradients))
    _, model, history = train(2, steps=2)
    assert seen and np.isfinite(history["loss"]).all()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def test_xla_over_several_replicas_is_refused_with_a_reason():
    model = make_model(strategy_of(2), compile={"jit_compile": True})
    with pytest.raises(ValueError) as error:
        model.fit(make_data(2), verbose=0)
    assert str(error.value) == (
        "`jit_compile` must not be True on several replicas: XLA compiles a step for one device, and what is exchanged "
        "between replicas is outside of it. Received: 2 replicas, jit_compile=True. Compile with jit_compile=False."
    )
    assert np.array(model.step) == 0


@pytest.mark.parametrize(
    "option", [{"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"clipvalue": 1.0}, {"gradient_accumulation_steps": 2}]
)
def test_optimizer_options_that_keras_applies_per_replica_are_refused(option):
    [(name, value)] = option.items()
    strategy = strategy_of(2)
    with strategy.scope():
        optimizer = keras.optimizers.SGD(0.1, **option)
    with pytest.raises(ValueError, match=f"^The optimizer's `{name}` must not .* Received: {name}={value}. Leave it"):
        make_model(strategy, optimizer=optimizer).fit(make_data(2), verbose=0)
    # On one replica they are Keras's affair.
    make_model(strategy_of(1), optimizer=keras.optimizers.SGD(0.1, **option)).fit(make_data(2), verbose=0)


def test_a_batch_that_replicas_do_not_divide_is_refused():
    model = make_model(strategy_of(2))
    data = make_data(2).unbatch().batch(15, drop_remainder=True)
    with pytest.raises(ValueError, match="which the replicas divide. Received: query .* on 2 replica.s.. Batch with"):
        model.fit(data, verbose=0)
    assert np.array(model.step) == 0


# Checkpoints.


def test_a_saved_model_takes_the_groups_of_the_replicas_it_is_loaded_on(tmp_path):
    _, model, _ = train(2, steps=2, batch_norm=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    splits = [layer.splits for layer in batch_norm.batch_norm_layers(loaded)]
    assert splits == 2 * [8] and [layer.splits for layer in batch_norm.batch_norm_layers(model)] == 2 * [1]
    for ours, theirs in zip(state(loaded).values(), state(model).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    loaded.fit(make_data(1), verbose=0)
    assert loaded.steps_done == 3


@pytest.mark.parametrize("before, after", [(2, 1), (2, 4), (1, 2), (4, 1)])
def test_a_checkpoint_goes_on_with_another_number_of_replicas(before, after, tmp_path):
    _, model, _ = train(before, steps=3)
    save(model, tmp_path)
    strategy = strategy_of(after)
    other = make_model(strategy)
    with strategy.scope():
        other.optimizer.build(other.trainable_variables)
    assert restore(other, tmp_path).step == 3
    for ours, (name, theirs) in zip(state(other).values(), state(model).items(), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    for each in (model, other):
        each.fit(make_data(4), epochs=4, steps_per_epoch=1, verbose=0)
    assert np.array(other.step) == 7
    for ours, (name, theirs) in zip(state(other).values(), state(model).items(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)
