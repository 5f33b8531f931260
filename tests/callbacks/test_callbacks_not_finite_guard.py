import io
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.callbacks import Checkpoint, NotFiniteGuard
from keras_moco.optimizers import SGD
from keras_moco.runs.checkpoints import NotFiniteError
from tests import half_precision
from tests.small_training import batches, differing, make_model, state, variables

NAN = float("nan")


class Watch(keras.callbacks.Callback):
    """Keeps state and logs after each step."""

    def on_train_begin(self, logs=None):
        self.states, self.logs = [state(self.model)], [{}]

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(state(self.model))
        self.logs.append(dict(logs))


def fit(model, *callbacks, poison=(), steps=4, epochs=1):
    data = batches(poison=dict.fromkeys(poison, NAN))
    settings = {"steps_per_epoch": steps, "epochs": epochs, "verbose": 0, "callbacks": list(callbacks)}
    return model.fit(data, **settings).history


def make(method="moco", replicas=1, scale=None, skip=True, **compile):
    """A model with a constant learning rate and, from a scale on, with loss scaling."""

    def optimizer():
        inner = SGD(0.03, weight_decay=1e-3)
        return inner if scale is None else keras.optimizers.LossScaleOptimizer(inner, initial_scale=scale)

    model = make_model(method, replicas, optimizer=optimizer, **compile)
    model.skip_not_finite = skip
    return model


@pytest.fixture(scope="module")
def skipping():
    """A model that has trained two steps without skipping any; from now on it skips."""
    fit(model := make(skip=False), NotFiniteGuard(), steps=2)
    model.skip_not_finite = True
    return model


def names(model, chosen):
    """Those of `state` that belong to some variables."""
    places = [place for place, own in enumerate(model.variables) if any(own is variable for variable in chosen)]
    return {name for name in state(model) if int(name.split()[0]) in places}


def assert_finite(model):
    for variable in variables(model):
        assert np.isfinite(keras.ops.convert_to_numpy(variable)).all(), variable.path


def skipped(text):
    """What lines say of the steps that were skipped in epoch 1: a list of (place, counts)."""
    return re.findall(r"^note: (.*) \(epoch 1, learning rate 0\.03\) .* (\d+ of \d+) steps", text, re.MULTILINE)


def test_the_first_step_that_is_not_finite_ends_the_training(model, tmp_path):
    checkpoint = Checkpoint(tmp_path, max_share=1.0)
    with pytest.raises(NotFiniteError) as caught:
        fit(model, NotFiniteGuard(checkpoint), checkpoint, poison=[3], steps=2, epochs=3)
    good = tmp_path / "step-000000002"
    assert " in step 4 of epoch 2, at learning rate 0.03. " in str(caught.value) and f"{good}." in str(caught.value)
    assert "--on_nan=skip" in str(caught.value)
    assert list(tmp_path.iterdir()) == [good]


def check_a_skipped_step(model, capsys):
    """Of the third step of four nothing but the counters and the key encoder notices anything."""
    before, bad = model.steps_done, model.steps_not_finite
    history = fit(model, NotFiniteGuard(), watch := Watch(), poison=[2])

    counters, followers = names(model, [model.step, model.not_finite]), set()
    if hasattr(model, "key_encoder"):
        pairs = zip(model.encoder.variables, model.key_encoder.variables, strict=True)
        followers = names(model, [key for query, key in pairs if query.trainable])
    changed = differing(watch.states[2], watch.states[3])
    assert changed - followers == counters
    assert bool(changed & followers) == bool(followers)
    assert (model.steps_done, model.steps_not_finite) == (before + 4, bad + 1)
    assert skipped(capsys.readouterr().out) == [(f"step {before + 3}", f"{bad + 1} of {before + 3}")]

    # The epoch's means are those of the three other steps.
    assert watch.logs[3] == watch.logs[2]
    assert float(keras.ops.convert_to_numpy(model.means.steps)) == 3
    assert np.isfinite([value for values in history.values() for value in values]).all()
    # The next step trains as usual.
    assert names(model, model.encoder.variables[:1]) <= differing(watch.states[3], watch.states[4])
    assert_finite(model)


def test_a_skipped_step_changes_nothing_but_counters_and_key_encoder(skipping, capsys):
    check_a_skipped_step(skipping, capsys)
    check_a_skipped_step(skipping, capsys)  # counted over all runs


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, replicas, policy, jit_compile",
    [("moco", 1, "float32", True), ("moco", 2, "mixed_float16", False), ("memory_bank", 2, "float32", False)],
)
def test_a_step_is_skipped_on_replicas_and_by_xla(method, replicas, policy, jit_compile, capsys):
    half_precision.require(policy)
    keras.config.set_dtype_policy(policy)
    check_a_skipped_step(make(method, replicas, jit_compile=jit_compile), capsys)


def test_ten_steps_in_a_row_end_the_training(skipping, capsys):
    before = skipping.steps_done
    with pytest.raises(NotFiniteError, match=rf"step {before + 12} of epoch 1, .* in the 10 steps up to it"):
        fit(skipping, NotFiniteGuard(), poison=range(2, 30), steps=30)
    reported = [step for step, _ in skipped(capsys.readouterr().out)]
    assert reported == [f"step {step}" for step in range(before + 3, before + 12)]
    assert_finite(skipping)


def test_an_epoch_of_skipped_steps_alone_is_not_reported_again(skipping, capsys):
    fit(skipping, NotFiniteGuard(), poison=range(3), steps=3, epochs=2)
    out = capsys.readouterr().out
    assert len(skipped(out)) == len(out.splitlines()) == 3


def test_infinite_gradients_of_a_finite_loss_are_found(capsys):
    model = make(run_eagerly=True)
    contrast = model.contrast

    def exploding(views, targets):
        divisor = tf.cast(tf.convert_to_tensor(model.step) != 2, "float32")

        @tf.custom_gradient
        def explode(logits):
            return tf.identity(logits), lambda gradient: gradient / divisor

        return [found._replace(logits=explode(found.logits)) for found in contrast(views, targets)]

    model.contrast = exploding
    fit(model, NotFiniteGuard(), watch := Watch())
    assert skipped(capsys.readouterr().out) == [("step 3", "1 of 3")]
    assert not names(model, model.encoder.variables) & differing(watch.states[2], watch.states[3])
    assert np.isfinite([logs["loss"] for logs in watch.logs[1:]]).all()
    assert_finite(model)


@pytest.mark.parametrize("skip, replicas", [(False, 1), pytest.param(True, 2, marks=pytest.mark.slow)])
def test_the_overflow_by_which_loss_scaling_finds_its_scale_is_not_counted(skip, replicas, capsys):
    half_precision.require("mixed_float16")
    keras.config.set_dtype_policy("mixed_float16")
    model = make(replicas=replicas, scale=2.0**24, skip=skip)
    fit(model, NotFiniteGuard(), watch := Watch(), steps=15)
    kernel = names(model, model.encoder.variables[:1])
    assert not kernel & differing(watch.states[0], watch.states[1])  # which overflows
    assert kernel <= differing(watch.states[0], watch.states[-1])
    assert float(keras.ops.convert_to_numpy(model.optimizer.dynamic_scale)) < 2.0**24
    assert (model.steps_not_finite, capsys.readouterr().out) == (0, "")
    assert_finite(model)


@pytest.fixture
def guard():
    """A guard that prints to a stream, and what it looks at in a model."""
    optimizer = types.SimpleNamespace(learning_rate=0.03)
    model = types.SimpleNamespace(steps_done=0, steps_not_finite=0, skip_not_finite=True, optimizer=optimizer)
    guard = NotFiniteGuard(stream=io.StringIO())
    guard.set_model(model)
    guard.on_train_begin()
    guard.on_epoch_begin(0)
    return guard


def execute(guard, steps, *bad):
    """Executions of several steps, of which some are bad; returns what is printed, a list of (place, counts)."""
    for count in bad:
        guard.model.steps_done += steps
        guard.model.steps_not_finite += count
        guard.on_train_batch_end(guard.model.steps_done - 1)
    return skipped(guard.stream.getvalue())


def test_each_metric_is_reported_once(guard):
    for epoch, logs in enumerate(({"a": NAN, "b": 1.0}, {"a": NAN, "b": float("-inf")}, {"a": NAN, "b": NAN}, None)):
        guard.on_epoch_end(epoch, logs)
    first, second = guard.stream.getvalue().splitlines()
    assert "`a` is nan in epoch 1" in first and "`b` is -inf in epoch 2" in second


def test_nine_in_a_row_do_not_end_the_training_even_twice(guard):
    steps = [step for step in range(1, 20) if step != 10]
    expected = [(f"step {step}", f"{step - step // 10} of {step}") for step in steps]
    assert execute(guard, 1, *[1] * 9, 0, *[1] * 9, 0) == expected


def test_of_several_steps_at_once_ten_in_a_row_end_the_training(guard):
    assert execute(guard, 4, 4, 4, 3, 4, 4)[2] == ("3 of the steps 9 to 12", "11 of 12")
    with pytest.raises(NotFiniteError, match="4 of the steps 21 to 24 .* 12 steps"):
        execute(guard, 4, 4)
