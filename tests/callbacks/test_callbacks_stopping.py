import errno
import io
import signal
import sys
import threading

import keras
import pytest

from keras_moco.callbacks import Checkpoint, EpochLog, Stopped, Stopping
from keras_moco.command_line.signals import ENDING
from keras_moco.command_line.standard_streams import Output
from tests.small_training import batches, make_model, scramble, state


class During(keras.callbacks.Callback):
    """Does something after a number of steps, before the next one."""

    def __init__(self, step, action):
        super().__init__()
        self.step, self.action = step, action

    def on_train_batch_begin(self, batch, logs=None):
        if self.model.steps_done == self.step:
            self.action()


def kill(step, number=signal.SIGTERM):
    return During(step, lambda: signal.raise_signal(number))


def stopped(model, *callbacks, steps=5):
    """The message with which training stops."""
    with pytest.raises(Stopped) as caught:
        model.fit(batches(), steps_per_epoch=steps, epochs=2, verbose=0, callbacks=list(callbacks))
    return str(caught.value)


@pytest.fixture
def handlers():
    """Handlers that are not Python's own, so that a wrong one put back is noticed."""

    def unwanted(*_):
        raise AssertionError("a signal came through")

    before = [signal.signal(number, unwanted) for number in NUMBERS]
    yield [unwanted] * len(NUMBERS)
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


NUMBERS = (signal.SIGINT, *ENDING)


def current_handlers():
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_stops_the_training_after_its_step_which_is_saved(number, model, tmp_path, handlers):
    checkpoint, seen = Checkpoint(tmp_path, every_minutes=0), []
    with Stopping(checkpoint) as stopping:
        look = During(2, lambda: seen.extend(current_handlers()))
        message = stopped(model, kill(2, number), look, checkpoint, stopping)
    assert message.startswith(f"stopped by {number.name} ") and f"{tmp_path / 'step-000000003'}." in message
    assert "step 3 (epoch 1, 3 of 5 steps)" in message
    # A second signal of this kind is the system's, which ends the process at once; the other kind still asks.
    assert seen == [signal.SIG_DFL if each == number else stopping._request for each in NUMBERS]
    assert current_handlers() == handlers

    wanted = state(model)
    scramble(model)
    restored = Checkpoint(tmp_path).restore(model)
    assert (restored.step, restored.epoch, restored.step_in_epoch) == (3, 0, 3) and state(model) == wanted


def test_a_signal_in_the_last_step_of_an_epoch_ends_it_with_its_log(model, tmp_path):
    checkpoint, log = Checkpoint(tmp_path, every_epochs=0, every_minutes=0), EpochLog(tmp_path / "log.csv")
    with Stopping(checkpoint) as stopping:
        message = stopped(model, kill(4), checkpoint, log, stopping)
    assert "step 5 (epoch 2, 0 of 5 steps)" in message and f"{tmp_path / 'step-000000005'}." in message
    assert list(log.log) == [0]
    restored = Checkpoint(tmp_path).restore(model)
    assert (restored.step, restored.epoch, restored.step_in_epoch, list(restored.log)) == (5, 1, 0, [0])


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_that_was_ignored_stays_ignored(number, model, handlers):
    signal.signal(number, signal.SIG_IGN)  # as `nohup` does it
    with Stopping() as stopping:
        model.fit(batches(), steps_per_epoch=5, verbose=0, callbacks=[kill(2, number), stopping])
        assert signal.getsignal(number) is signal.SIG_IGN
    assert model.steps_done == 5 and signal.getsignal(number) is signal.SIG_IGN


def test_a_signal_in_the_very_last_step_is_passed_on(model, handlers):
    came = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    with Stopping() as stopping:
        model.fit(batches(), steps_per_epoch=5, verbose=0, callbacks=[kill(4), stopping])
        assert came == []
    assert came == [signal.SIGTERM]


def test_the_loss_of_the_standard_output_stops_the_training(model, tmp_path, monkeypatch):
    class Pipe(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Output(Pipe()))
    checkpoint = Checkpoint(tmp_path, every_minutes=0)
    message = stopped(model, During(2, lambda: print("epoch 1")), checkpoint, Stopping(checkpoint))
    assert message.startswith("stopped by the loss of the standard output (Broken pipe) after step 3 ")
    assert f"{tmp_path / 'step-000000003'}." in message


def test_of_two_signals_the_first_is_named(model, handlers):
    with Stopping() as stopping:
        message = stopped(model, kill(2, signal.SIGINT), kill(2, signal.SIGTERM), stopping)
    assert message.startswith("stopped by SIGINT ") and "saved" not in message


def test_the_time_limit_stops_the_training_after_the_step_in_which_it_is_reached(model):
    stopping = Stopping(max_minutes=2.5, started=1000.0)
    stopping._clock = lambda: 1000.0 + 60 * model.steps_done - 29  # a minute for each step
    message = stopped(model, stopping)
    assert "2.5 minutes" in message and message.endswith("step 3 (epoch 1, 3 of 5 steps).")


def test_a_signal_to_another_worker_is_reported_as_such(model):
    with Stopping() as stopping:
        message = stopped(model, During(2, lambda: setattr(model, "stop_requested", True)), stopping)
    assert message.startswith("stopped by another worker ") and "step 3 " in message


def test_a_checkpoint_that_cannot_be_written_is_part_of_the_message(model, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    checkpoint = Checkpoint(tmp_path / "file" / "checkpoints", every_minutes=0)
    with Stopping(checkpoint) as stopping:
        message = stopped(model, kill(2), checkpoint, stopping)
    assert "step 3 " in message and message.endswith("could not be saved.")
    out = capsys.readouterr().out
    assert "checkpoint of step 3 was not written ([Errno " in out and "none is saved yet" in out


@pytest.mark.slow
def test_of_several_steps_at_once_the_last_one_is_saved(tmp_path):
    checkpoint = Checkpoint(tmp_path, every_minutes=0)
    with Stopping(checkpoint) as stopping:
        message = stopped(make_model(steps_per_execution=3), kill(3), checkpoint, stopping, steps=8)
    assert "step 6 (epoch 1, 6 of 8 steps)" in message and f"{tmp_path / 'step-000000006'}." in message


def test_the_handlers_are_put_back_after_an_error_too(handlers):
    with pytest.raises(ZeroDivisionError), Stopping() as stopping:
        assert current_handlers() == [stopping._request] * len(NUMBERS)
        _ = 1 / 0
    assert current_handlers() == handlers


def test_outside_of_the_main_thread_no_handlers_are_touched(handlers):
    seen = []

    def watch():
        with Stopping():
            seen.extend(current_handlers())

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == handlers == current_handlers()


def test_the_limit_is_a_number_of_minutes():
    for limit in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"`max_minutes` must be .* Received: max_minutes={limit}\."):
            Stopping(max_minutes=limit)
