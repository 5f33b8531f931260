"""Progress as lines of text, for log files; on a terminal there is a progress bar too."""

import sys
import time
from typing import NamedTuple, TextIO

import keras

from keras_moco.checks.ranges import check_number

BAR_SECONDS = 0.2  # between two readings of the loss, each of which waits for the step
STARVED = 0.3  # share of a step spent waiting for data above which a note says so
SHOWN = ("loss", "contrast_top1")  # beside the bar


class Pace(NamedTuple):
    """How fast some steps went; the last two in seconds per step."""

    images_per_second: float
    step: float
    data_wait: float


class Progress(keras.callbacks.Callback):
    """Prints one line every `log_steps` steps and one per epoch; adds learning rate and speed to the logs.

    ```
    epoch 3/20 step 120/234 loss 5.123 top1 34.1% lr 0.0312 images/s 1043 step 245ms data-wait 2ms left 12m30s
    epoch 3/20 done loss 5.097 top1 34.9% knn 71.3% lr 0.0308 images/s 1041 step 246ms data-wait 3ms left 11m02s
    ```

    On a terminal Keras's progress bar replaces the lines within an epoch. Call `fit` with `verbose=0`.

    `images/s` counts the images of the global batch, over the steps since the last line in a step's line and
    over the epoch in its last line. Neither counts the first step of a `fit`, which compiles, nor the time between
    epochs. `step` is the time from step to step, `data-wait` the part of it spent waiting for a batch; an epoch in
    which that is more than 30 % ends with a note that says what can be done. `left` extrapolates both the speed and the
    time between epochs. The epoch's logs get `"learning_rate"`, of the next step, `"images_per_second"`,
    `"step_seconds"` and `"data_wait_seconds"`; place this callback before those that read logs (`EpochLog`,
    `EventLog`) and after `KnnMonitor`.

    Args:
        steps_per_epoch: int, the number of steps in an epoch.
        epochs: int, the number of the last epoch, also where training resumes in a later one.
        batch_size: int, the global batch size.
        log_steps: int, the steps from line to line, counted in each epoch. Defaults to `50`.
        stream: text file to print to. Defaults to the standard output at the time of printing.

    Example:

    ```python
    progress = Progress(steps_per_epoch=234, epochs=20, batch_size=256)
    model.fit(batches, steps_per_epoch=234, epochs=20, verbose=0, callbacks=[progress])
    ```
    """

    def __init__(
        self, steps_per_epoch: int, epochs: int, batch_size: int, log_steps: int = 50, stream: TextIO | None = None
    ) -> None:
        super().__init__()
        for name, value in {
            "steps_per_epoch": steps_per_epoch,
            "epochs": epochs,
            "batch_size": batch_size,
            "log_steps": log_steps,
        }.items():
            check_number(name, value, "at least 1", "Give a positive integer.", whole=True)
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.batch_size = batch_size
        self.log_steps = log_steps
        self.stream = stream
        self._clock = time.perf_counter

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._compiled = False
        self._between: list[float] = []  # seconds from the last step of an epoch to the start of the next
        self._epoch_ended: float | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        now = self._clock()
        if self._epoch_ended is not None:
            self._between.append(now - self._epoch_ended)
        self._epoch = epoch
        self._step = 0
        self._bar = None
        if (self.stream or sys.stdout).isatty():
            print(f"epoch {epoch + 1}/{self.epochs}")
            self._bar = keras.utils.Progbar(self.steps_per_epoch, stateful_metrics=SHOWN, interval=0)
            self._bar_drawn = now
        self._epoch_start = self._line_start = self._mark(now)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._step == 0 and batch > 0:  # an epoch that is resumed in its middle
            self._step = batch
            self._epoch_start = self._line_start = self._mark(self._clock())

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        now = self._clock()
        # With several steps per execution Keras names a step beyond the end of the epoch.
        before, self._step = self._step, min(batch + 1, self.steps_per_epoch)
        self._epoch_ended = now
        if not self._compiled:
            self._compiled = True
            if self._step < self.steps_per_epoch:  # otherwise there is no other step to measure
                self._epoch_start = self._line_start = self._mark(now)
        if self._bar:
            self._draw_bar(logs, now)
        elif self._step // self.log_steps > before // self.log_steps and self._step < self.steps_per_epoch:
            self._print(f"step {self._step}/{self.steps_per_epoch}", logs, self._pace(self._line_start))
            self._line_start = self._mark(now)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        pace = self._pace(self._epoch_start)
        if self._bar:
            self._bar.update(self._step, _shown(logs), finalize=True)
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            logs["images_per_second"] = pace.images_per_second
            logs["step_seconds"] = pace.step
            logs["data_wait_seconds"] = pace.data_wait
        self._print("done", logs, pace)
        if pace.data_wait > STARVED * pace.step:
            print(
                f"note: steps waited for data during {pace.data_wait / pace.step:.0%} of their time. More CPU cores; "
                "--augment_on=device (on an accelerator), --cache_encoded (slow storage) and --noaugment_exact help.",
                file=self.stream or sys.stdout,
                flush=True,
            )

    def _draw_bar(self, logs, now):
        # The last step is drawn at the end of the epoch: the bar ends its line there.
        if now - self._bar_drawn >= BAR_SECONDS and self._step < self.steps_per_epoch:
            self._bar.update(self._step, _shown(logs), finalize=False)
            self._bar_drawn = now

    def _mark(self, now):
        """The steps of this epoch so far, the time, and the seconds waited for data so far."""
        return self._step, now, self._data_wait()

    def _data_wait(self):
        return getattr(self.model, "data_wait", 0.0)  # other models than this package's do not count it

    def _pace(self, start):
        """The `Pace` since `start`, a mark; zeros before the first step that is measured."""
        step, then, waited = start
        seconds, steps = (self._epoch_ended or then) - then, self._step - step
        if seconds <= 0 or steps <= 0:
            return Pace(0.0, 0.0, 0.0)
        return Pace(steps * self.batch_size / seconds, seconds / steps, (self._data_wait() - waited) / steps)

    def _left(self, speed):
        epochs = self.epochs - self._epoch - 1
        images = (epochs * self.steps_per_epoch + self.steps_per_epoch - self._step) * self.batch_size
        pause = sum(self._between) / len(self._between) if self._between else 0.0
        return images / speed + epochs * pause

    def _print(self, where, logs, pace):
        logs = logs or {}
        parts = [f"epoch {self._epoch + 1}/{self.epochs}", where]
        if "loss" in logs:
            parts.append(f"loss {logs['loss']:.3f}")
        if "contrast_top1" in logs:
            parts.append(f"top1 {logs['contrast_top1']:.1%}")
        if "knn_top1" in logs:
            parts.append(f"knn {logs['knn_top1']:.1f}%")
        parts.append(f"lr {float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)):.4g}")
        if pace.images_per_second > 0:
            parts += [
                f"images/s {pace.images_per_second:.0f}",
                f"step {1000 * pace.step:.0f}ms",
                f"data-wait {1000 * pace.data_wait:.0f}ms",
                f"left {duration(self._left(pace.images_per_second))}",
            ]
        print(*parts, file=self.stream or sys.stdout, flush=True)


def _shown(logs):
    """The metrics beside the bar: a list of (name, value)."""
    return [(name, float(logs[name])) for name in SHOWN if name in (logs or {})]


def duration(seconds):
    """Seconds in two units.

    Args:
        seconds: non-negative number.

    Returns:
        str.

    Example:

    >>> duration(42), duration(750), duration(7384), duration(180000)
    ('42s', '12m30s', '2h03m', '2d02h')
    """
    seconds = round(seconds)
    for unit, part, small, divisor in (
        (86400, 3600, "d{:02d}h", 24),
        (3600, 60, "h{:02d}m", 60),
        (60, 1, "m{:02d}s", 60),
    ):
        if seconds >= unit:
            return f"{seconds // unit}" + small.format(seconds // part % divisor)
    return f"{seconds}s"
