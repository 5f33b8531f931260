import csv
import os
import signal
import threading

import keras
import pytest

from keras_moco.callbacks import Checkpoint, EpochLog, Stopped, Stopping
from tests.small_training import batches, differing, make_model, state

STEPS = 5


class During(keras.callbacks.Callback):
    """Does something as soon as so many steps are done, while the next one is to come."""

    def __init__(self, step, action):
        super().__init__()
        self.step, self.action = step, action

    def on_train_batch_begin(self, batch, logs=None):
        if self.model.steps_done == self.step:
            self.action()


def kill(number):
    return lambda: os.kill(os.getpid(), number)


def fit(model, *callbacks, epochs=2, steps=STEPS):
    model.fit(batches(), steps_per_epoch=steps, epochs=epochs, verbose=0, callbacks=list(callbacks))


def stopped(model, *callbacks, **settings):
    """The message with which a training ends."""
    with pytest.raises(Stopped) as caught:
        fit(model, *callbacks, **settings)
    return str(caught.value)


@pytest.fixture
def handlers():
    """Handlers that are not Python's own, so that putting back the wrong ones shows."""

    def unwanted(*_):
        raise AssertionError("a signal came through")

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, unwanted) for number in numbers]
    yield unwanted
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def current_handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_training_behind_its_step_with_that_step_saved(number, tmp_path, handlers):
    model, checkpoint = make_model(), Checkpoint(tmp_path, every_minutes=0)
    seen = []
    with Stopping(checkpoint) as stopping:
        message = stopped(
            model, During(2, kill(number)), During(2, lambda: seen.extend(current_handlers())), checkpoint, stopping
        )
    assert message == (
        f"stopped by {number.name} behind step 3 (epoch 1, 3 of 5 steps), which is saved in "
        f"{tmp_path / 'step-000000003'}."
    )
    # A second signal of this kind is the system's, which ends the process at once; the other kind still asks.
    assert seen[number == signal.SIGINT] == signal.SIG_DFL
    assert seen[number == signal.SIGTERM] == stopping._request
    assert current_handlers() == [handlers, handlers]

    restored = Checkpoint(tmp_path).restore(other := make_model(seed=1))
    assert (restored.step, restored.epoch, restored.step_in_epoch) == (3, 0, 3)
    assert not differing(state(model), state(other))


def test_a_signal_in_the_last_step_of_an_epoch_ends_it_with_its_log(tmp_path):
    model, checkpoint = make_model(), Checkpoint(tmp_path / "checkpoints", every_epochs=0, every_minutes=0)
    with Stopping(checkpoint) as stopping:
        message = stopped(
            model, During(STEPS - 1, kill(signal.SIGTERM)), checkpoint, EpochLog(tmp_path / "log.csv"), stopping
        )
    assert message == (
        f"stopped by SIGTERM behind step 5 (epoch 2, 0 of 5 steps), which is saved in "
        f"{tmp_path / 'checkpoints' / 'step-000000005'}."
    )
    with open(tmp_path / "log.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0"]
    restored = Checkpoint(tmp_path / "checkpoints").restore(make_model(seed=1))
    assert (restored.step, restored.epoch, restored.step_in_epoch, list(restored.log)) == (5, 1, 0, [0])


def test_of_two_signals_the_first_is_named():
    with Stopping() as stopping:
        message = stopped(
            make_model(), During(2, kill(signal.SIGINT)), During(2, kill(signal.SIGTERM)), stopping, steps=50
        )
    assert message.startswith("stopped by SIGINT behind step ")


def test_the_time_limit_ends_the_training_behind_the_step_in_which_it_is_reached():
    model, stopping = make_model(), Stopping(max_minutes=2.5)
    stopping._clock = lambda: stopping._start + 60 * model.steps_done - 30  # a minute for each step
    assert stopped(model, stopping) == "stopped by the limit of 2.5 minutes behind step 3 (epoch 1, 3 of 5 steps)."


def test_without_a_checkpoint_nothing_is_said_of_saving():
    with Stopping() as stopping:
        message = stopped(make_model(), During(2, kill(signal.SIGTERM)), stopping)
    assert message == "stopped by SIGTERM behind step 3 (epoch 1, 3 of 5 steps)."


def test_what_another_worker_was_asked_is_named_as_such():
    """Alone, a request of the model is agreed on behind the step that is under way."""
    model = make_model()
    with Stopping() as stopping:
        message = stopped(model, During(2, lambda: setattr(model, "stop_requested", True)), stopping)
    assert message == "stopped by another worker behind step 3 (epoch 1, 3 of 5 steps)."


def test_a_checkpoint_that_cannot_be_written_is_owned_up_to(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    checkpoint = Checkpoint(tmp_path / "file" / "checkpoints", every_minutes=0)
    with Stopping(checkpoint) as stopping:
        message = stopped(make_model(), During(2, kill(signal.SIGTERM)), checkpoint, stopping)
    assert message == "stopped by SIGTERM behind step 3 (epoch 1, 3 of 5 steps), which could not be saved."
    assert capsys.readouterr().out.startswith("warning: the checkpoint of step 3 was not written ([Errno ")


def test_several_steps_at_once_are_ended_behind_the_last_of_them(tmp_path):
    checkpoint = Checkpoint(tmp_path, every_minutes=0)
    with Stopping(checkpoint) as stopping:
        message = stopped(
            make_model(steps_per_execution=3), During(3, kill(signal.SIGTERM)), checkpoint, stopping, steps=8
        )
    assert message == (
        f"stopped by SIGTERM behind step 6 (epoch 1, 6 of 8 steps), which is saved in {tmp_path / 'step-000000006'}."
    )


def test_without_a_signal_training_runs_to_its_end(handlers):
    model = make_model()
    with Stopping(max_minutes=60) as stopping:
        fit(model, stopping)
    assert model.steps_done == 2 * STEPS
    assert current_handlers() == [handlers, handlers]


def test_the_handlers_are_put_back_after_an_error_too(handlers):
    with pytest.raises(ZeroDivisionError), Stopping() as stopping:
        assert current_handlers() == [stopping._request] * 2
        _ = 1 / 0
    assert current_handlers() == [handlers, handlers]


def test_outside_of_the_main_thread_no_handlers_are_touched(handlers):
    seen = []

    def watch():
        with Stopping():
            seen.extend(current_handlers())

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == [handlers, handlers] == current_handlers()
