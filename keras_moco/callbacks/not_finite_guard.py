"""Stops training, or reports the skipped step, where loss or gradients are NaN or infinite."""

import math
import sys
from typing import TextIO

import keras

from keras_moco.callbacks.checkpoint import Checkpoint
from keras_moco.runs.checkpoints import NotFiniteError

FUTILE = 10  # skipped steps in a row after which training stops


class NotFiniteGuard(keras.callbacks.Callback):
    """Checks after every step whether loss and gradients were finite.

    If not, `fit` ends with a `NotFiniteError` that names step, learning rate (after the step) and the last good
    checkpoint. Where the model skips such steps (`model.skip_not_finite`), each is reported in a line,
    `model.not_finite` counts them, and training ends only after ten in a row.

    A metric in an epoch's logs that is NaN although loss and gradients were finite does not affect training, and is
    reported once. Place this callback after those that add to the logs and before `Checkpoint`.

    Args:
        checkpoint: the `Checkpoint` among the callbacks, for the message. Defaults to `None`.
        stream: text file to print to. Defaults to the standard output at the time of printing.

    Raises:
        NotFiniteError: in `fit`.

    Example:

    ```python
    model.skip_not_finite = True
    model.fit(batches, epochs=200, callbacks=[NotFiniteGuard(checkpoint), checkpoint])
    ```
    """

    def __init__(self, checkpoint: Checkpoint | None = None, stream: TextIO | None = None) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.stream = stream

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._count = self.model.steps_not_finite
        self._step = self.model.steps_done
        self._in_a_row = 0
        self._reported: set[str] = set()
        self._first_step = self._step  # of the epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch
        self._first_step = self._step

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        count, step = self.model.steps_not_finite, self.model.steps_done
        bad, taken = count - self._count, step - self._step
        where = f"step {step}" if taken == 1 else f"{bad} of the steps {self._step + 1} to {step}"
        self._in_a_row = self._in_a_row + bad if bad == taken else 0
        self._count, self._step = count, step
        if not bad:
            return
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        if not self.model.skip_not_finite or self._in_a_row >= FUTILE:
            raise NotFiniteError(self._message(where, rate))
        self._print(
            f"note: {where} (epoch {self._epoch + 1}, learning rate {rate:.4g}) skipped: loss or gradients were not "
            f"finite. {count} of {step} steps so far."
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        steps = self._step - self._first_step
        if steps and self._in_a_row >= steps:
            return  # all its steps were skipped, each with a line
        wrong = {name for name, value in (logs or {}).items() if not math.isfinite(value)} - self._reported
        for name in sorted(wrong):
            self._print(
                f"note: `{name}` is {logs[name]} in epoch {epoch + 1}, although loss and gradients were finite: "
                "training is unaffected. Further occurrences are not reported."
            )
        self._reported |= wrong

    def _message(self, where, rate):
        saved = self.checkpoint.saved if self.checkpoint else None
        last = f"The same command resumes from the last good checkpoint, {saved}." if saved else "None is saved yet."
        if self.model.skip_not_finite:
            way_out = "Look at the images, and lower the learning rate"
        else:
            way_out = "Lower the learning rate, or skip such steps (--on_nan=skip)"
        return (
            "Loss and gradients must be finite. "
            f"Received: NaN or infinity in {where} of epoch {self._epoch + 1}, at learning rate {rate:.4g}"
            + (f", as in the {self._in_a_row} steps up to it" if self.model.skip_not_finite else "")
            + f". {last} {way_out}."
        )

    def _print(self, line):
        print(line, file=self.stream or sys.stdout, flush=True)
