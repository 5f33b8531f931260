"""Stops training at a signal or a time limit, without losing anything."""

import signal
import time

import keras

from keras_moco.callbacks.checkpoint import Checkpoint
from keras_moco.checks.ranges import check_number
from keras_moco.command_line import signals
from keras_moco.command_line.standard_streams import lost_output
from keras_moco.errors import Stopped


class Stopping(keras.callbacks.Callback):
    """Stops `fit` after the step during which a signal arrives or the time limit expires, with everything saved.

    As a context manager it handles SIGTERM, SIGHUP (a lost connection), SIGUSR1 (the warning of a batch queue) and
    SIGINT (Ctrl-C), except for those that are ignored, as by `nohup`: after the current step a checkpoint is saved and
    `fit` raises `Stopped`. A second signal of the same kind ends the process at once. A signal during the very last
    step stops nothing, and is passed to the handler that was set before. Training also stops where the standard output
    of a command is lost, such as a pipe whose reader has ended. With several workers each has such a callback, and all
    of them stop after the same step, whichever got the signal.

    Place this callback last.

    Args:
        checkpoint: the `Checkpoint` among the callbacks. Defaults to `None`: another worker saves.
        max_minutes: float, the longest time that training may take, for batch queues that end a job after a fixed
            time; 0: without limit. Defaults to `0`.
        started: float, the `time.monotonic()` from which they count. Defaults to `None`: the making of this object.

    Raises:
        ValueError: if `max_minutes` is negative or not finite.
        Stopped: in `fit`, after everything is saved.

    Example:

    ```python
    with Stopping(checkpoint, max_minutes=55) as stopping:
        model.fit(batches, epochs=200, callbacks=[checkpoint, stopping])
    ```
    """

    def __init__(
        self, checkpoint: Checkpoint | None = None, max_minutes: float = 0, started: float | None = None
    ) -> None:
        super().__init__()
        check_number("max_minutes", max_minutes, "at least 0", "Use 0 for no limit.")
        self.checkpoint = checkpoint
        self.max_minutes = max_minutes
        self._clock = time.monotonic
        self._start = self._clock() if started is None else started
        self._reason = None
        self._signal: int | None = None
        self._before = {}

    def __enter__(self):
        self._before = signals.handle((signal.SIGINT, *signals.ENDING), self._request)
        return self

    def __exit__(self, error, *_):
        late, self._signal = self._signal, None
        handler = self._before.get(late)
        signals.restore(self._before)
        self._before = {}
        if error is None and late is not None and callable(handler):
            signal.raise_signal(late)

    def _request(self, number, _):
        self._signal = self._signal or number
        # From now on the system handles it, which need not wait for Python to finish a step.
        signal.signal(number, signal.SIG_DFL)
        self._stop_for(signal.Signals(number).name)

    def _stop_for(self, reason):
        self._reason = self._reason or reason
        if self.model is not None:
            self.model.stop_requested = True

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        if self._reason:
            self.model.stop_requested = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._reason is None and self.max_minutes and self._clock() - self._start >= 60 * self.max_minutes:
            self._stop_for(f"the limit of {self.max_minutes:g} minutes")
        self._check_output()
        # After the last step of an epoch, `on_epoch_end` stops, once the epoch is logged.
        if self.model.stop_agreed and batch + 1 < (self.params.get("steps") or 0):
            self._stop(self._epoch, batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._check_output()
        if self.model.stop_agreed and epoch + 1 < self.params["epochs"]:  # else there is nothing left to stop
            self._stop(epoch + 1, 0)

    def _check_output(self):
        if lost_output():
            self._stop_for(f"the loss of the standard output ({lost_output()})")

    def _stop(self, epoch, step):
        self._signal = None  # it is handled, and not passed on
        where = f"after step {self.model.steps_done} (epoch {epoch + 1}, {step} of {self.params['steps']} steps)"
        saved = ""
        if self.checkpoint:
            written = self.checkpoint.save(epoch, step)
            saved = f", which is saved in {self.checkpoint.saved}" if written else ", which could not be saved"
        raise Stopped(f"stopped by {self._reason or 'another worker'} {where}{saved}.")
