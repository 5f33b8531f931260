"""A crashed run resumes to the same bits; when checkpoints are saved, which are kept, and what if one cannot be."""

import contextlib
import io
import math
import os
import types
from unittest import mock

import h5py
import keras
import pytest

from keras_moco.callbacks import Checkpoint, EpochLog, checkpoint
from keras_moco.runs.checkpoint_index import saved_steps
from keras_moco.runs.checkpoints import save
from tests.small_training import Crash, CrashAt, batches, differing, make_model, scramble, state

STEPS, EPOCHS = 7, 3  # 3 steps at a time do not divide an epoch
FULL = OSError(28, "No space left on device")


def train(model, run, stop=None):
    """Resumes a run, to its end or until a crash; returns its `Checkpoint` and the history of `fit`."""
    run.mkdir(exist_ok=True)
    callback = Checkpoint(run / "checkpoints", every_minutes=1e-9 if stop else 0)
    callback.restore(model)
    epoch, step = divmod(model.steps_done, STEPS)
    callbacks = [EpochLog(run / "log.csv", callback.log), callback]
    with contextlib.nullcontext() if stop is None else pytest.raises(Crash):
        model.fit(
            batches(first_step=model.steps_done),
            steps_per_epoch=STEPS,
            initial_epoch=epoch,
            initial_step=step,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[*callbacks, CrashAt(stop)] if stop else callbacks,
        )
    return callback, model.history


@pytest.mark.parametrize(
    "method, replicas, steps_at_once, stops",
    [
        ("moco", 1, 1, (9, 12)),
        pytest.param("moco", 2, 1, (9, 12), marks=pytest.mark.slow),
        pytest.param("memory_bank", 2, 3, (10, 13), marks=pytest.mark.slow),
    ],
)
def test_a_run_that_crashes_twice_in_mid_epoch_ends_in_the_same_bits(method, replicas, steps_at_once, stops, tmp_path):
    model = make_model(method, replicas, steps_per_execution=steps_at_once)
    crashing, undisturbed = tmp_path / "crashing", tmp_path / "whole"
    save(model, crashing / "checkpoints")
    whole, history = train(model, undisturbed)
    wanted = state(model)

    for stop in stops:
        scramble(model)  # a new process has none of the values
        train(model, crashing, stop)
        assert stop == model.steps_done and stop in saved_steps(crashing / "checkpoints")
    resumed = make_model(method, replicas, seed=1, steps_per_execution=steps_at_once)
    crashed, rest = train(resumed, crashing)

    assert differing(wanted, state(resumed)) == set()
    assert crashed.log == whole.log and list(whole.log) == [0, 1, 2]
    assert (crashing / "log.csv").read_bytes() == (undisturbed / "log.csv").read_bytes()
    assert rest.epoch == [1, 2] and rest.history == {name: row[1:] for name, row in history.history.items()}
    assert len({row["loss"] for row in whole.log.values()}) == 3


def test_data_of_unknown_length_are_saved_after_the_epoch_only(model, tmp_path):
    data = batches(steps=3).filter(lambda _: True)
    data = data.map(lambda views: {name: keras.ops.reshape(view, (8, *view.shape[1:])) for name, view in views.items()})
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(data, epochs=1, verbose=0, callbacks=[Checkpoint(tmp_path, every_minutes=1e-9, keep=9)])
    assert list(saved_steps(tmp_path)) == [3]


# Which are kept.


class Bare:
    """What `save` and `restore` need of a model."""

    built, variables, steps_done = True, (), 0
    optimizer = types.SimpleNamespace(built=True, variables=())

    def _flatten_layers(self):
        return []

    def save_weights(self, file):
        h5py.File(file, "w").close()

    def load_weights(self, path):
        pass


def drive(callback, rows, steps=10, first=0, at_once=1, pass_time=lambda steps: None):
    """Calls a callback as `fit` does in epochs that log these rows, after steps that take their time."""
    callback.set_model(model := Bare())
    callback.set_params({"epochs": first + len(rows), "steps": steps})
    callback.on_train_begin()
    for epoch, row in enumerate(rows, first):
        callback.on_epoch_begin(epoch)
        for begin in range(0, steps, at_once):
            end = begin + at_once
            pass_time(min(end, steps) - begin)
            model.steps_done = epoch * steps + min(end, steps)
            callback.on_train_batch_end(end - 1)  # as Keras, beyond the end of an epoch
        callback.on_epoch_end(epoch, row)


def kept_epochs(directory, steps=10):
    return [step / steps for step in saved_steps(directory)]


def knn(*values):
    """Rows of epochs, of which those with `None` were not evaluated."""
    return [{"loss": 1.0} if value is None else {"loss": 1.0, "knn_top1": value} for value in values]


@pytest.mark.parametrize(
    "settings, rows, kept",
    [
        ({"keep": 2}, knn(*5 * [None]), [4, 5]),
        ({"keep": 1, "keep_every_epochs": 3}, knn(*8 * [None]), [3, 6, 8]),
        ({"keep": 1}, knn(10, 60, 60, 20, 60, 30, 20), [2, 7]),  # of equal ones the first
        ({"keep": 1}, knn(None, 60, None, 70, None, 50, None), [4, 7]),
        ({"keep": 1, "every_epochs": 2}, knn(90, 10, 20, 30, 10, 20), [4, 6]),  # the best of those that were saved
        ({"keep": 1, "keep_best": "speed"}, [{"speed": x, "knn_top1": 10 - x} for x in (1, 3, 2, 1)], [2, 4]),
        ({"keep": 2, "keep_every_epochs": 4}, knn(10, 90, 20, 30, 40, 50, 60, 70, 80, 70), [2, 4, 8, 9, 10]),
    ],
)
def test_the_newest_the_regular_and_the_best_are_kept(settings, rows, kept, tmp_path):
    drive(Checkpoint(tmp_path, max_share=1, **settings), rows)
    assert kept_epochs(tmp_path) == kept


def test_a_checkpoint_in_mid_epoch_is_neither_a_regular_nor_the_best_one(tmp_path):
    drive(Checkpoint(tmp_path, max_share=1, keep=1, every_minutes=1e-9, keep_every_epochs=2), knn(10, 90, 20), steps=3)
    assert kept_epochs(tmp_path, steps=3) == [2, 3]


@pytest.mark.parametrize("damage", [os.remove, lambda path: path.write_text("[]")])
def test_damaged_checkpoints_count_among_the_newest_alone(damage, tmp_path):
    callback = Checkpoint(tmp_path, max_share=1, keep=2, keep_every_epochs=1)
    drive(callback, knn(10, 90, 20))
    for step in (10, 30):
        damage(tmp_path / f"step-{step:09d}" / "state.json")
    drive(callback, knn(30), first=3)
    assert kept_epochs(tmp_path) == [2, 3, 4]
    os.truncate(tmp_path / "step-000000040" / "state.json", 5)
    with pytest.warns(UserWarning, match="is damaged"):
        assert Checkpoint(tmp_path).restore(Bare()).step == 20  # and the others are set aside
    assert sorted(os.listdir(tmp_path))[:2] == ["damaged-step-000000030", "damaged-step-000000040"]


# When.


@pytest.fixture
def timeline(tmp_path, monkeypatch):
    """A function that drives a callback through steps of given durations: the `(epoch, step)` of what it saves."""

    def run(epochs, steps, seconds, save_seconds=0.0, at_once=1, first=0, fail=(), **settings):
        clock, saved = types.SimpleNamespace(now=1000.0), []

        def pass_time(steps):
            clock.now += steps * seconds

        def timed_save(model, directory, epoch, step_in_epoch, *_):
            clock.now += save_seconds
            saved.append("failed" if len(saved) in fail else (epoch, step_in_epoch))
            if saved[-1] == "failed":
                raise FULL
            return tmp_path

        monkeypatch.setattr(checkpoint, "save", timed_save)
        callback = Checkpoint(tmp_path, stream=io.StringIO(), **settings)
        callback._clock = lambda: clock.now
        drive(callback, (epochs - first) * [{"loss": 1.0}], steps, first, at_once, pass_time)
        return saved

    return run


def test_checkpoints_within_epochs_follow_the_clock(timeline):
    assert timeline(1, steps=32, seconds=60) == [(0, 10), (0, 20), (0, 30), (1, 0)]
    assert timeline(1, steps=5, seconds=10**6, every_minutes=0) == [(1, 0)]
    # They count from the end of the last one, across epochs.
    saved = timeline(2, steps=8, seconds=120, save_seconds=45, max_share=0.5)
    assert saved == [(0, 5), (1, 0), (1, 5), (2, 0)]
    assert timeline(3, steps=8, seconds=60, every_epochs=0) == [(1, 2), (2, 4), (3, 0)]


def test_the_last_step_of_an_epoch_is_saved_once_with_what_the_epoch_logs(timeline):
    assert timeline(2, steps=2, seconds=300, every_epochs=0) == [(1, 0), (2, 0)]
    assert timeline(2, steps=7, seconds=300, at_once=3) == [(0, 3), (0, 6), (1, 0), (1, 3), (1, 6), (2, 0)]


def test_checkpoints_after_epochs_follow_every_epochs(timeline):
    assert timeline(7, steps=1, seconds=1, every_epochs=3) == [(3, 0), (6, 0), (7, 0)]
    assert timeline(7, steps=1, seconds=1, every_epochs=3, first=5) == [(6, 0), (7, 0)]


def test_short_epochs_are_skipped_where_checkpoints_take_long(timeline):
    # 10 s of 100 s: so 90 s have to pass after one, which three epochs do. The last epoch is saved in any case.
    times = {"steps": 3, "seconds": 10, "save_seconds": 10}
    assert timeline(9, **times, max_share=0.1) == [(1, 0), (4, 0), (7, 0), (9, 0)]
    assert timeline(4, **times, max_share=1) == [(1, 0), (2, 0), (3, 0), (4, 0)]
    # Neither those that are kept for good nor those that are overdue are skipped.
    assert timeline(9, 3, 1, save_seconds=1000, keep_every_epochs=4) == [(1, 0), (4, 0), (8, 0), (9, 0)]
    assert timeline(30, 1, 60, save_seconds=60) == [(1, 0), (11, 0), (21, 0), (30, 0)]


def test_a_failed_checkpoint_is_not_retried_before_the_next_one_is_due(timeline):
    assert timeline(1, steps=32, seconds=60, fail=[1]) == [(0, 10), "failed", (0, 30), (1, 0)]
    assert timeline(3, steps=1, seconds=60, fail=[0]) == ["failed", (2, 0), (3, 0)]


def test_a_checkpoint_that_cannot_be_written_is_reported_and_training_continues(model, tmp_path, monkeypatch, capsys):
    attempts = [mock.DEFAULT, FULL, FULL, mock.DEFAULT]
    monkeypatch.setattr(checkpoint, "save", mock.Mock(wraps=save, side_effect=attempts))
    callback = Checkpoint(tmp_path, max_share=1, keep=1)
    model.fit(batches(), steps_per_epoch=2, epochs=3, verbose=0, callbacks=[callback])
    first, second = capsys.readouterr().out.splitlines()
    assert "step 4 " in first and "step 6 " in second
    assert f"([Errno 28] No space left on device); {tmp_path}/step-000000002 " in second
    assert model.steps_done == 6 and list(saved_steps(tmp_path)) == [2]
    assert callback.save(3, 0) is True  # a last attempt, as `Stopping` makes it
    assert list(saved_steps(tmp_path)) == [6] and list(callback.log) == [0, 1, 2]


def test_numbers_out_of_their_range_are_refused_at_once():
    wrong = {"keep": [0, 1.5], "every_epochs": [-1, 0.5], "every_minutes": [-1, math.nan], "keep_every_epochs": [-1]}
    for name, values in {**wrong, "max_share": [0, -0.1, 1.1, math.nan]}.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"`{name}` must be .* Received: {name}={value}\."):
                Checkpoint("checkpoints", **{name: value})
