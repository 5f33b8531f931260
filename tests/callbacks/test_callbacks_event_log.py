import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_moco.callbacks import EventLog, drop_events
from keras_moco.callbacks.event_log import event_files, write_events
from tests.small_training import Crash


def events(path):
    """The events of one file, as they stand on the disk."""
    return list(tf.compat.v1.train.summary_iterator(str(path)))


def epochs_on_disk(folder, tag="contrast/loss"):
    """Epochs that have a figure, of all files."""
    every = [event for path in event_files(folder) for event in events(path)]
    return [event.step for event in every for value in event.summary.value if value.tag == tag]


def fit(folder, first, epochs, crash_in=None):
    def crash(epoch, _):
        seen.append(epochs_on_disk(folder))
        if epoch == crash_in:
            raise Crash

    seen = []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callbacks = [EventLog(folder), keras.callbacks.LambdaCallback(on_epoch_end=crash)]
    x, y = np.ones((4, 2)), np.ones((4, 1))
    try:
        model.fit(x, y, initial_epoch=first, epochs=epochs, verbose=0, callbacks=callbacks)
    except Crash:
        pass
    return seen


def write(path, steps, *others):
    """A file as TensorBoard's, with one figure for each of `steps` behind other events."""
    every = [tf.compat.v1.Event(file_version="brain.Event:2", wall_time=1.0), *others]
    for step in steps:
        value = tf.compat.v1.Summary.Value(tag="contrast/loss", simple_value=step / 8)
        every.append(tf.compat.v1.Event(step=step, wall_time=step, summary=tf.compat.v1.Summary(value=[value])))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for event in every:
            writer.write(event.SerializeToString())
    return every


def test_events_are_on_the_disk_before_the_next_callback_hears_of_the_end_of_the_epoch(tmp_path):
    assert fit(tmp_path, 0, 3) == [[0], [0, 1], [0, 1, 2]]


def test_a_run_that_crashed_and_goes_on_has_each_epoch_once(tmp_path):
    assert fit(tmp_path, 0, 5, crash_in=1) == [[0], [0, 1]]  # and epoch 1 has no checkpoint
    assert epochs_on_disk(tmp_path) == [0, 1]
    drop_events(tmp_path, first_epoch=1)
    assert epochs_on_disk(tmp_path) == [0]
    fit(tmp_path, 1, 3)
    assert sorted(epochs_on_disk(tmp_path)) == [0, 1, 2]


@pytest.mark.parametrize("first", [0, 1, 3, 4])
def test_what_is_dropped_are_figures_of_later_epochs_and_nothing_else(tmp_path, first):
    graph = tf.compat.v1.Event(step=7, graph_def=b"graph")
    path = tmp_path / "train" / "events.out.tfevents.1.host.1.0.v2"
    every = write(path, [0, 1, 2, 3, 4], graph)
    drop_events(str(tmp_path), first)
    assert events(path) == every[: 2 + first]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_all_files_below_the_folder_are_looked_through(tmp_path):
    paths = [tmp_path / folder / f"events.out.tfevents.{n}.host" for folder in ("train", "other/deep") for n in (1, 2)]
    for path in paths:
        write(path, [0, 1, 2])
    drop_events(tmp_path, 1)
    assert epochs_on_disk(tmp_path) == [0] * 4


def test_files_of_other_names_are_left_alone(tmp_path):
    write(tmp_path / "train" / "records.tfrecord", [0, 1, 2])
    (tmp_path / "notes.txt").write_text("mine")
    before = (tmp_path / "train" / "records.tfrecord").read_bytes()
    drop_events(tmp_path, 0)
    assert (tmp_path / "train" / "records.tfrecord").read_bytes() == before
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("cut", [1, 4, 5, 15, 20])
def test_a_last_record_that_was_cut_short_is_taken_out_and_the_others_stay(tmp_path, cut):
    path = tmp_path / "events.out.tfevents.1.host"
    every = write(path, [0, 1, 2])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(tf.errors.DataLossError):
        events(path)
    drop_events(tmp_path, 10)
    assert events(path) == every[:-1]


@pytest.mark.parametrize("more", [3, 8, 12, 20])
def test_a_record_of_which_no_more_than_the_beginning_was_written_does_not_hide_the_others(tmp_path, more):
    path = tmp_path / "events.out.tfevents.1.host"
    every = write(path, [0, 1, 2])
    path.write_bytes(path.read_bytes() + path.read_bytes()[:more])
    drop_events(tmp_path, 10)
    assert events(path) == every
    drop_events(tmp_path, 2)
    assert events(path) == every[:-1]


def test_zeros_at_the_end_as_a_power_cut_leaves_them_are_taken_out(tmp_path):
    path = tmp_path / "events.out.tfevents.1.host"
    every = write(path, [0, 1, 2])
    path.write_bytes(path.read_bytes() + bytes(100))
    drop_events(tmp_path, 2)
    assert events(path) == every[:-1]


def test_a_file_with_nothing_to_drop_is_not_touched(tmp_path):
    path, empty = tmp_path / "events.out.tfevents.1.host", tmp_path / "events.out.tfevents.2.host"
    write(path, [0, 1, 2])
    empty.touch()
    before, status = path.read_bytes(), path.stat()
    drop_events(tmp_path, 3)
    assert path.read_bytes() == before and empty.read_bytes() == b""
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)


def test_a_folder_that_does_not_exist_has_nothing_to_drop(tmp_path):
    drop_events(tmp_path / "none", 0)
    assert list(tmp_path.iterdir()) == []


def values(folder):
    """`(tag, step)` to what was written, of all files of epochs."""
    every = [
        (event.step, value) for path in event_files(folder) for event in events(path) for value in event.summary.value
    ]
    found = {(value.tag, step): tf.make_ndarray(value.tensor) for step, value in every}
    assert len(found) == len(every)
    return found


class Monitor(keras.callbacks.Callback):
    """Has measured something in every other epoch."""

    distributions = {}

    def on_epoch_end(self, epoch, logs=None):
        self.distributions = {} if epoch % 2 else {"similarities/positive": np.array([0.5, 0.5, 1.0])}


def test_figures_stand_in_groups_with_constants_and_distributions(tmp_path):
    monitor, plain = Monitor(), keras.callbacks.Callback()
    log = EventLog(tmp_path, {"chance_loss": 6.25}, [plain, monitor])
    for epoch in range(2):
        monitor.on_epoch_end(epoch)
        log.on_epoch_end(epoch, {"loss": 5.5 - epoch, "knn_top1": 71.5, "key_momentum": 0.99, "mine": 3.0})
    found = values(tmp_path)
    histogram = found.pop(("similarities/positive", 0))
    assert found == {
        (tag, epoch): pytest.approx(value)
        for epoch in range(2)
        for tag, value in {
            "contrast/loss": 5.5 - epoch,
            "contrast/chance_loss": 6.25,
            "features/knn_top1": 71.5,
            "schedule/key_momentum": 0.99,
            "mine": 3.0,
        }.items()
    }
    assert histogram[0, 0] == 0.5 and histogram[-1, 1] == 1.0 and histogram[:, 2].sum() == 3


def test_a_log_is_fit_for_another_training(tmp_path):
    log = EventLog(tmp_path)
    for epoch in range(2):
        log.on_epoch_end(epoch, {"loss": 1.0})
        log.on_train_end()
    assert sorted(values(tmp_path)) == [("contrast/loss", 0), ("contrast/loss", 1)]


def test_events_of_a_run_as_a_whole_are_replaced_and_not_dropped(tmp_path):
    for number in (1.0, 2.0):
        path = write_events(tmp_path / "train", "settings", lambda number=number: tf.summary.scalar("x", number))
    write(tmp_path / "train" / "events.out.tfevents.1.host", [0, 1])
    drop_events(tmp_path, 0)
    assert epochs_on_disk(tmp_path) == []
    [event] = [event for event in events(path) if event.HasField("summary")]
    assert event.step == 0 and float(tf.make_ndarray(event.summary.value[0].tensor)) == 2.0
    assert len(list(path.parent.iterdir())) == 2
