"""Decides when checkpoints are saved, and which of them are kept."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import keras

from keras_moco.checks.ranges import check_number
from keras_moco.runs.checkpoint_index import UNFINISHED, SavedState, saved_states, saved_steps, scores
from keras_moco.runs.checkpoints import restore, save
from keras_moco.storage.paths import StrPath, user_path


class Checkpoint(keras.callbacks.Callback):
    """Saves the complete state of training at the ends of epochs, and by the clock within them.

    Encoders, queue or bank, optimizer, step, the epoch's log so far: a run that resumes from a checkpoint, also in the
    middle of an epoch, ends in the same bits as one that was never stopped. Each checkpoint is a folder that is written
    whole or not at all, with checksums (`keras_moco.callbacks.save`). If one cannot be written, a line says so and
    training continues; the earlier ones stay. Place this callback after those that add to the logs.

    Args:
        directory: path of the folder of checkpoints, created if missing.
        every_epochs: int, the epochs from one checkpoint to the next; the last epoch is saved too. 0: none by epochs.
            Defaults to `1`.
        every_minutes: float, the age of the last checkpoint at which another one is saved after the next step; 0: none
            by the clock. Defaults to `10`.
        max_share: float in (0, 1], the share of the time that checkpoints after epochs may take: where epochs are
            short, some are skipped. Defaults to `0.005`.
        keep: int, the number of the newest checkpoints that are kept. Defaults to `2`, so that one may be damaged.
        keep_every_epochs: int, the epochs between checkpoints that are always saved, and never deleted; 0: none.
            Defaults to `0`.
        keep_best: str, the name of a metric in the logs, better when higher; of the checkpoints saved when it was
            measured the best one is kept. Defaults to `"knn_top1"`.
        extra: function without arguments that returns a dict of further facts to save. Defaults to `None`.
        stream: text file for warnings. Defaults to the standard output at the time of printing.

    Raises:
        ValueError: if a number is out of its range.

    Attributes:
        log: dict of epoch to a dict of its metrics, over the whole run.
        saved: `pathlib.Path` of the last checkpoint that was saved or restored, or `None`.
        saved_step: int, the step at which it was saved, or `None`.

    Example:

    ```python
    checkpoint = Checkpoint("runs/1/checkpoints")
    model.optimizer.build(model.trainable_variables)
    checkpoint.restore(model)
    epoch, step = divmod(model.steps_done, steps)  # (0, 0) at first
    model.fit(
        pretrain_dataset(images, augmentation, 256, first_epoch=epoch, first_step=step),
        steps_per_epoch=steps,
        initial_epoch=epoch,
        initial_step=step,
        epochs=200,
        callbacks=[checkpoint],
    )
    ```
    """

    def __init__(
        self,
        directory: StrPath,
        every_epochs: int = 1,
        every_minutes: float = 10,
        max_share: float = 0.005,
        keep: int = 2,
        keep_every_epochs: int = 0,
        keep_best: str = "knn_top1",
        extra: Callable[[], dict] | None = None,
        stream: TextIO | None = None,
    ) -> None:
        super().__init__()
        check_number("keep", keep, "at least 1", "Keep the newest checkpoint.", whole=True)
        check_number("every_epochs", every_epochs, "at least 0", "Use 0 for not by epochs.", whole=True)
        check_number("every_minutes", every_minutes, "at least 0", "Use 0 for never.")
        check_number("max_share", max_share, "in (0, 1]", "Use 1 for a checkpoint after every epoch.")
        check_number("keep_every_epochs", keep_every_epochs, "at least 0", "Use 0 for none.", whole=True)
        self.directory = user_path(directory)
        self.every_epochs = every_epochs
        self.every_minutes = every_minutes
        self.max_share = max_share
        self.keep = keep
        self.keep_every_epochs = keep_every_epochs
        self.keep_best = keep_best
        self.extra = extra
        self.stream = stream
        self.log: dict[int, dict[str, float]] = {}
        self.saved: Path | None = None
        self._clock = time.monotonic
        self._epoch = 0
        self.saved_step: int | None = None
        self._last_save: float | None = None  # when it ended
        self._duration = 0.0  # how long it took

    def restore(self, model: keras.Model) -> SavedState | None:
        """Restores the newest whole checkpoint of `directory`, and continues its log.

        Args:
            model: as of `keras_moco.callbacks.restore`.

        Returns:
            `SavedState`, or `None` if there is no checkpoint.

        Raises:
            ValueError: as `keras_moco.callbacks.restore`.
        """
        state = restore(model, self.directory, set_aside=True)
        if state is not None:
            self.log, self.saved, self.saved_step = dict(state.log), state.path, state.step
        return state

    def save(self, epoch: int, step_in_epoch: int) -> bool:
        """Saves a checkpoint now, and deletes those that are not to be kept.

        Args:
            epoch: int, the epoch in which training resumes.
            step_in_epoch: int, the number of its steps that are done.

        Returns:
            Whether it could be written. If not, a line has said so, and the earlier ones are untouched.

        Raises:
            NotFiniteError: if a variable is not finite.
        """
        step = self.model.steps_done
        if step == self.saved_step:
            return True
        start = self._clock()
        try:
            extra = self.extra() if self.extra else {}
            self.saved = save(self.model, self.directory, epoch, step_in_epoch, self.log, extra)
            self.saved_step = step
            with contextlib.suppress(OSError):  # the next one tries again
                self._prune()
        except OSError as error:
            before = f"{self.saved} stays the last one" if self.saved else "none is saved yet"
            print(
                f"warning: the checkpoint of step {step} was not written ({error}); {before}, and training continues.",
                file=self.stream or sys.stdout,
                flush=True,
            )
            return False
        finally:
            self._last_save = self._clock()
            self._duration = self._last_save - start
        return True

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._last_save = self._clock()  # of `every_minutes`

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        # The last step of an epoch is saved together with the log of the epoch.
        if self._is_overdue() and batch + 1 < (self.params.get("steps") or 0):
            self.save(self._epoch, batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch + 1
        self.log[epoch] = {name: float(value) for name, value in (logs or {}).items()}
        if self._is_due(epoch + 1):
            self.save(epoch + 1, 0)

    def _is_overdue(self):
        return bool(self.every_minutes) and self._clock() - self._last_save >= 60 * self.every_minutes

    def _is_due(self, epochs_done):
        if self._is_milestone(epochs_done) or epochs_done == self.params.get("epochs"):
            return True
        affordable = self._clock() - self._last_save >= self._duration * (1 / self.max_share - 1)
        return self._is_overdue() or bool(self.every_epochs) and not epochs_done % self.every_epochs and affordable

    def _is_milestone(self, epochs_done):
        return bool(self.keep_every_epochs and epochs_done) and epochs_done % self.keep_every_epochs == 0

    def _prune(self):
        steps, states = saved_steps(self.directory), saved_states(self.directory)
        kept = set(list(steps)[-self.keep :])
        kept |= {step for step, state in states.items() if not state.step_in_epoch and self._is_milestone(state.epoch)}
        measured = scores(states, self.keep_best)
        if measured:
            kept.add(max(measured, key=measured.get))
        for step, path in steps.items():
            if step not in kept:
                # In two steps: a reader finds it whole or not at all. What a killed process leaves, `save` deletes.
                gone = path.rename(path.with_name(f"{UNFINISHED}{path.name}"))
                shutil.rmtree(gone)
