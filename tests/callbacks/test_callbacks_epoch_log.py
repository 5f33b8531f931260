import os

import pytest

from keras_moco.callbacks import EpochLog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "1" / "log.csv"


def test_the_file_is_whole_after_each_epoch(path):
    log = EpochLog(str(path))
    log.on_train_begin()
    assert not path.exists()
    log.on_epoch_end(0, {"loss": 2.5, "accuracy": 0.125})
    assert path.read_bytes() == b"epoch,accuracy,loss\n0,0.125,2.5\n"
    log.on_epoch_end(1, {"accuracy": 0.25, "loss": 1e-7})
    assert path.read_bytes() == b"epoch,accuracy,loss\n0,0.125,2.5\n1,0.25,1e-07\n"
    assert os.listdir(path.parent) == ["log.csv"]


def test_a_missing_metric_is_NA_and_a_late_one_gets_its_column(path):
    log = EpochLog(path)
    for epoch, row in enumerate(({"loss": 3}, {"loss": 2, "knn_top1": 50.0}, {"knn_top1": 60.0}, None)):
        log.on_epoch_end(epoch, row)
    assert path.read_text() == "epoch,knn_top1,loss\n0,NA,3\n1,50.0,2\n2,60.0,NA\n3,NA,NA\n"


def test_a_resumed_log_has_each_epoch_once_in_order(path):
    before = {1: {"loss": 2}, 0: {"loss": 3}, 2: {"loss": 99}}
    log = EpochLog(path, log=before)
    log.on_train_begin()
    assert path.read_text() == "epoch,loss\n0,3\n1,2\n2,99\n"
    log.on_epoch_end(2, {"loss": 1})
    assert path.read_text() == "epoch,loss\n0,3\n1,2\n2,1\n" and before[2] == {"loss": 99}


def test_what_another_run_left_in_the_file_is_gone_when_training_begins(path):
    path.parent.mkdir(parents=True)
    path.write_text("epoch,other\n0,1\n1,2\n2,hal")
    EpochLog(path).on_train_begin()
    assert path.read_text() == "epoch\n"
