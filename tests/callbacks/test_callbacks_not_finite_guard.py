import io
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.callbacks import Checkpoint, NotFiniteError, NotFiniteGuard
from keras_moco.optimizers import SGD
from tests.small_training import batches, differing, make_model, state

STOP = (
    "Loss and gradients must be finite. Received: NaN or infinity in {where} of epoch {epoch}, at learning rate 0.03. "
    "{saved} Lower the learning rate, or skip such steps (--on_nan=skip)."
)
FUTILE = (
    "Loss and gradients must be finite. Received: NaN or infinity in {where} of epoch 1, at learning rate 0.03, as in "
    "the {count} steps up to it. None is saved yet. Look at the images, and lower the learning rate."
)
SKIPPED = (
    "note: {where} (epoch 1, learning rate 0.03) skipped: loss or gradients were not finite. {count} of {step} steps "
    "so far.\n"
)
NAN = float("nan")


class Watch(keras.callbacks.Callback):
    """Keeps state and logs behind each step."""

    def on_train_begin(self, logs=None):
        self.states, self.logs = [state(self.model)], [{}]

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(state(self.model))
        self.logs.append(dict(logs))


def fit(model, *callbacks, poison=None, steps=4, epochs=1):
    """Trains beside the guard; returns the history."""
    data = batches(poison=dict.fromkeys(poison or (), NAN))
    settings = {"steps_per_epoch": steps, "epochs": epochs, "verbose": 0, "callbacks": list(callbacks)}
    return model.fit(data, **settings).history


def at_rate(method="moco", replicas=1, scale=None, skip=True, **compile):
    """A model with a constant learning rate, which the messages name, and with loss scaling from a scale on."""
    model = make_model(method, replicas, **compile)
    with model.distribute_strategy.scope():
        optimizer = SGD(0.03, weight_decay=1e-3)
        if scale is not None:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
        model.compile(optimizer=optimizer, **{"jit_compile": False, **compile})
        model.optimizer.build(model.trainable_variables)
    model.skip_not_finite = skip
    return model


def names(model, variables):
    """Those of `state` that belong to some variables."""
    places = [place for place, own in enumerate(model.variables) if any(own is variable for variable in variables)]
    return {name for name in state(model) if int(name.split()[0]) in places}


def number(variable):
    return float(keras.ops.convert_to_numpy(variable))


def assert_finite(model):
    for variable in (*model.variables, *model.optimizer.variables):
        assert np.isfinite(keras.ops.convert_to_numpy(variable)).all(), variable.path


def ended(*args, **kwargs):
    """The message with which a training ends."""
    with pytest.raises(NotFiniteError) as caught:
        fit(*args, **kwargs)
    return str(caught.value)


def test_the_first_step_that_is_not_finite_ends_the_training():
    message = ended(at_rate(skip=False), NotFiniteGuard(), poison=[2])
    assert message == STOP.format(where="step 3", epoch=1, saved="None is saved yet.")


def test_the_message_names_the_last_good_checkpoint(tmp_path):
    checkpoint = Checkpoint(tmp_path, max_share=1.0)
    model = at_rate(skip=False)
    message = ended(model, NotFiniteGuard(checkpoint), checkpoint, poison=[3], steps=2, epochs=3)
    good = tmp_path / "step-000000002"
    assert message == STOP.format(
        where="step 4", epoch=2, saved=f"The same command goes on from the last good checkpoint, {good}."
    )
    assert list(tmp_path.iterdir()) == [good]


def test_of_several_steps_at_once_the_range_is_named():
    """Step 5 turns the weights into NaN, and with them step 6."""
    message = ended(at_rate(skip=False, steps_per_execution=3), NotFiniteGuard(), poison=[4], steps=6)
    assert message == STOP.format(where="2 of the steps 4 to 6", epoch=1, saved="None is saved yet.")


@pytest.mark.parametrize(
    "method, replicas, precision, jit_compile",
    [
        ("moco", 1, "float32", False),
        ("moco", 1, "float32", True),
        ("moco", 2, "mixed_float16", False),
        ("memory_bank", 1, "float32", False),
        ("memory_bank", 2, "float32", False),
    ],
)
def test_a_skipped_step_changes_nothing_but_counters_and_key_encoder(method, replicas, precision, jit_compile, capsys):
    keras.config.set_dtype_policy(precision)
    model = at_rate(method, replicas, jit_compile=jit_compile)
    history = fit(model, NotFiniteGuard(), watch := Watch(), poison=[2])

    counters = names(model, [model.step, model.not_finite])
    followers = set()
    if method == "moco":
        pairs = zip(model.encoder.variables, model.key_encoder.variables, strict=True)
        followers = names(model, [key for query, key in pairs if query.trainable])
    changed = differing(watch.states[2], watch.states[3])
    assert changed - followers == counters
    assert bool(changed & followers) == bool(followers)
    assert (model.steps_done, model.steps_not_finite) == (4, 1)
    assert capsys.readouterr().out == SKIPPED.format(where="step 3", count=1, step=3)

    # The epoch's means are those of the three other steps.
    assert watch.logs[3] == watch.logs[2]
    assert number(model.means.steps) == 3
    assert np.isfinite([value for values in history.values() for value in values]).all()
    # The next step trains as ever.
    assert names(model, model.encoder.variables[:1]) <= differing(watch.states[3], watch.states[4])
    assert_finite(model)


def test_a_skipped_step_leaves_the_training_as_if_its_batch_had_not_been_there():
    """With a key encoder that stays where it is, and random numbers that hang on the step all the same."""

    def final(poison, steps):
        model = at_rate()
        model.momentum = 1.0
        fit(model, NotFiniteGuard(stream=io.StringIO()), poison=poison, steps=steps)
        return model, state(model)

    (model, with_bad), (_, without) = final([3], steps=4), final([], steps=3)
    assert differing(with_bad, without) == names(model, [model.step, model.not_finite])


def test_skipping_can_begin_with_a_second_fit(capsys):
    fit(model := at_rate(skip=False), NotFiniteGuard(), steps=2)
    model.skip_not_finite = True
    fit(model, NotFiniteGuard(), poison=[1])
    assert capsys.readouterr().out == SKIPPED.format(where="step 4", count=1, step=4)
    assert_finite(model)


def test_ten_steps_in_a_row_end_the_training(capsys):
    model = at_rate()
    message = ended(model, NotFiniteGuard(), poison=range(2, 30), steps=30)
    assert message == FUTILE.format(where="step 12", count=10)
    told = [SKIPPED.format(where=f"step {step}", count=step - 2, step=step) for step in range(3, 12)]
    assert capsys.readouterr().out == "".join(told)
    assert_finite(model)


def test_an_epoch_of_skipped_steps_alone_is_not_called_sound(capsys):
    """Its means are of no step at all."""
    fit(at_rate(), NotFiniteGuard(), poison=range(3), steps=3, epochs=2)
    assert capsys.readouterr().out == "".join(
        SKIPPED.format(where=f"step {step}", count=step, step=step) for step in (1, 2, 3)
    )


def test_steps_skipped_are_counted_over_all_runs(capsys):
    fit(model := at_rate(), NotFiniteGuard(), poison=[1])
    capsys.readouterr()
    fit(model, NotFiniteGuard(), poison=[2])
    assert capsys.readouterr().out == SKIPPED.format(where="step 7", count=2, step=7)


def test_infinite_gradients_of_a_finite_loss_are_found(capsys):
    model = at_rate()
    contrast = model.contrast

    def exploding(views, targets):
        divisor = tf.cast(tf.convert_to_tensor(model.step) != 2, "float32")

        @tf.custom_gradient
        def explode(logits):
            return tf.identity(logits), lambda gradient: gradient / divisor

        return [found._replace(logits=explode(found.logits)) for found in contrast(views, targets)]

    model.contrast = exploding
    fit(model, NotFiniteGuard(), watch := Watch())
    assert capsys.readouterr().out == SKIPPED.format(where="step 3", count=1, step=3)
    assert not names(model, model.encoder.variables) & differing(watch.states[2], watch.states[3])
    assert np.isfinite([logs["loss"] for logs in watch.logs[1:]]).all()
    assert_finite(model)


@pytest.mark.parametrize("skip, replicas", [(False, 1), (True, 2)])
def test_the_overflow_by_which_loss_scaling_finds_its_scale_is_not_counted(skip, replicas, capsys):
    keras.config.set_dtype_policy("mixed_float16")
    model = at_rate(replicas=replicas, scale=2.0**24, skip=skip)
    fit(model, NotFiniteGuard(), watch := Watch(), steps=15)
    kernel = names(model, model.encoder.variables[:1])
    assert not kernel & differing(watch.states[0], watch.states[1])  # which overflows
    assert kernel <= differing(watch.states[0], watch.states[-1])
    assert number(model.optimizer.dynamic_scale) < 2.0**24
    assert (model.steps_not_finite, capsys.readouterr().out) == (0, "")
    assert_finite(model)


def test_a_figure_that_is_nan_beside_a_finite_loss_is_told_once(capsys):
    model = make_model()
    model.monitor = lambda: {"queue_fill": NAN, "key_momentum": 0.9}
    fit(model, NotFiniteGuard(), steps=2, epochs=3)
    assert model.steps_not_finite == 0
    assert capsys.readouterr().out == (
        "note: `queue_fill` is nan in epoch 1, although loss and gradients were finite: the training is sound, only "
        "this figure is not. It will not be told again.\n"
    )


def test_each_figure_is_told_on_its_own():
    guard, _, stream = guarded()
    for epoch, logs in enumerate(({"a": NAN, "b": 1.0}, {"a": NAN, "b": float("-inf")}, {"a": NAN, "b": NAN}, None)):
        guard.on_epoch_end(epoch, logs)
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "note: `a` is nan in epoch 1",
        "note: `b` is -inf in epoch 2",
    ]


def guarded():
    """A guard that prints to a stream, and what it looks at of a model."""
    optimizer = types.SimpleNamespace(learning_rate=0.03)
    model = types.SimpleNamespace(steps_done=0, steps_not_finite=0, skip_not_finite=True, optimizer=optimizer)
    guard = NotFiniteGuard(stream=(stream := io.StringIO()))
    guard.set_model(model)
    guard.on_train_begin()
    guard.on_epoch_begin(0)
    return guard, model, stream


def execute(guard, model, steps, bad):
    model.steps_done += steps
    model.steps_not_finite += bad
    guard.on_train_batch_end(model.steps_done - 1)


def test_nine_in_a_row_do_not_end_the_training_even_twice():
    guard, model, stream = guarded()
    for bad in (*[1] * 9, 0, *[1] * 9, 0):
        execute(guard, model, 1, bad)
    assert stream.getvalue().splitlines(keepends=True) == [
        SKIPPED.format(where=f"step {step}", count=step - step // 10, step=step) for step in range(1, 20) if step != 10
    ]


def test_of_several_steps_at_once_those_skipped_are_told_together():
    guard, model, stream = guarded()
    for bad in (0, 2, 4, 0, 1):
        execute(guard, model, 4, bad)
    assert stream.getvalue() == (
        SKIPPED.format(where="2 of the steps 5 to 8", count=2, step=8)
        + SKIPPED.format(where="4 of the steps 9 to 12", count=6, step=12)
        + SKIPPED.format(where="1 of the steps 17 to 20", count=7, step=20)
    )


def test_of_several_steps_at_once_ten_in_a_row_end_the_training_too():
    guard, model, _ = guarded()
    for bad in (4, 4, 3, 4, 4):
        execute(guard, model, 4, bad)
    with pytest.raises(NotFiniteError) as caught:
        execute(guard, model, 4, 4)
    assert str(caught.value) == FUTILE.format(where="4 of the steps 21 to 24", count=12)
