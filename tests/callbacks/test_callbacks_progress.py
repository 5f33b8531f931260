import csv
import io
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.callbacks import Progress
from keras_moco.optimizers import SGD
from tests.small_training import batches, make_model


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Optimizer:
    learning_rate = 0.03125


class Model:
    optimizer = Optimizer()
    data_wait = 0.0


def simulate(
    progress, epochs, steps, seconds=0.5, compile_seconds=60.0, pause=10.0, steps_at_once=1, first=0, waiting=0.2
):
    """Drives a callback as `fit` does; returns the logs of each epoch. `waiting`: share of a step without data."""
    progress._clock = clock = Clock()
    progress.set_model(model := Model())
    progress.on_train_begin()
    logs = []
    for epoch in range(first, epochs):
        progress.on_epoch_begin(epoch)
        for step in range(steps_at_once - 1, steps, steps_at_once):
            started = epoch > first or step >= steps_at_once
            clock.now += seconds * steps_at_once + (0 if started else compile_seconds)
            model.data_wait += waiting * seconds * steps_at_once + (0 if started else compile_seconds)
            progress.on_train_batch_end(step, {"loss": 5.1234, "contrast_top1": 0.3412})
        logs.append({"loss": 5.0, "contrast_top1": 0.36, "knn_top1": 71.26})
        clock.now += pause
        progress.on_epoch_end(epoch, logs[-1])
    return logs


def test_a_last_execution_that_is_shorter_is_counted_as_it_is():
    """10 steps, 4 at a time: Keras calls the last one step 12."""
    progress = Progress(10, 1, batch_size=256, log_steps=4, stream=io.StringIO())
    progress._clock = clock = Clock()
    progress.set_model(Model())
    progress.on_train_begin()
    progress.on_epoch_begin(0)
    for step, seconds in ((3, 60.0), (7, 2.0), (11, 1.0)):
        clock.now += seconds
        progress.on_train_batch_end(step, {})
    logs = {}
    progress.on_epoch_end(0, logs)
    assert logs["images_per_second"] == 6 * 256 / 3  # without the first execution, which compiles


def test_a_line_every_so_many_steps_and_one_per_epoch():
    stream = io.StringIO()
    simulate(Progress(10, 2, batch_size=256, log_steps=4, stream=stream), epochs=2, steps=10)
    assert stream.getvalue().splitlines() == [
        "epoch 1/2 step 4/10 loss 5.123 top1 34.1% lr 0.03125 images/s 512 step 500ms data-wait 100ms left 8s",
        "epoch 1/2 step 8/10 loss 5.123 top1 34.1% lr 0.03125 images/s 512 step 500ms data-wait 100ms left 6s",
        "epoch 1/2 done loss 5.000 top1 36.0% knn 71.3% lr 0.03125 images/s 512 step 500ms data-wait 100ms left 5s",
        "epoch 2/2 step 4/10 loss 5.123 top1 34.1% lr 0.03125 images/s 512 step 500ms data-wait 100ms left 3s",
        "epoch 2/2 step 8/10 loss 5.123 top1 34.1% lr 0.03125 images/s 512 step 500ms data-wait 100ms left 1s",
        "epoch 2/2 done loss 5.000 top1 36.0% knn 71.3% lr 0.03125 images/s 512 step 500ms data-wait 100ms left 0s",
    ]


def test_neither_compilation_nor_the_time_between_epochs_slows_the_measured_speed():
    logs = simulate(Progress(10, 3, batch_size=64, stream=io.StringIO()), epochs=3, steps=10, seconds=0.25)
    assert [log["images_per_second"] for log in logs] == pytest.approx([256.0] * 3)
    assert [log["learning_rate"] for log in logs] == [0.03125] * 3


def test_the_time_left_counts_the_time_between_epochs():
    stream = io.StringIO()
    simulate(Progress(10, 5, batch_size=1, stream=stream), epochs=5, steps=10, seconds=1.0, pause=20.0)
    left = re.findall(r"done .* left (\S+)", stream.getvalue())
    # Nothing is known about pauses at the end of the first epoch; later 20 s for each epoch to come.
    assert left == ["40s", "1m30s", "1m00s", "30s", "0s"]


def test_a_resumed_run_counts_epochs_from_the_start():
    stream = io.StringIO()
    simulate(Progress(10, 5, batch_size=1, log_steps=5, stream=stream), epochs=5, steps=10, first=3)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("epoch 4/5 step 5/10")
    assert lines[-1].startswith("epoch 5/5 done")


def take_up(progress, first_step, steps_at_once=1):
    """An epoch of 10 steps taken up in its middle: 30 s until its first step, which compiles for a minute."""
    progress._clock = clock = Clock()
    progress.set_model(model := Model())
    progress.on_train_begin()
    progress.on_epoch_begin(3)
    clock.now += 30.0
    for step in range(first_step, 10, steps_at_once):
        progress.on_train_batch_begin(step)
        clock.now += 60.0 if step == first_step else 0.5 * min(steps_at_once, 10 - step)
        model.data_wait += 60.0 if step == first_step else 0.1 * min(steps_at_once, 10 - step)
        progress.on_train_batch_end(step + steps_at_once - 1, {})
    logs = {}
    progress.on_epoch_end(3, logs)
    return logs


def test_an_epoch_taken_up_in_its_middle_counts_the_steps_that_it_takes():
    stream = io.StringIO()
    logs = take_up(Progress(10, 5, batch_size=256, log_steps=2, stream=stream), first_step=5)
    assert stream.getvalue().splitlines() == [
        "epoch 4/5 step 6/10 lr 0.03125",  # which compiled
        "epoch 4/5 step 8/10 lr 0.03125 images/s 512 step 500ms data-wait 100ms left 6s",
        "epoch 4/5 done lr 0.03125 images/s 512 step 500ms data-wait 100ms left 5s",
    ]
    assert logs["images_per_second"] == pytest.approx(512)
    assert logs["step_seconds"] == pytest.approx(0.5)
    assert logs["data_wait_seconds"] == pytest.approx(0.1)


def test_an_epoch_taken_up_before_its_last_step_has_the_speed_of_that_step():
    stream = io.StringIO()
    logs = take_up(Progress(10, 4, batch_size=120, stream=stream), first_step=9)
    assert logs["images_per_second"] == pytest.approx(120 / 60)
    assert stream.getvalue().splitlines()[0].startswith("epoch 4/4 done lr 0.03125 images/s 2 step 60000ms")


def test_an_epoch_taken_up_in_its_middle_counts_several_steps_at_once_one_by_one():
    stream = io.StringIO()
    logs = take_up(Progress(10, 4, batch_size=256, log_steps=2, stream=stream), first_step=1, steps_at_once=4)
    assert re.findall(r"step (\S+/\S+)", stream.getvalue()) == ["5/10", "9/10"]
    assert logs["images_per_second"] == pytest.approx(512)


def test_several_steps_at_once_are_counted_one_by_one():
    stream = io.StringIO()
    progress = Progress(12, 1, batch_size=10, log_steps=5, stream=stream)
    (logs,) = simulate(progress, epochs=1, steps=12, steps_at_once=4)
    assert logs["images_per_second"] == pytest.approx(20.0)
    assert re.findall(r"step (\S+/\S+)", stream.getvalue()) == ["8/12"]


def test_epochs_of_one_step_have_a_speed_too():
    logs = simulate(Progress(1, 2, batch_size=10, stream=io.StringIO()), epochs=2, steps=1, compile_seconds=4.5)
    assert [log["images_per_second"] for log in logs] == pytest.approx([2.0, 20.0])


def test_the_wait_for_data_stands_beside_the_time_of_a_step():
    logs = simulate(Progress(10, 2, batch_size=10, stream=io.StringIO()), epochs=2, steps=10, waiting=0.25)
    assert [log["step_seconds"] for log in logs] == pytest.approx([0.5] * 2)
    assert [log["data_wait_seconds"] for log in logs] == pytest.approx([0.125] * 2)


@pytest.mark.parametrize("waiting, noted", [(0.29, False), (0.31, True)])
def test_an_epoch_that_waits_too_long_for_data_says_which_flags_to_change(waiting, noted):
    stream = io.StringIO()
    simulate(Progress(10, 1, batch_size=10, stream=stream), epochs=1, steps=10, waiting=waiting)
    note = (
        "note: steps waited for data during 31% of their time. More CPU cores; --augment_on=device (on an "
        "accelerator), --cache_encoded (slow storage) and --noaugment_exact help."
    )
    assert (stream.getvalue().splitlines()[-1] == note) == noted and ("note" in stream.getvalue()) == noted


def test_on_a_terminal_a_bar_runs_up_to_the_line_of_each_epoch(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    logs = simulate(Progress(10, 2, batch_size=256, log_steps=4), epochs=2, steps=10)
    assert "images_per_second" in logs[0]
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    # What a terminal shows in the end: of each line what was written behind the last carriage return or backspace.
    shown = [line.rstrip("\r").split("\r")[-1].split("\x08")[-1] for line in text.splitlines()]
    shown = [line for line in shown if line]
    assert [re.sub(r" +\d+s \d+[mu]?s/step", "", line) for line in shown] == [
        "epoch 1/2",
        "10/10 ━━━━━━━━━━━━━━━━━━━━ - loss: 5.0000 - contrast_top1: 0.3600",
        "epoch 1/2 done loss 5.000 top1 36.0% knn 71.3% lr 0.03125 images/s 512 step 500ms data-wait 100ms left 5s",
        "epoch 2/2",
        "10/10 ━━━━━━━━━━━━━━━━━━━━ - loss: 5.0000 - contrast_top1: 0.3600",
        "epoch 2/2 done loss 5.000 top1 36.0% knn 71.3% lr 0.03125 images/s 512 step 500ms data-wait 100ms left 0s",
    ]
    assert " 7/10 ━━━" in text and "loss: 5.1234" in text  # on the way


def test_in_a_real_fit_later_callbacks_and_the_history_see_rate_and_speed(tmp_path, capsys):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(
        optimizer=keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.5, 0.25])),
        loss="mse",
    )
    data = tf.data.Dataset.from_tensor_slices((np.ones((16, 3)), np.ones((16, 1)))).batch(4)
    callbacks = [Progress(4, 2, batch_size=4, log_steps=2), keras.callbacks.CSVLogger(tmp_path / "log.csv")]
    history = model.fit(data, epochs=2, verbose=0, callbacks=callbacks).history
    assert history["learning_rate"] == [0.25, 0.25]
    assert min(history["images_per_second"]) > 0
    with open(tmp_path / "log.csv", newline="") as file:
        assert [float(row["images_per_second"]) for row in csv.DictReader(file)] == history["images_per_second"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" loss")[0] for line in lines] == [
        "epoch 1/2 step 2/4",
        "epoch 1/2 done",
        "epoch 2/2 step 2/4",
        "epoch 2/2 done",
    ]
    assert "lr 0.5 " in lines[0] and "lr 0.25 " in lines[1]


@pytest.mark.parametrize("replicas", [1, 2])
def test_in_a_fit_from_the_middle_of_an_epoch_at_a_constant_rate_all_lines_are_right(replicas):
    stream = io.StringIO()
    model = make_model(replicas=replicas)
    with model.distribute_strategy.scope():
        model.compile(optimizer=SGD(0.125), jit_compile=False)
    progress = Progress(5, 2, batch_size=8, log_steps=2, stream=stream)
    history = model.fit(
        batches(2), steps_per_epoch=5, initial_step=2, epochs=2, verbose=0, callbacks=[progress]
    ).history
    lines = [line.split(" loss") for line in stream.getvalue().splitlines() if not line.startswith("note: ")]
    assert [line[0] for line in lines] == [
        "epoch 1/2 step 4/5",
        "epoch 1/2 done",
        "epoch 2/2 step 2/5",
        "epoch 2/2 step 4/5",
        "epoch 2/2 done",
    ]
    assert all(" lr 0.125 " in line[1] for line in lines)
    assert history["learning_rate"] == [0.125, 0.125]
    assert min(history["images_per_second"]) > 0


@pytest.mark.parametrize("name", ["steps_per_epoch", "epochs", "batch_size", "log_steps"])
def test_counts_must_be_positive(name):
    counts = {"steps_per_epoch": 1, "epochs": 1, "batch_size": 1, "log_steps": 1}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1. Received: {name}=0. Give a positive integer."):
        Progress(**(counts | {name: 0}))
