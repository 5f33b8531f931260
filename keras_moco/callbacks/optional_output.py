"""Output that training does not depend on: where it cannot be written, a line says so and training continues."""

import contextlib
import sys
from typing import Any, TextIO

import keras
import tensorflow as tf

CANNOT_WRITE = (OSError, tf.errors.OpError)  # of the file system, and of TensorFlow's writer of events


class OptionalOutput(keras.callbacks.Callback):
    """Passes everything on to another callback, and continues where that one cannot write.

    A full or read-only disk is reported once, and again after a successful write.

    Args:
        callback: the `keras.callbacks.Callback`, which writes something.
        what: str, its name in the message.
        stream: text file to print to. Defaults to the standard output at the time of printing.
        errors: tuple of exception types after which training continues. Defaults to those of the file system and of
            TensorFlow's writer of events; any other error is a bug, and is raised.

    Example:

    ```python
    model.fit(batches, epochs=200, callbacks=[OptionalOutput(EpochLog("log.csv"), "the log")])
    ```
    """

    def __init__(
        self,
        callback: keras.callbacks.Callback,
        what: str,
        stream: TextIO | None = None,
        errors: tuple[type[Exception], ...] = CANNOT_WRITE,
    ) -> None:
        super().__init__()
        self.callback = callback
        self.what = what
        self.stream = stream
        self.errors = errors
        self._failing = False

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._attempt(self.callback.set_model, model)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        self.callback.set_params(params)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._attempt(self.callback.on_train_begin, logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._attempt(self.callback.on_epoch_begin, epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._attempt(self.callback.on_train_batch_begin, batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._attempt(self.callback.on_train_batch_end, batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self._attempt(self.callback.on_epoch_end, epoch, logs):
            self._failing = False

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._attempt(self.callback.on_train_end, logs)

    def _attempt(self, hook, *args):
        try:
            hook(*args)
        except self.errors as error:
            if not self._failing:
                _warn(self.what, error, self.stream)
            self._failing = True
            return False
        return True


@contextlib.contextmanager
def warn_if_not_written(what, stream=None, errors=CANNOT_WRITE):
    """Skips the rest of a block that cannot write. Any other error is a bug, and is raised.

    Args:
        what: str, its name in the message.
        stream, errors: as of `OptionalOutput`.

    Example:

    >>> with warn_if_not_written("curves.png"):
    ...     raise OSError("No space left on device")
    warning: curves.png was not written (No space left on device); continuing without it.
    """
    try:
        yield
    except errors as error:
        _warn(what, error, stream)


def _warn(what, error, stream):
    reason = " ".join(str(getattr(error, "message", None) or error).split())  # those of services have many lines
    print(f"warning: {what} was not written ({reason}); continuing without it.", file=stream or sys.stdout, flush=True)
