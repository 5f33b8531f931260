import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.callbacks import EventLog, drop_events
from keras_moco.callbacks.event_log import event_files, write_events


def events(path):
    """The events of one file, as they are on the disk."""
    return list(tf.compat.v1.train.summary_iterator(str(path)))


def values(paths):
    """Every `(tag, epoch)` with its value, of some files."""
    found = [event for path in paths for event in events(path)]
    return {(value.tag, event.step): tf.make_ndarray(value.tensor) for event in found for value in event.summary.value}


def write(path, steps, *others):
    """A file like TensorBoard's, with one metric for each of `steps` after other events."""
    written = [tf.compat.v1.Event(file_version="brain.Event:2", wall_time=1.0), *others]
    for step in steps:
        value = tf.compat.v1.Summary.Value(tag="contrast/loss", simple_value=step / 8)
        written.append(tf.compat.v1.Event(step=step, wall_time=step, summary=tf.compat.v1.Summary(value=[value])))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for event in written:
            writer.write(event.SerializeToString())
    return written


@pytest.mark.parametrize("first", [0, 3])
def test_metrics_of_later_epochs_are_dropped_and_nothing_else(tmp_path, first):
    graph = tf.compat.v1.Event(step=7, graph_def=b"graph")
    paths = [tmp_path / folder / f"events.out.tfevents.{n}.host" for folder in ("train", "other/deep") for n in (1, 2)]
    written = [write(path, [0, 1, 2, 3, 4], graph) for path in paths]
    other = tmp_path / "train" / "records.tfrecord"
    write(other, [0, 1, 2])
    before = other.read_bytes()
    drop_events(str(tmp_path), first)
    assert [events(path) for path in paths] == [each[: 2 + first] for each in written]
    assert other.read_bytes() == before
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*paths, other}


@pytest.mark.parametrize(
    "damage, lost",
    [  # of a process that was killed while it wrote the last record, in its length, its numbers or its checksum
        *[(lambda content, cut=cut: content[:-cut], 1) for cut in (1, 20)],
        *[(lambda content, more=more: content + content[:more], 0) for more in (3, 20)],
        (lambda content: content + bytes(100), 0),  # of a power cut
    ],
)
def test_a_broken_last_record_is_dropped_and_the_others_stay(tmp_path, damage, lost):
    path = tmp_path / "events.out.tfevents.1.host"
    written = write(path, [0, 1, 2])
    path.write_bytes(damaged := damage(path.read_bytes()))
    drop_events(tmp_path, 10)
    assert events(path) == written[: len(written) - lost]
    assert path.read_bytes() != damaged


def test_metrics_are_in_groups_with_constants_and_distributions(tmp_path):
    monitor, plain = keras.callbacks.Callback(), keras.callbacks.Callback()
    log = EventLog(tmp_path, {"chance_loss": 6.25}, [plain, monitor])
    for epoch in range(2):
        monitor.distributions = {} if epoch else {"similarities/positive": np.array([0.5, 0.5, 1.0])}
        log.on_epoch_end(epoch, {"loss": 5.5 - epoch, "knn_top1": 71.5, "key_momentum": 0.99, "mine": 3.0})
        log.on_train_end()  # a second training may follow
    numbers = values(event_files(tmp_path))
    histogram = numbers.pop(("similarities/positive", 0))
    assert histogram[0, 0] == 0.5 and histogram[-1, 1] == 1.0 and histogram[:, 2].sum() == 3
    constant = {"contrast/chance_loss": 6.25, "features/knn_top1": 71.5, "schedule/key_momentum": 0.99, "mine": 3.0}
    expected = [{"contrast/loss": 5.5 - epoch, **constant} for epoch in range(2)]
    assert numbers == pytest.approx({(tag, epoch): x for epoch, row in enumerate(expected) for tag, x in row.items()})


def test_events_of_the_whole_run_are_replaced_and_not_dropped(tmp_path):
    for number in (1.0, 2.0):
        path = write_events(tmp_path / "train", "settings", lambda number=number: tf.summary.scalar("x", number))
    with pytest.raises(ZeroDivisionError):
        write_events(tmp_path / "train", "settings", lambda: 1 / 0)
    write(tmp_path / "train" / "events.out.tfevents.1.host", [0, 1])
    drop_events(tmp_path, 0)
    assert values(path.parent.iterdir()) == {("x", 0): 2.0}
    assert len(list(path.parent.iterdir())) == 2
