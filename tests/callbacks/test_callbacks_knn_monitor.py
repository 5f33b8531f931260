import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from keras_moco.callbacks import KnnMonitor
from keras_moco.models import Encoder, MoCo, linear_head
from keras_moco.optimizers import SGD

IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = IMAGES.reshape(-1, 8, 8, 1).astype("float32") * 16


def rows(start, stop):
    data = {"image": IMAGES[start:stop], "label": LABELS[start:stop], "index": np.arange(start, stop)}
    return tf.data.Dataset.from_tensor_slices(data).batch(64)


def small_moco(learning_rate=0.0):
    backbone = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(6, 3), layers.BatchNormalization()])
    model = MoCo(Encoder(backbone, linear_head(6, 4), mean=0.3, std=0.3), queue_size=32)
    model.compile(optimizer=SGD(learning_rate))
    return model


def views():
    return tf.data.Dataset.from_tensor_slices({"query": IMAGES[:32], "key": IMAGES[32:64]}).batch(16, True)


def oracle(model, k, features="embedding"):
    """scikit-learn on features computed outside of any graph."""
    embed = {"embedding": model.encoder, "backbone": model.encoder.features}[features]
    bank, queries = (embed(IMAGES[rows], training=False).numpy() for rows in (slice(0, 300), slice(300, 450)))
    neighbours = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
    return 100 * neighbours.fit(bank, LABELS[:300]).score(queries, LABELS[300:450])


@pytest.mark.parametrize("features", ["embedding", "backbone"])
def test_the_current_features_are_measured_before_training_and_after_each_epoch(features):
    model = small_moco(learning_rate=0.5)
    monitor = KnnMonitor(rows(0, 300), rows(300, 450), 10, k=20, features=features)
    before = oracle(model, 20, features)
    expected = []
    after = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: expected.append(oracle(model, 20, features))
    )
    model.fit(views(), epochs=3, verbose=0, callbacks=[monitor, after])
    # float32 rounding may turn a tie of two classes: one image of 150 is 0.67 %.
    assert monitor.initial_top1 == pytest.approx(before, abs=0.7)
    np.testing.assert_allclose([top1 for _, top1 in monitor.history], expected, atol=0.7)
    assert [epoch for epoch, _ in monitor.history] == [0, 1, 2]
    assert len({monitor.initial_top1, *expected}) > 1


def test_other_callbacks_and_the_history_of_fit_see_it(tmp_path):
    monitor = KnnMonitor(rows(0, 300), rows(300, 450), 10, k=20)
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = small_moco().fit(views(), epochs=2, verbose=0, callbacks=[monitor, logger]).history
    assert history["knn_top1"] == [top1 for _, top1 in monitor.history]
    with open(tmp_path / "log.csv", newline="") as file:
        assert [float(row["knn_top1"]) for row in csv.DictReader(file)] == history["knn_top1"]


@pytest.mark.parametrize(
    ("every", "first", "last", "epochs"), [(3, 0, 7, [2, 5, 6]), (2, 3, 6, [3, 5]), (5, 1, 2, [1])]
)
def test_every_so_many_epochs_of_the_whole_run_are_measured_and_the_last_one(every, first, last, epochs):
    monitor = KnnMonitor(rows(0, 300), rows(300, 450), 10, k=20, every_epochs=every)
    history = small_moco().fit(views(), initial_epoch=first, epochs=last, verbose=0, callbacks=[monitor]).history
    assert [epoch for epoch, _ in monitor.history] == epochs
    assert history["knn_top1"] == [top1 for _, top1 in monitor.history]
    assert monitor.initial_top1 is not None  # in place of the first epoch


def test_a_known_accuracy_before_training_is_not_measured_again():
    monitor = KnnMonitor(rows(0, 300), rows(300, 450), 10, k=20)
    monitor.initial_top1 = 12.5
    monitor.evaluate = lambda: 99.0
    small_moco().fit(views(), verbose=0, callbacks=[monitor])
    assert (monitor.initial_top1, monitor.history) == (12.5, [(0, 99.0)])


def test_measuring_changes_nothing(tmp_path):
    def state(callbacks):
        keras.utils.set_random_seed(0)
        model = small_moco(learning_rate=0.1)
        model.fit(views(), epochs=2, verbose=0, callbacks=callbacks)
        return [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]

    assert state([KnnMonitor(rows(0, 300), rows(300, 450), 10, k=20)]) == state([])


def test_a_bank_too_small_for_k_is_refused_before_the_first_step():
    model = small_moco()
    with pytest.raises(ValueError, match="`k` must be between 1 and .* Received: k=200, bank of 100."):
        model.fit(views(), verbose=0, callbacks=[KnnMonitor(rows(0, 100), rows(300, 450), 10)])
    assert int(model.step) == 0


def test_every_epochs_must_be_positive():
    with pytest.raises(ValueError, match="`every_epochs` must be at least 1. Received: every_epochs=0."):
        KnnMonitor(rows(0, 300), rows(300, 450), 10, every_epochs=0)


def test_unknown_features_are_refused():
    with pytest.raises(
        ValueError, match="^`features` must be one of embedding, backbone. Received: 'head'. Choose one"
    ):
        KnnMonitor(rows(0, 300), rows(300, 450), 10, features="head")
