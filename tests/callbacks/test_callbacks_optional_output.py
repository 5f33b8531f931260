import errno
import functools
import io
import os
from unittest import mock

import keras
import pytest
import tensorflow as tf

from keras_moco.callbacks import OptionalOutput
from keras_moco.callbacks.optional_output import warn_if_not_written
from tests.small_training import batches

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
TIMES = [f"on_{what}_{when}" for what in ("train", "epoch", "train_batch") for when in ("begin", "end")]
HOOKS = ["set_model", "set_params", *TIMES]


class Recorder(keras.callbacks.Callback):
    """Keeps what it is called with, and raises an error in every hook named in `failing`."""

    def __init__(self, failing=()):
        super().__init__()
        self.calls = []
        for hook in HOOKS:
            setattr(self, hook, functools.partial(self._record, hook, hook in failing))

    def _record(self, hook, fails, *args, **named):
        self.calls.append((hook, *args, *named.values()))
        if fails:
            raise FULL


def fit(model, *callbacks):
    return model.fit(batches(), steps_per_epoch=2, epochs=2, verbose=0, callbacks=list(callbacks)).history


def reported(*errors):
    """Lines that are printed at the ends of epochs in which the callback raises these errors, `None`: nothing."""
    failing = mock.Mock(**{"on_epoch_end.side_effect": errors})
    callback = OptionalOutput(failing, "the log", stream=(stream := io.StringIO()))
    for epoch in range(len(errors)):
        callback.on_epoch_end(epoch, {})
    return stream.getvalue().splitlines()


def test_every_hook_is_passed_on_with_its_arguments(model):
    bare, wrapped = Recorder(), Recorder()
    fit(model, bare, OptionalOutput(wrapped, "the log"))
    assert {hook for hook, *_ in wrapped.calls} == set(HOOKS)
    assert wrapped.calls == bare.calls


def test_a_full_disk_is_reported_once_until_something_is_written_again():
    assert reported(None, None) == []
    [line] = reported(FULL, FULL, FULL)
    assert "the log was not written ([Errno 28] No space left on device)" in line
    assert reported(FULL, FULL, None, None, FULL, FULL) == [line, line]
    [line] = reported(OSError("gone:\n  nobody\tanswers"))
    assert "(gone: nobody answers)" in line
    [line] = reported(tf.errors.ResourceExhaustedError(None, None, "log.csv; No space left on device"))
    assert "(log.csv; No space left on device)" in line


def test_any_other_exception_passes():
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            reported(error())
        with pytest.raises(error), warn_if_not_written("the map"):
            raise error
    for error in (FULL, tf.errors.ResourceExhaustedError(None, None, "full")):
        with warn_if_not_written("the map", stream=(stream := io.StringIO())):
            raise error
        assert stream.getvalue().startswith("warning: the map was not written (")


def test_training_continues_whichever_hook_fails(model, capsys):
    failing = [OptionalOutput(Recorder([hook]), f"the log of {hook}") for hook in HOOKS[2:]]
    assert len(fit(model, *failing)["loss"]) == 2
    out = capsys.readouterr().out
    assert all(f"the log of {hook} was not written ([Errno 28]" in out for hook in HOOKS[2:]), out
