"""A run that is stopped anywhere goes on to the same bits; which checkpoints are kept, when they are saved, or not."""

import contextlib
import io
import itertools
import os

import keras
import numpy as np
import pytest

from keras_moco.callbacks import Checkpoint, EpochLog, NotFiniteError, checkpoint, save, saved_steps
from tests.small_training import METHODS, Crash, CrashAt, batches, differing, make_model, scramble, state

STEPS, EPOCHS = 7, 3  # 3 steps at a time do not divide an epoch


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch):
    """Nothing here outlives the process, and to wait for the disk takes longer than all the rest."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def train(model, run, stop=None, steps=STEPS, epochs=EPOCHS):
    """Goes on with a run, to its end or until a crash; returns its `Checkpoint` and what `fit` tells of its epochs."""
    run.mkdir(exist_ok=True)
    callback = Checkpoint(run / "checkpoints", every_minutes=1e-9 if stop else 0)
    callback.restore(model)
    epoch, step = divmod(model.steps_done, steps)
    callbacks = [EpochLog(run / "log.csv", callback.log), callback]
    with contextlib.nullcontext() if stop is None else pytest.raises(Crash):
        model.fit(
            batches(first_step=model.steps_done),
            steps_per_epoch=steps,
            initial_epoch=epoch,
            initial_step=step,
            epochs=epochs,
            verbose=0,
            callbacks=[*callbacks, CrashAt(stop)] if stop else callbacks,
        )
    return callback, model.history


@pytest.mark.parametrize("steps_at_once", [1, 3])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_crashes_in_mid_epoch_twice_ends_as_one_that_did_not(method, replicas, steps_at_once, tmp_path):
    model = make_model(method, replicas, steps_per_execution=steps_at_once)
    save(model, tmp_path / "crashing" / "checkpoints")
    whole, history = train(model, tmp_path / "whole")
    wanted = state(model)

    # A new process would know none of the variables; tracing the step anew would only take longer.
    scramble(model)
    first, second = (9, 12) if steps_at_once == 1 else (10, 13)
    for stop in (first, second):
        train(model, tmp_path / "crashing", stop)
        assert stop == model.steps_done
        assert stop in saved_steps(tmp_path / "crashing" / "checkpoints")
        scramble(model)
    crashed, rest = train(model, tmp_path / "crashing")

    assert differing(wanted, state(model)) == set()
    assert crashed.log == whole.log and list(whole.log) == [0, 1, 2]
    assert (tmp_path / "crashing" / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()
    assert rest.epoch == [1, 2] and rest.history == {name: row[1:] for name, row in history.history.items()}
    assert len({row["loss"] for row in whole.log.values()}) == 3


def test_a_run_goes_on_at_a_step_that_no_execution_ends_at(tmp_path):
    """As after a change of `steps_per_execution`: 2 of 7 steps are done, 3 are taken at once."""
    model = make_model(steps_per_execution=3)
    save(model, tmp_path / "start")
    whole, _ = train(model, tmp_path / "whole")
    wanted = state(model)

    Checkpoint(tmp_path / "start").restore(model)
    model.fit(batches(), steps_per_epoch=STEPS, epochs=1, verbose=0)
    model.fit(batches(STEPS), steps_per_epoch=2, initial_epoch=1, epochs=2, verbose=0)
    save(model, tmp_path / "checkpoints", epoch=1, step_in_epoch=2, log={0: whole.log[0]})
    scramble(model)
    train(model, tmp_path, stop=12)  # behind an execution of 3 steps
    scramble(model)
    assert train(model, tmp_path)[0].log == whole.log  # begins with one of 2
    assert differing(wanted, state(model)) == set()


def test_four_epochs_are_two_and_another_model_s_two_to_the_bit(tmp_path):
    model = make_model()
    save(model, tmp_path / "part" / "checkpoints")
    whole, _ = train(model, tmp_path / "whole", steps=3, epochs=4)
    wanted = state(model)
    train(model, tmp_path / "part", steps=3, epochs=2)  # from the start again
    resumed = make_model(seed=1)  # a new process would not know the old one's random state either
    rest, _ = train(resumed, tmp_path / "part", steps=3, epochs=4)
    assert differing(wanted, state(resumed)) == set()
    assert rest.log == whole.log and resumed.steps_done == int(resumed.optimizer.iterations) == 12
    assert (tmp_path / "part" / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()


def test_what_the_restored_state_says_is_where_training_stood(tmp_path):
    model = make_model()
    with pytest.raises(Crash):
        callbacks = [Checkpoint(tmp_path, every_minutes=1e-9, extra=lambda: {"seen": model.steps_done}), CrashAt(9)]
        model.fit(batches(), steps_per_epoch=STEPS, epochs=2, verbose=0, callbacks=callbacks)
    callback = Checkpoint(tmp_path)
    found = callback.restore(model)
    assert (found.step, found.epoch, found.step_in_epoch, found.extra) == (9, 1, 2, {"seen": 9})
    assert list(callback.log) == [0] and callback.saved == found.path == tmp_path / "step-000000009"
    assert callback.log[0].keys() >= {"loss", "queue_fill", "feature_std"}


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
    callback = Checkpoint(tmp_path / "nowhere")
    assert callback.restore(make_model()) is None
    assert callback.log == {} and callback.saved is None and not (tmp_path / "nowhere").exists()


def test_a_damaged_checkpoint_is_set_aside(tmp_path, model):
    for step in (3, 4):
        scramble(model, step)
        save(model, tmp_path)
    os.truncate(tmp_path / "step-000000004" / "model.weights.h5", 100)
    with pytest.warns(UserWarning, match="step-000000004 is damaged .*, now .*/damaged-step-000000004; the one before"):
        assert Checkpoint(tmp_path).restore(model).step == 3
    assert sorted(os.listdir(tmp_path)) == ["damaged-step-000000004", "step-000000003"]


# Which are kept.


def drive(callback, model, rows, steps=10, first=0, total=None):
    """What `fit` calls in epochs that log these rows."""
    callback.set_model(model)
    callback.set_params({"epochs": total or first + len(rows), "steps": steps})
    callback.on_train_begin()
    for epoch, row in enumerate(rows, first):
        callback.on_epoch_begin(epoch)
        for batch in range(steps):
            model.step.assign(epoch * steps + batch + 1)
            callback.on_train_batch_end(batch)
        callback.on_epoch_end(epoch, row)


def kept_epochs(directory, steps=10):
    return [step / steps for step in saved_steps(directory)]


def knn(*values):
    """Rows of epochs, of which those with `None` were not evaluated."""
    return [{"loss": 1.0} if value is None else {"loss": 1.0, "knn_top1": value} for value in values]


@pytest.mark.parametrize("keep, kept", [(1, [5]), (2, [4, 5]), (4, [2, 3, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_the_newest_are_kept(tmp_path, model, keep, kept):
    drive(Checkpoint(tmp_path, max_share=1, keep=keep), model, knn(*5 * [None]))
    assert kept_epochs(tmp_path) == kept


def test_those_after_every_so_many_epochs_are_kept_for_good(tmp_path, model):
    drive(Checkpoint(tmp_path, max_share=1, keep=1, keep_every_epochs=3), model, knn(*8 * [None]))
    assert kept_epochs(tmp_path) == [3, 6, 8]


@pytest.mark.parametrize(
    "values, kept",
    [
        ([10, 50, 20, 60, 30, 30, 20], [4, 7]),
        ([70, 50, 20, 60, 30, 30, 20], [1, 7]),
        ([10, 20, 30, 40, 50, 60, 70], [7]),
        ([10, 60, 60, 20, 60, 30, 20], [2, 7]),  # of equal ones the first
        ([None, 60, None, 70, None, 50, None], [4, 7]),
        (7 * [None], [7]),
    ],
)
def test_the_best_is_kept(tmp_path, model, values, kept):
    drive(Checkpoint(tmp_path, max_share=1, keep=1), model, knn(*values))
    assert kept_epochs(tmp_path) == kept


def test_the_best_stays_when_the_run_goes_on(tmp_path, model):
    drive(Checkpoint(tmp_path, max_share=1, keep=1), model, knn(10, 50, 20))
    resumed = Checkpoint(tmp_path, max_share=1, keep=1)
    resumed.restore(model)
    drive(resumed, model, knn(30, 40), first=3)
    assert kept_epochs(tmp_path) == [2, 5]
    drive(resumed, model, knn(60, 40), first=5)
    assert kept_epochs(tmp_path) == [6, 7]


def test_the_best_by_another_figure_is_kept(tmp_path, model):
    rows = [{"speed": value, "knn_top1": 10 - value} for value in (1, 3, 2, 1)]
    drive(Checkpoint(tmp_path, max_share=1, keep=1, keep_best="speed"), model, rows)
    assert kept_epochs(tmp_path) == [2, 4]


def test_the_newest_the_regular_and_the_best_are_kept_together(tmp_path, model):
    callback = Checkpoint(tmp_path, max_share=1, keep=2, keep_every_epochs=4)
    drive(callback, model, knn(10, 90, 20, 30, 40, 50, 60, 70, 80, 70))
    assert kept_epochs(tmp_path) == [2, 4, 8, 9, 10]


def test_one_of_mid_epoch_is_neither_a_regular_nor_the_best_one(tmp_path, model):
    """It may carry the number of an epoch whose figures it has not got."""
    callback = Checkpoint(tmp_path, max_share=1, keep=1, every_minutes=1e-9, keep_every_epochs=2)
    drive(callback, model, knn(10, 90, 20), steps=3)
    assert kept_epochs(tmp_path, steps=3) == [2, 3]


def test_the_best_is_one_of_those_that_are_saved(tmp_path, model):
    drive(Checkpoint(tmp_path, every_epochs=2, max_share=1, keep=1), model, knn(90, 10, 20, 30, 10, 20))
    assert kept_epochs(tmp_path) == [4, 6]


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 5), os.remove, lambda path: path.write_text("[]")])
def test_damaged_ones_do_not_stand_in_the_way(tmp_path, model, damage):
    callback = Checkpoint(tmp_path, max_share=1, keep=2, keep_every_epochs=1)
    drive(callback, model, knn(10, 90, 20))
    for step in (10, 30):
        damage(tmp_path / f"step-{step:09d}" / "state.json")
    drive(callback, model, knn(30), first=3)
    assert kept_epochs(tmp_path) == [2, 3, 4]  # two are the newest, whole or not


# When.


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def timeline(tmp_path, monkeypatch):
    """A function that drives a callback through steps of so many seconds: the `(epoch, step)` of what it saves."""

    class Counted:
        steps_done = 0

    def run(epochs, steps, seconds, save_seconds=0.0, at_once=1, first=0, fail=(), **settings):
        clock, saved, model = Clock(), [], Counted()

        def timed_save(model, directory, epoch, step_in_epoch, *_):
            clock.now += save_seconds
            if len(saved) in fail:
                saved.append("failed")
                raise OSError(28, "No space left on device")
            saved.append((epoch, step_in_epoch))
            return tmp_path

        monkeypatch.setattr(checkpoint, "save", timed_save)
        callback = Checkpoint(tmp_path, stream=io.StringIO(), **settings)
        callback._clock = clock
        callback.set_model(model)
        callback.set_params({"epochs": epochs, "steps": steps})
        callback.on_train_begin()
        for epoch in range(first, epochs):
            callback.on_epoch_begin(epoch)
            for begin in range(0, steps, at_once):
                taken = min(at_once, steps - begin)
                clock.now += taken * seconds
                model.steps_done += taken
                callback.on_train_batch_end(begin + at_once - 1)  # as Keras, beyond the end of an epoch
            callback.on_epoch_end(epoch, {"loss": 1.0})
        return saved

    return run


def test_every_ten_minutes_within_an_epoch_and_at_its_end(timeline):
    assert timeline(1, steps=32, seconds=60) == [(0, 10), (0, 20), (0, 30), (1, 0)]


def test_the_minutes_count_from_the_end_of_the_last_one_across_epochs(timeline):
    saved = timeline(2, steps=8, seconds=120, save_seconds=45, max_share=0.5)
    assert saved == [(0, 5), (1, 0), (1, 5), (2, 0)]
    saved = timeline(3, steps=8, seconds=60, every_epochs=0)
    assert saved == [(1, 2), (2, 4), (3, 0)]


def test_minutes_may_be_fractions_or_never(timeline):
    assert timeline(1, steps=5, seconds=3, every_minutes=0.1) == [(0, 2), (0, 4), (1, 0)]
    assert timeline(1, steps=5, seconds=10**6, every_minutes=0) == [(1, 0)]


def test_an_epoch_s_last_step_is_saved_once_with_what_the_epoch_logs(timeline):
    assert timeline(2, steps=2, seconds=300, every_epochs=0) == [(1, 0), (2, 0)]
    assert timeline(2, steps=7, seconds=300, at_once=3) == [(0, 3), (0, 6), (1, 0), (1, 3), (1, 6), (2, 0)]


def test_several_steps_at_once_are_counted_one_by_one(timeline):
    assert timeline(1, steps=10, seconds=90, at_once=4) == [(0, 8), (1, 0)]


def test_after_every_so_many_epochs_and_the_last_one(timeline):
    assert timeline(7, steps=1, seconds=1, every_epochs=3) == [(3, 0), (6, 0), (7, 0)]
    assert timeline(7, steps=1, seconds=1, every_epochs=3, first=5) == [(6, 0), (7, 0)]
    assert timeline(7, steps=1, seconds=1, every_epochs=0) == [(7, 0)]


def test_short_epochs_go_without_where_checkpoints_are_dear(timeline):
    # 10 s of 100 s: so 90 s have to pass behind one, which three epochs do.
    saved = timeline(10, steps=3, seconds=10, save_seconds=10, max_share=0.1)
    assert saved == [(1, 0), (4, 0), (7, 0), (10, 0)]
    saved = timeline(9, steps=3, seconds=10, save_seconds=10, max_share=0.1)
    assert saved == [(1, 0), (4, 0), (7, 0), (9, 0)]  # the last one in any case
    assert timeline(4, steps=3, seconds=10, save_seconds=10, max_share=1) == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_regular_ones_are_saved_however_dear(timeline):
    saved = timeline(9, steps=3, seconds=1, save_seconds=1000, keep_every_epochs=4)
    assert saved == [(1, 0), (4, 0), (8, 0), (9, 0)]


def test_one_that_is_long_overdue_is_saved_however_dear(timeline):
    # 1 % of the time would be one in 100 minutes.
    saved = timeline(30, steps=1, seconds=60, save_seconds=60)
    assert saved == [(1, 0), (11, 0), (21, 0), (30, 0)]


def test_after_a_failure_the_next_try_comes_when_the_next_one_is_due(timeline):
    assert timeline(1, steps=32, seconds=60, fail=[1]) == [(0, 10), "failed", (0, 30), (1, 0)]
    assert timeline(3, steps=1, seconds=60, fail=[0]) == ["failed", (2, 0), (3, 0)]


def test_nothing_is_saved_twice(tmp_path, model):
    callback = Checkpoint(tmp_path, max_share=1)
    drive(callback, model, knn(None))
    before = (tmp_path / "step-000000010").stat().st_mtime_ns
    assert callback.save(1, 0) is True
    resumed = Checkpoint(tmp_path)
    resumed.restore(model)
    resumed.set_model(model)
    assert resumed.save(1, 0) is True
    assert (tmp_path / "step-000000010").stat().st_mtime_ns == before


def test_in_data_of_unknown_length_epochs_are_saved_only(tmp_path):
    model = make_model()
    data = (
        batches(steps=3)
        .filter(lambda _: True)
        .map(lambda views: {name: keras.ops.reshape(view, (8, *view.shape[1:])) for name, view in views.items()})
    )
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(data, epochs=1, verbose=0, callbacks=[Checkpoint(tmp_path, every_minutes=1e-9, keep=9)])
    assert list(saved_steps(tmp_path)) == [3]


# What if it fails.


def test_one_that_cannot_be_written_is_told_and_training_goes_on(tmp_path, monkeypatch, capsys):
    model, attempts = make_model(), itertools.count(1)

    def full(*arguments):
        if next(attempts) in (2, 3):
            raise OSError(28, "No space left on device")
        return save(*arguments)

    monkeypatch.setattr(checkpoint, "save", full)
    callback = Checkpoint(tmp_path / "checkpoints", max_share=1, keep=1)
    model.fit(batches(), steps_per_epoch=2, epochs=3, verbose=0, callbacks=[callback])
    last = f"{tmp_path}/checkpoints/step-000000002 stays the last one, and training goes on."
    assert capsys.readouterr().out.splitlines() == [
        f"warning: the checkpoint of step 4 was not written ([Errno 28] No space left on device); {last}",
        f"warning: the checkpoint of step 6 was not written ([Errno 28] No space left on device); {last}",
    ]
    assert model.steps_done == 6 and list(saved_steps(tmp_path / "checkpoints")) == [2]
    assert callback.save(3, 0) is True  # a last attempt, as `Stopping` makes it
    assert list(saved_steps(tmp_path / "checkpoints")) == [6] and list(callback.log) == [0, 1, 2]


def test_where_none_was_ever_written_that_is_said(tmp_path, model):
    (tmp_path / "checkpoints").write_text("a file")
    callback = Checkpoint(tmp_path / "checkpoints", stream=io.StringIO())
    callback.set_model(model)
    assert callback.save(1, 0) is False and callback.saved is None
    assert callback.stream.getvalue() == (
        f"warning: the checkpoint of step 0 was not written ([Errno 17] File exists: '{tmp_path}/checkpoints'); "
        "there is none yet, and training goes on.\n"
    )


def test_what_else_is_to_be_remembered_may_fail_to_be_read(tmp_path, model):
    def extra():
        raise OSError("stale file handle")

    callback = Checkpoint(tmp_path, extra=extra, stream=io.StringIO())
    callback.set_model(model)
    assert callback.save(1, 0) is False
    assert "step 0 was not written (stale file handle); there is none yet" in callback.stream.getvalue()


def test_a_state_that_is_not_finite_ends_training(tmp_path, model):
    callback = Checkpoint(tmp_path, max_share=1)
    drive(callback, model, knn(None))
    model.queue.features.assign(np.full(model.queue.features.shape, np.nan))
    with pytest.raises(
        NotFiniteError, match="^All variables must be finite to be saved. Received: queue/features with"
    ):
        drive(callback, model, knn(None), first=1)
    assert kept_epochs(tmp_path) == [1]


def test_at_least_one_is_kept():
    with pytest.raises(ValueError) as error:
        Checkpoint("checkpoints", keep=0)
    assert str(error.value) == "`keep` must be at least 1. Received: keep=0. Keep the newest checkpoint."
