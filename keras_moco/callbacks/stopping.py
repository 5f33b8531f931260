"""Ending a training from outside so that nothing of it is lost."""

import signal
import threading
import time

import keras

from keras_moco.ranges import check_number


class Stopped(Exception):
    """Training was asked to stop, and has; the message says where it stands and whether that is saved."""


class Stopping(keras.callbacks.Callback):
    """Ends `fit` behind the step in which a signal comes or the time is over, with everything saved.

    As a context manager it watches for SIGTERM and SIGINT (Ctrl-C): behind the step that is under way a checkpoint is
    saved and `fit` raises `Stopped`. A second signal of the same kind ends the process at once. Of several workers
    each has one, and all of them stop behind the same step, whichever was asked.

    Place this callback last.

    Args:
        checkpoint: the `Checkpoint` among the callbacks. Defaults to `None`: another worker saves.
        max_minutes: float, how long training may go on, counted from the making of this object, for batch queues that
            end a job after a fixed time; 0: without limit. Defaults to `0`.

    Raises:
        ValueError: if `max_minutes` is negative or not finite.
        Stopped: in `fit`, after everything is saved.

    Example:

    ```python
    with Stopping(checkpoint, max_minutes=55) as stopping:
        model.fit(batches, epochs=200, callbacks=[checkpoint, stopping])
    ```
    """

    def __init__(self, checkpoint=None, max_minutes=0):
        super().__init__()
        check_number("max_minutes", max_minutes, "at least 0", "Use 0 for no limit.")
        self.checkpoint = checkpoint
        self.max_minutes = max_minutes
        self._clock = time.monotonic
        self._start = self._clock()
        self._reason = None
        self._before = {}

    def __enter__(self):
        # Python hands signals to the main thread alone.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            # None: it was not Python that had set it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _request(self, number, _):
        # By the system from now on, which need not wait for Python to come out of a step.
        signal.signal(number, signal.SIG_DFL)
        self._stop_for(signal.Signals(number).name)

    def _stop_for(self, reason):
        self._reason = self._reason or reason
        if self.model is not None:
            self.model.stop_requested = True

    def on_train_begin(self, logs=None):
        if self._reason:
            self.model.stop_requested = True

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self._reason is None and self.max_minutes and self._clock() - self._start >= 60 * self.max_minutes:
            self._stop_for(f"the limit of {self.max_minutes:g} minutes")
        # The last step of an epoch is followed by what the epoch logs.
        if self.model.stop_agreed and batch + 1 < (self.params.get("steps") or 0):
            self._stop(self._epoch, batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        if self.model.stop_agreed and epoch + 1 < self.params["epochs"]:  # else there is nothing left to stop
            self._stop(epoch + 1, 0)

    def _stop(self, epoch, step):
        where = f"behind step {self.model.steps_done} (epoch {epoch + 1}, {step} of {self.params['steps']} steps)"
        saved = ""
        if self.checkpoint:
            written = self.checkpoint.save(epoch, step)
            saved = f", which is saved in {self.checkpoint.saved}" if written else ", which could not be saved"
        raise Stopped(f"stopped by {self._reason or 'another worker'} {where}{saved}.")
