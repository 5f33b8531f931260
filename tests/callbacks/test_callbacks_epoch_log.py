import csv
import os

import keras
import numpy as np
import pytest

from keras_moco.callbacks import EpochLog
from tests.small_training import Crash


def epochs(log, rows, first=0):
    """Drives a callback as `fit` does."""
    log.on_train_begin()
    for epoch, row in enumerate(rows, first):
        log.on_epoch_end(epoch, row)


def test_each_epoch_is_a_row_and_each_figure_a_column_in_the_order_of_their_names(tmp_path):
    log = EpochLog(tmp_path / "log.csv")
    epochs(log, [{"loss": 2.5, "accuracy": 0.125}, {"accuracy": 0.25, "loss": 1e-7}])
    assert (tmp_path / "log.csv").read_bytes() == b"epoch,accuracy,loss\n0,0.125,2.5\n1,0.25,1e-07\n"


def test_the_file_is_whole_after_each_epoch(tmp_path):
    log, path = EpochLog(tmp_path / "log.csv"), tmp_path / "log.csv"
    log.on_train_begin()
    assert not path.exists()
    log.on_epoch_end(0, {"loss": 2.5})
    assert path.read_text() == "epoch,loss\n0,2.5\n"
    log.on_epoch_end(1, {"loss": 1.5})
    assert path.read_text() == "epoch,loss\n0,2.5\n1,1.5\n"
    assert os.listdir(tmp_path) == ["log.csv"]


def test_a_figure_that_an_epoch_lacks_is_NA_and_one_that_comes_late_gets_its_column(tmp_path):
    epochs(EpochLog(tmp_path / "log.csv"), [{"loss": 3}, {"loss": 2, "knn_top1": 50.0}, {"knn_top1": 60.0}, None])
    assert (tmp_path / "log.csv").read_text() == "epoch,knn_top1,loss\n0,NA,3\n1,50.0,2\n2,60.0,NA\n3,NA,NA\n"


def test_numbers_are_read_back_to_the_bit(tmp_path):
    numbers = [*np.random.default_rng(0).normal(size=20).tolist(), 0.1, float("inf"), float("nan"), 5e-324]
    epochs(EpochLog(tmp_path / "log.csv"), [{"loss": number} for number in numbers])
    with open(tmp_path / "log.csv", newline="") as file:
        np.testing.assert_array_equal([float(row["loss"]) for row in csv.DictReader(file)], numbers)


def test_a_log_given_goes_on_with_epochs_in_order_and_each_of_them_once(tmp_path):
    before = {1: {"loss": 2}, 0: {"loss": 3}, 2: {"loss": 99}}
    log = EpochLog(tmp_path / "log.csv", log=before)
    log.on_train_begin()
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n0,3\n1,2\n2,99\n"
    log.on_epoch_end(2, {"loss": 1})
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n0,3\n1,2\n2,1\n"
    assert before == {1: {"loss": 2}, 0: {"loss": 3}, 2: {"loss": 99}}


@pytest.mark.parametrize(("before", "expected"), [(None, "epoch\n"), ({0: {"loss": 3}}, "epoch,loss\n0,3\n")])
def test_what_another_run_left_in_the_file_is_gone_when_training_begins(tmp_path, before, expected):
    (tmp_path / "log.csv").write_text("epoch,other\n0,1\n1,2\n2,hal")
    EpochLog(tmp_path / "log.csv", log=before).on_train_begin()
    assert (tmp_path / "log.csv").read_text() == expected


def test_the_folder_is_made(tmp_path):
    epochs(EpochLog(str(tmp_path / "runs" / "1" / "log.csv")), [{"loss": 3}])
    assert (tmp_path / "runs" / "1" / "log.csv").read_text() == "epoch,loss\n0,3\n"


def test_a_full_disk_leaves_the_log_of_the_epoch_before_and_the_next_epoch_brings_both(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    log = EpochLog(tmp_path / "log.csv")
    epochs(log, [{"loss": 3}])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left on device"):
            log.on_epoch_end(1, {"loss": 2})
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n0,3\n"
    assert os.listdir(tmp_path) == ["log.csv"]
    log.on_epoch_end(2, {"loss": 1})
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n0,3\n1,2\n2,1\n"


def test_a_run_that_crashed_and_went_on_has_the_log_of_the_undisturbed_one(tmp_path):
    x, y = np.arange(4.0).reshape(4, 1), np.ones((4, 1))

    def crash(epoch, _):
        if epoch == 1:
            raise Crash

    def fit(log, first=0, weights=None, callbacks=()):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        model.set_weights(weights or model.get_weights())
        keep = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, _: states.update({epoch + 1: model.get_weights()})
        )
        model.fit(x, y, initial_epoch=first, epochs=3, shuffle=False, verbose=0, callbacks=[*callbacks, log, keep])

    states = {}
    fit(EpochLog(tmp_path / "whole.csv"))
    states.clear()
    crashed = EpochLog(tmp_path / "log.csv")
    with pytest.raises(Crash):
        fit(crashed, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=crash)])
    fit(EpochLog(tmp_path / "log.csv", log=crashed.log), first=1, weights=states[1])
    assert (tmp_path / "log.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert [line[0] for line in (tmp_path / "log.csv").read_text().splitlines()] == ["e", "0", "1", "2"]
