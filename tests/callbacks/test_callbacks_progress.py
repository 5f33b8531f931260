import io
import re
import types

import keras
import numpy as np
import pytest

from keras_moco.callbacks import Progress


class Drive:
    """Calls a callback as `fit` does, on a clock of its own; `waiting`: the share of a step without data."""

    def __init__(self, steps, epochs, waiting=0.2, **settings):
        self.now, self.steps, self.epochs, self.waiting = 100.0, steps, epochs, waiting
        self.stream = settings.setdefault("stream", io.StringIO())
        self.progress = Progress(steps, epochs, **{"batch_size": 256, **settings})
        self.progress._clock = lambda: self.now
        self.model = types.SimpleNamespace(optimizer=types.SimpleNamespace(learning_rate=0.03125), data_wait=0.0)
        self.progress.set_model(self.model)

    def epoch(self, epoch, seconds, at_once=1, first_step=0, compiling=0.0):
        """One epoch, whose first execution waits for data as long as it compiles; returns its logs."""
        self.progress.on_epoch_begin(epoch)
        self.now += 30.0 if first_step else 0.0  # until the data are there
        for step in range(first_step, self.steps, at_once):
            self.progress.on_train_batch_begin(step)
            taken = min(at_once, self.steps - step)
            extra = compiling if step == first_step else 0.0
            self.now += seconds * taken + extra
            self.model.data_wait += self.waiting * seconds * taken + extra
            # With several steps at once Keras names the last one, also beyond the end of the epoch.
            self.progress.on_train_batch_end(step + at_once - 1, {"loss": 5.1234, "contrast_top1": 0.3412})
        self.now += 10.0  # seconds between epochs
        found = {"loss": 5.0, "contrast_top1": 0.36, "knn_top1": 71.26}
        self.progress.on_epoch_end(epoch, found)
        return found

    def run(self, first=0, seconds=0.5, at_once=1, first_step=0, compiling=60.0):
        """All epochs; the first execution compiles. Returns the logs of each, a list."""
        self.progress.on_train_begin()
        logs = [self.epoch(first, seconds, at_once, first_step, compiling)]
        return logs + [self.epoch(epoch, seconds, at_once) for epoch in range(first + 1, self.epochs)]

    @property
    def lines(self):
        return self.stream.getvalue().splitlines()


# 256 images in half a second, of which a fifth passes without data.
PACE = "images/s 512 step 500ms data-wait 100ms"


def test_a_line_comes_every_log_steps_and_after_each_epoch():
    (drive := Drive(10, 2, log_steps=4)).run()
    step, done = "loss 5.123 top1 34.1% lr 0.03125", "loss 5.000 top1 36.0% knn 71.3% lr 0.03125"
    assert drive.lines == [
        f"epoch 1/2 step 4/10 {step} {PACE} left 8s",
        f"epoch 1/2 step 8/10 {step} {PACE} left 6s",
        f"epoch 1/2 done {done} {PACE} left 5s",
        f"epoch 2/2 step 4/10 {step} {PACE} left 3s",
        f"epoch 2/2 step 8/10 {step} {PACE} left 1s",
        f"epoch 2/2 done {done} {PACE} left 0s",
    ]


def test_neither_compilation_nor_the_time_between_epochs_counts_as_speed():
    logs = Drive(10, 3, batch_size=64).run(seconds=0.25)
    assert [log["images_per_second"] for log in logs] == pytest.approx([256.0] * 3)
    assert [log["step_seconds"] for log in logs] == pytest.approx([0.25] * 3)
    assert [log["data_wait_seconds"] for log in logs] == pytest.approx([0.05] * 3)
    assert [log["learning_rate"] for log in logs] == [0.03125] * 3
    # But for that of an epoch's only step.
    logs = Drive(1, 2, batch_size=10).run(compiling=4.5)
    assert [log["images_per_second"] for log in logs] == pytest.approx([2.0, 20.0])
    [logs] = Drive(10, 1, batch_size=120).run(first_step=9, compiling=59.5)
    assert logs["images_per_second"] == pytest.approx(120 / 60)


def test_the_time_left_counts_the_time_between_epochs():
    (drive := Drive(10, 5)).run(seconds=1.0)
    # Nothing is known about pauses at the end of the first epoch; later 10 s for each epoch to come.
    assert [line.rpartition(" left ")[2] for line in drive.lines] == ["40s", "1m00s", "40s", "20s", "0s"]


def test_an_epoch_resumed_in_its_middle_counts_the_steps_that_it_takes():
    (drive := Drive(10, 5, log_steps=2)).progress.on_train_begin()
    logs = drive.epoch(3, seconds=0.5, first_step=5, compiling=60.0)
    assert "images/s" not in drive.lines[0]  # which compiled
    expected = [f"epoch 4/5 {where}" for where in ("step 6/10", "step 8/10", "done")]
    assert [line.partition(" loss ")[0] for line in drive.lines] == expected
    assert [PACE in line for line in drive.lines] == [False, True, True]
    assert [line.rpartition(" left ")[2] for line in drive.lines[1:]] == ["6s", "5s"]
    assert logs["images_per_second"] == pytest.approx(512) and logs["step_seconds"] == pytest.approx(0.5)


def test_several_steps_at_once_are_counted_one_by_one():
    drive = Drive(10, 1, log_steps=4)  # the last execution takes two, and Keras calls it step 12
    [logs] = drive.run(at_once=4)
    assert re.findall(r"step (\d+/\d+)", drive.stream.getvalue()) == ["4/10", "8/10"]
    assert logs["images_per_second"] == pytest.approx(512)  # without the first execution, which compiles
    (drive := Drive(10, 1, log_steps=2)).run(first_step=1, at_once=4)
    assert re.findall(r"step (\d+/\d+)", drive.stream.getvalue()) == ["5/10", "9/10"]


def test_an_epoch_that_waits_too_long_for_data_says_which_flags_to_change():
    for waiting, notes in ((0.29, 0), (0.31, 1)):
        (drive := Drive(10, 1, waiting=waiting)).run()
        assert [line.startswith("note: ") for line in drive.lines] == [False, True][: 1 + notes]
    assert "31%" in drive.lines[-1] and "--augment_on=device" in drive.lines[-1]


def test_on_a_terminal_a_bar_runs_up_to_the_line_of_each_epoch(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    Drive(10, 2, stream=None).run()
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "7/10 " in text and "loss: 5.1234" in text  # on the way
    first, bar, done = text.rpartition("epoch 2/2 done")[0].partition("epoch 1/2 done loss 5.000 ")
    assert first.startswith("epoch 1/2\n") and bar and done.count("\nepoch 2/2\n") == 1
    assert "10/10 " in first and "loss: 5.0000" in first and "contrast_top1: 0.3600" in first


def test_any_keras_model_is_supported():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.5, 0.25])
    model.compile(optimizer=keras.optimizers.SGD(rates), loss="mse")
    progress = Progress(4, 2, batch_size=4, log_steps=2, stream=(stream := io.StringIO()))
    fit = {"batch_size": 4, "epochs": 2, "verbose": 0, "callbacks": [progress]}
    history = model.fit(np.ones((16, 3)), np.ones((16, 1)), **fit).history
    assert history["learning_rate"] == [0.25, 0.25] and min(history["images_per_second"]) > 0
    assert re.findall(r"lr ([\d.]+)", stream.getvalue()) == ["0.5", "0.25", "0.25", "0.25"]


def test_counts_must_be_positive():
    counts = {"steps_per_epoch": 1, "epochs": 1, "batch_size": 1, "log_steps": 1}
    for name in counts:
        for value in (0, -1, 1.5):
            with pytest.raises(ValueError, match=f"{name}={value}"):
                Progress(**(counts | {name: value}))
