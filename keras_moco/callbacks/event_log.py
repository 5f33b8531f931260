"""TensorBoard's events of a run that may be stopped and resumed."""

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from keras_moco.storage.atomic import flush, replace_when_written
from keras_moco.storage.paths import StrPath, user_path

# The groups in which TensorBoard shows metrics, by the prefixes of their names in the logs.
GROUPS = {
    "contrast": ("loss", "chance_loss", "contrast_", "positive_similarity", "negative_similarity"),
    "features": ("knn_", "feature_std", "alignment", "uniformity", "effective_rank"),
    "schedule": ("learning_rate", "key_momentum", "queue_fill"),
    "speed": ("images_per_second", "step_seconds", "data_wait_seconds"),
}


def tag(name):
    """The name of a metric of the logs in TensorBoard.

    Example:

    >>> tag("loss"), tag("knn_top1"), tag("my_own")
    ('contrast/loss', 'features/knn_top1', 'my_own')
    """
    groups = [group for group, prefixes in GROUPS.items() if name.startswith(prefixes)]
    return "/".join([*groups, name])


class EventLog(keras.callbacks.Callback):
    """Writes the metrics of each epoch for TensorBoard, in groups, and has them on the disk when the epoch ends.

    `keras.callbacks.TensorBoard` writes each metric into a group of its own, and keeps the last two minutes in memory,
    where a killed process loses them. Place this callback after those that add to the logs, and before `Checkpoint`, so
    that no checkpoint is ahead of the events.

    Args:
        log_dir: path of the folder for TensorBoard.
        constants: dict of name to a number that is written with every epoch. Defaults to none.
        monitors: list of callbacks before this one whose `distributions`, a dict of name to numbers, are written as
            histograms (`RepresentationMonitor`), under other names than metrics. Defaults to none.

    Example:

    ```python
    drop_events("runs/1/tensorboard", first_epoch=epoch)
    model.fit(batches, initial_epoch=epoch, epochs=200, callbacks=[EventLog("runs/1/tensorboard"), checkpoint])
    ```
    """

    def __init__(
        self,
        log_dir: StrPath,
        constants: dict[str, float] | None = None,
        monitors: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        super().__init__()
        self.log_dir = user_path(log_dir)
        self.constants = dict(constants or {})
        self.monitors = monitors
        self._writer: tf.summary.SummaryWriter | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        with self._writer.as_default(step=epoch):
            for name, value in {**(logs or {}), **self.constants}.items():
                tf.summary.scalar(tag(name), value)
            for monitor in self.monitors:
                for name, values in getattr(monitor, "distributions", {}).items():
                    tf.summary.histogram(tag(name), values)
        self._writer.flush()
        for path in event_files(self.log_dir):
            flush(path)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def event_files(log_dir):
    """All files with events of epochs below a folder, the oldest first: a list of `pathlib.Path`."""
    return sorted(path for path in user_path(log_dir).rglob("events.out.tfevents.*") if path.suffix != ".whole")


def write_events(log_dir, name, write):
    """Writes events that belong to a run as a whole, and replaces those written before under that name.

    The function `write` calls `tf.summary`, by default for step 0. `drop_events` does not change the file, whose path
    is returned.
    """
    path = user_path(log_dir) / f"events.out.tfevents.0.{name}.whole"
    with tempfile.TemporaryDirectory() as folder:
        writer = tf.summary.create_file_writer(folder)
        with writer.as_default(step=0):
            write()
        writer.close()
        [made] = Path(folder).iterdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        return replace_when_written(path, functools.partial(shutil.copyfile, made))


def drop_events(log_dir: StrPath, first_epoch: int) -> None:
    """Deletes the events of epochs that will be trained again, so that each epoch is stored once.

    An incomplete last record, of a process that was killed while it wrote, is deleted too. A `SessionLog` record would
    have TensorBoard hide the old events, but no other program that reads the files.

    Args:
        log_dir: path, as of `EventLog`; need not exist.
        first_epoch: int, from 0, the first epoch that will be trained.
    """
    for path in event_files(log_dir):
        records, complete = _records(path)
        kept = [record for record in records if _belongs_before(record, first_epoch)]
        if complete and len(kept) == len(records):
            continue
        replace_when_written(path, functools.partial(_write, kept))


def _records(path):
    """The complete records of a file, and whether the file holds nothing else."""
    records = []
    with contextlib.suppress(tf.errors.DataLossError):
        for record in tf.data.TFRecordDataset(str(path)):
            records.append(record.numpy())
    framed = sum(len(record) + 16 for record in records)  # length and two checksums
    return records, framed == path.stat().st_size


def _write(records, path):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def _belongs_before(record, first_epoch):
    event = tf.compat.v1.Event.FromString(record)
    return not event.HasField("summary") or event.step < first_epoch
