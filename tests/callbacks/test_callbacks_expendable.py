import errno
import functools
import io
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.callbacks import EpochLog, Expendable
from keras_moco.callbacks.expendable import expendable

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
TOLD = "warning: the log was not written ([Errno 28] No space left on device); training goes on.\n"
HOOKS = (
    "set_model",
    "set_params",
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
)


class Recorder(keras.callbacks.Callback):
    """Keeps what it is called with."""

    def __init__(self):
        super().__init__()
        self.calls = []
        for hook in HOOKS:
            setattr(self, hook, functools.partial(self._record, hook))

    def _record(self, hook, *args, **named):
        self.calls.append((hook, *args, *named.values()))


class Failing(keras.callbacks.Callback):
    """Raises what stands for each epoch, `None`: nothing; and in every hook named in `always`."""

    def __init__(self, *errors, always=()):
        super().__init__()
        self.errors = errors
        for hook in always:
            setattr(self, hook, self._fail)

    def on_epoch_end(self, epoch, logs=None):
        self._fail(self.errors[epoch])

    def _fail(self, error=FULL, *_, **__):
        if error is not None:
            raise error if isinstance(error, BaseException) else FULL


def told(callback):
    """What an `Expendable` prints at the ends of as many epochs as `callback` has errors."""
    expendable = Expendable(callback, "the log", stream=(stream := io.StringIO()))
    for epoch in range(len(callback.errors)):
        expendable.on_epoch_end(epoch, {})
    return stream.getvalue()


def fit(*callbacks):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    data = tf.data.Dataset.from_tensor_slices((np.ones((16, 3)), np.ones((16, 1)))).batch(4)
    return model.fit(data, epochs=2, verbose=0, callbacks=list(callbacks)).history


def test_every_hook_of_a_fit_is_handed_on_with_its_arguments():
    bare, wrapped = Recorder(), Recorder()
    fit(bare, Expendable(wrapped, "the log"))
    assert {hook for hook, *_ in wrapped.calls} == set(HOOKS)
    assert wrapped.calls == bare.calls


def test_a_full_disk_is_told_once():
    assert told(Failing(FULL, FULL, FULL)) == TOLD


def test_it_is_told_again_after_an_epoch_that_was_written():
    assert told(Failing(FULL, FULL, None, None, FULL, FULL)) == 2 * TOLD


def test_a_disk_without_fault_is_not_mentioned():
    assert told(Failing(None, None)) == ""


def test_an_error_of_tensorflow_s_file_system_is_told_by_its_message():
    error = tf.errors.ResourceExhaustedError(None, None, "log.csv; No space left on device")
    assert told(Failing(error)) == (
        "warning: the log was not written (log.csv; No space left on device); training goes on.\n"
    )


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), ZeroDivisionError("by zero")])
def test_any_other_exception_passes(error):
    with pytest.raises(type(error)) as caught:
        told(Failing(error))
    assert caught.value is error


@pytest.mark.parametrize("hook", HOOKS[2:])
def test_each_hook_may_fail_and_training_goes_on(hook, capsys):
    failing = Failing(None, None, always=[hook])
    assert len(fit(Expendable(failing, "the log"))["loss"]) == 2
    assert TOLD in capsys.readouterr().out


def test_a_log_that_cannot_be_written_does_not_end_the_training(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    history = fit(Expendable(EpochLog(tmp_path / "file" / "log.csv"), "log.csv"))
    assert len(history["loss"]) == 2
    assert capsys.readouterr().out == (
        f"warning: log.csv was not written ([Errno 17] File exists: '{tmp_path / 'file'}'); training goes on.\n"
    )


def test_a_log_that_can_be_written_is_the_same_as_without(tmp_path):
    fit(EpochLog(tmp_path / "bare.csv"), Expendable(EpochLog(tmp_path / "wrapped.csv"), "the log"))
    assert (tmp_path / "wrapped.csv").read_text() == (tmp_path / "bare.csv").read_text()


def test_a_block_that_cannot_write_is_left_and_told_of():
    stream = io.StringIO()
    with expendable("the log", stream):
        raise FULL
    assert stream.getvalue() == TOLD
    with expendable("the log", stream):
        pass
    assert stream.getvalue() == TOLD


def test_a_block_that_is_wrong_otherwise_is_not_forgiven():
    with pytest.raises(ZeroDivisionError), expendable("the log"):
        raise ZeroDivisionError
