"""TensorBoard's events of a run that may be stopped and go on."""

import contextlib
import functools
from pathlib import Path

import keras
import tensorflow as tf

from keras_moco.durable import flush, replace_when_written


class EventLog(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` whose events are on the disk at the end of every epoch.

    Keras leaves the last two minutes of them in memory, which a process that is killed takes with it. Place this
    callback in front of `Checkpoint`, so that no checkpoint is ahead of the events.

    Args:
        log_dir, **kwargs: of `keras.callbacks.TensorBoard`, but for `update_freq`: everything is logged by epochs, so
            that `drop_events` knows what belongs to which.

    Example:

    ```python
    drop_events("runs/1/tensorboard", first_epoch=epoch)
    model.fit(batches, initial_epoch=epoch, epochs=200, callbacks=[EventLog("runs/1/tensorboard"), checkpoint])
    ```
    """

    def __init__(self, log_dir, **kwargs):
        super().__init__(log_dir, update_freq="epoch", **kwargs)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self._train_writer.flush()
        for path in event_files(self.log_dir):
            flush(path)


def event_files(log_dir):
    """All files of events below a folder, the oldest first: a list of `pathlib.Path`."""
    return sorted(Path(log_dir).rglob("events.out.tfevents.*"))


def drop_events(log_dir, first_epoch):
    """Takes out the events of epochs that will be trained again, so that none stands there twice.

    A broken last record, of a process that was killed while it wrote, goes as well.

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
    """The whole records of a file, and whether there is nothing else in it."""
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
