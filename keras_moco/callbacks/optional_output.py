"""Output that a training can do without: where it cannot be written, training goes on."""

import contextlib
import sys

import keras
import tensorflow as tf

CANNOT_WRITE = (OSError, tf.errors.OpError)  # of the file system, and of TensorFlow's writer of events


class Expendable(keras.callbacks.Callback):
    """Hands everything on to another callback, and goes on where that one cannot write.

    A full or read-only disk is told once, and again after it was well in between.

    Args:
        callback: the `keras.callbacks.Callback`, which writes something.
        what: str, its name in the message.
        stream: text file to print to. Defaults to the standard output at the time of printing.

    Example:

    ```python
    model.fit(batches, epochs=200, callbacks=[Expendable(EpochLog("log.csv"), "the log")])
    ```
    """

    def __init__(self, callback, what, stream=None):
        super().__init__()
        self.callback = callback
        self.what = what
        self.stream = stream
        self._failing = False

    def set_model(self, model):
        super().set_model(model)
        self._attempt(self.callback.set_model, model)

    def set_params(self, params):
        super().set_params(params)
        self.callback.set_params(params)

    def on_train_begin(self, logs=None):
        self._attempt(self.callback.on_train_begin, logs)

    def on_epoch_begin(self, epoch, logs=None):
        self._attempt(self.callback.on_epoch_begin, epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        self._attempt(self.callback.on_train_batch_begin, batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._attempt(self.callback.on_train_batch_end, batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if self._attempt(self.callback.on_epoch_end, epoch, logs):
            self._failing = False

    def on_train_end(self, logs=None):
        self._attempt(self.callback.on_train_end, logs)

    def _attempt(self, hook, *args):
        try:
            hook(*args)
        except CANNOT_WRITE as error:
            if not self._failing:
                _tell(self.what, error, self.stream)
            self._failing = True
            return False
        return True


@contextlib.contextmanager
def expendable(what, stream=None):
    """Skips the rest of a block that cannot write. Any other error is a bug, and is raised.

    Args:
        what: str, its name in the message.
        stream: as of `Expendable`.

    Example:

    >>> with expendable("curves.png"):
    ...     raise OSError("No space left on device")
    warning: curves.png was not written (No space left on device); training goes on.
    """
    try:
        yield
    except CANNOT_WRITE as error:
        _tell(what, error, stream)


def _tell(what, error, stream):
    reason = getattr(error, "message", None) or error
    print(f"warning: {what} was not written ({reason}); training goes on.", file=stream or sys.stdout, flush=True)
