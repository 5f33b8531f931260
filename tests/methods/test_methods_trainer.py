"""`fit` from the middle of an epoch, agreed stops, and means that are part of the model."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.methods.logs import EpochMeans
from keras_moco.methods.trainer import ReplicatedTrainer
from keras_moco.runs.checkpoints import restore, save
from tests.small_training import Crash, batches, differing, make_model, state, strategy_of, without_autotune


class Recorder(ReplicatedTrainer):
    """Records the batches of its steps, which are numbers, and logs them."""

    def __init__(self):
        super().__init__()
        settings = {"initializer": "zeros", "dtype": "int64", "trainable": False}
        self.count = self.add_weight((), name="count", **settings)
        self.batches = self.add_weight((60,), name="batches", **settings)
        self.built = True

    def train_step(self, batch):
        number = tf.cast(batch, "int64")
        with tf.control_dependencies([number]):
            self.batches.assign(tf.tensor_scatter_nd_update(self.batches.value, [[self.count.value]], [number]))
            self.count.assign_add(1)
        return {"number": number}

    @property
    def steps_done(self):
        return int(np.array(self.count))

    def logs_so_far(self):
        return {"number": self.taken[-1]}

    @property
    def taken(self):
        return np.array(self.batches)[: int(np.array(self.count))].tolist()


def recorder(steps_per_execution=1):
    model = Recorder()
    model.compile(optimizer="sgd", steps_per_execution=steps_per_execution, jit_compile=False)
    return model


def numbers(first=0):
    return tf.data.Dataset.range(first, 10_000)


class Steps(keras.callbacks.Callback):
    """Step numbers as callbacks see them: a list of (begin, end) for each epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs[epoch] = []

    def on_train_batch_begin(self, batch, logs=None):
        self._begin = batch

    def on_train_batch_end(self, batch, logs=None):
        self.epochs[max(self.epochs)].append((self._begin, batch))


# `initial_step`


@pytest.mark.parametrize(("steps_per_epoch", "initial_step"), [(5, -1), (5, 5), (None, 3)])
def test_initial_step_outside_the_epoch_is_refused(steps_per_epoch, initial_step):
    model = recorder()
    with pytest.raises(ValueError, match=f"initial_step={initial_step}, steps_per_epoch={steps_per_epoch}"):
        model.fit(numbers(), steps_per_epoch=steps_per_epoch, initial_step=initial_step, verbose=0)
    assert model.taken == []


@pytest.mark.parametrize(("length", "at_once"), [(4, 3), (2, 3), (6, 3)])
def test_last_steps_before_the_data_ends_are_logged(length, at_once):
    """Where the length is unknown, the end is found within an execution."""
    model, steps = recorder(at_once), Steps()
    data = numbers().take(length).filter(lambda number: True)
    with pytest.warns(UserWarning, match="ran out of data"):  # by which Keras finds the length
        history = model.fit(data, epochs=2, verbose=0, callbacks=[steps])
    assert model.taken == [*range(length), *range(length)]
    assert history.history["number"] == [length - 1, length - 1]


def expected_steps(length, first, at_once):
    return [(begin, begin + at_once - 1) for begin in range(first, length, at_once)]


@pytest.mark.parametrize(("at_once", "initial_step"), [(1, 0), (1, 6), (3, 1), (3, 2)])
def test_fit_takes_the_rest_of_an_epoch_then_whole_epochs(at_once, initial_step):
    model, steps = recorder(at_once), Steps()
    settings = {"steps_per_epoch": 7, "initial_epoch": 2, "epochs": 5, "verbose": 0, "callbacks": [steps]}
    history = model.fit(numbers(initial_step), initial_step=initial_step, **settings)
    assert model.taken == list(range(initial_step, 21))
    assert steps.epochs == {
        2: expected_steps(7, initial_step, at_once),
        3: expected_steps(7, 0, at_once),
        4: expected_steps(7, 0, at_once),
    }
    assert history.epoch == [2, 3, 4]
    assert history.history["number"] == [6, 13, 20]


def test_initial_step_does_not_affect_the_next_fit():
    def fail(batch, logs):
        raise Crash

    model, crash = recorder(), keras.callbacks.LambdaCallback(on_train_batch_begin=fail)
    with pytest.raises(Crash):
        model.fit(numbers(), steps_per_epoch=4, initial_step=2, verbose=0, callbacks=[crash])
    with pytest.raises(ValueError, match="`initial_step`"):
        model.fit(numbers(), steps_per_epoch=4, initial_step=4, verbose=0)
    steps = Steps()
    model.fit(numbers(10), steps_per_epoch=4, initial_step=3, verbose=0)
    model.fit(numbers(20), steps_per_epoch=4, verbose=0, callbacks=[steps])
    assert model.taken == [10, 20, 21, 22, 23]
    assert steps.epochs == {0: expected_steps(4, 0, 1)}


def test_means_start_again_in_each_epoch_except_a_resumed_one():
    model, before = make_model(), []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: before.append(int(np.array(model.means.steps))))
    for initial_step in (0, 2):
        model.means.steps.assign(2)
        settings = {"steps_per_epoch": 4, "initial_step": initial_step, "epochs": 3, "verbose": 0}
        model.fit(batches(initial_step), callbacks=[note], **settings)
        assert int(np.array(model.means.steps)) == 4
    assert before == [0, 0, 0, 2, 0, 0]


@pytest.mark.parametrize(("replicas", "at_once"), [(1, 3), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_resumed_epoch_is_identical_to_the_whole_one(tmp_path, replicas, at_once):
    settings = {"steps_per_epoch": 5, "epochs": 3, "verbose": 0}
    whole = make_model(replicas=replicas, steps_per_execution=at_once)
    history = whole.fit(batches(), **settings).history

    def save_and_crash(batch, logs):
        if crashed.steps_done == 8:
            save(crashed, tmp_path, 1, 3)
            raise Crash

    crashed = make_model(replicas=replicas, steps_per_execution=at_once)
    with pytest.raises(Crash):
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=save_and_crash)
        crashed.fit(batches(), callbacks=[callback], **settings)

    resumed = make_model(replicas=replicas, steps_per_execution=at_once, seed=1)
    restore(resumed, tmp_path)
    rest = resumed.fit(batches(8), initial_epoch=1, initial_step=3, **settings).history
    assert rest == {name: values[1:] for name, values in history.items()}
    assert len(set(history["loss"])) == 3
    assert differing(state(resumed), state(whole)) == set()


# Stops


def stops(model, request, **settings):
    """`stop_agreed` after each step, if the hook `request` asks for a stop at step 2."""
    agreed = []

    def ask(batch, logs):
        if batch == 2:
            model.stop_requested = True

    callbacks = [
        keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: agreed.append(model.stop_agreed)),
        keras.callbacks.LambdaCallback(**{request: ask}),
    ]
    model.fit(numbers(), steps_per_epoch=5, verbose=0, callbacks=callbacks, **settings)
    return agreed


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("on_train_batch_begin", [False, False, True, True, True]),
        ("on_train_batch_end", [False, False, False, True, True]),
    ],
)
def test_requested_stop_is_agreed_after_the_next_step_and_reset_by_the_next_fit(request_, expected):
    model = recorder()
    assert stops(model, request_) == expected
    assert model.taken == [0, 1, 2, 3, 4]  # who asked must end the training
    assert model.stop_requested and model.stop_agreed
    assert stops(model, "on_test_begin") == [False] * 5  # a hook that is never called: `fit` resets the request


# Means


def take_in(replicas, steps, counts=None):
    """The layer, and the means after each step on each replica; `steps` is `(S, replicas, 2)`."""
    strategy = strategy_of(replicas)
    with strategy.scope():
        means = EpochMeans(("loss", "accuracy"))

    @tf.function
    def step(values, count):
        def update(values):
            found = means.update({"accuracy": values[1], "loss": values[0], "other": values[0]}, count)
            return tf.stack([found["loss"], found["accuracy"]])

        return strategy.run(update, (values,))

    found = []
    for number, values in enumerate(np.asarray(steps, "float32")):
        share = strategy.experimental_distribute_values_from_function(
            lambda context, values=values: tf.constant(values[context.replica_id_in_sync_group])
        )
        output = step(share, tf.constant(counts is None or counts[number]))
        found.append([np.array(each) for each in strategy.experimental_local_results(output)])
    return means, np.array(found)


@pytest.mark.parametrize("replicas", [1, 2])
def test_means_are_over_replicas_and_the_steps_so_far(replicas):
    steps = np.random.default_rng(0).normal(size=(6, replicas, 2))
    _, found = take_in(replicas, steps)
    expected = steps.mean(axis=1).cumsum(axis=0) / np.arange(1, 7)[:, None]
    for replica in range(replicas):
        np.testing.assert_allclose(found[:, replica], expected, rtol=1e-5, atol=1e-6)
        assert found[:, replica].tobytes() == found[:, 0].tobytes()


@pytest.mark.parametrize(("replicas", "bad"), [(1, 1000.0), (2, np.nan)])
def test_step_that_does_not_count_changes_nothing(replicas, bad):
    steps = np.random.default_rng(0).normal(size=(6, replicas, 2))
    steps[[2, 4], -1] = bad  # of the last replica alone
    counts = [True, True, False, True, False, True]
    means, found = take_in(replicas, steps, counts)
    _, without = take_in(replicas, steps[counts])
    assert found[counts].tobytes() == without.tobytes()
    np.testing.assert_array_equal(found[[2, 4]], found[[1, 3]])
    assert int(np.array(means.steps)) == 4


# How long steps wait for their batch


@pytest.mark.parametrize("at_once", [1, 3])
def test_time_that_steps_wait_for_data_is_counted(at_once):
    def slow(number):
        return tf.numpy_function(lambda: time.sleep(0.02) or np.int64(0), [], tf.int64) + number

    def with_shape(number):
        return tf.ensure_shape(number, [])

    model = recorder(at_once)
    data = without_autotune(numbers().map(slow).map(with_shape))  # so that no batch is prepared in advance
    for steps in (6, 3):  # each `fit` counts from zero
        start = time.perf_counter()
        model.fit(data, steps_per_epoch=steps, verbose=0)
        # The lower bound holds at any speed; a thousandth for the clocks.
        assert 0.999 * 0.02 * steps < model.data_wait < time.perf_counter() - start + 0.001
