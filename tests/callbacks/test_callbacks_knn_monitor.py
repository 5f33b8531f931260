import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.neighbors import KNeighborsClassifier

from keras_moco.callbacks import KnnMonitor
from keras_moco.networks import Encoder, linear_head
from tests.small_encoder import SHAPE
from tests.small_training import batches

RNG = np.random.default_rng(0)
LABELS = np.arange(150) % 5
IMAGES = (RNG.uniform(0, 255, (5, *SHAPE))[LABELS] + RNG.normal(0, 120, (150, *SHAPE))).clip(0, 255).astype("float32")


def rows(start, stop):
    data = {"image": IMAGES[start:stop], "label": LABELS[start:stop], "index": np.arange(start, stop)}
    return tf.data.Dataset.from_tensor_slices(data).batch(32)


def monitor(**settings):
    return KnnMonitor(rows(0, 100), rows(100, 150), **{"num_classes": 5, "k": 9, **settings})


def oracle(encoder, features):
    """scikit-learn on features computed outside of any graph."""
    embed = {"embedding": encoder, "backbone": encoder.features}[features]
    found = embed(IMAGES, training=False).numpy()
    neighbours = KNeighborsClassifier(9, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
    return 100 * neighbours.fit(found[:100], LABELS[:100]).score(found[100:], LABELS[100:])


@pytest.mark.parametrize("features", ["embedding", "backbone"])
def test_the_current_features_are_measured_before_training_and_after_each_epoch(features):
    backbone = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(6)])
    encoder = Encoder(backbone, linear_head(6, 5), mean=0.5, std=0.3)
    measured, expected = monitor(features=features), [oracle(encoder, features)]
    measured.set_model(types.SimpleNamespace(encoder=encoder))
    measured.on_train_begin()
    for epoch in range(3):
        backbone.weights[0].assign(np.random.default_rng(epoch).normal(size=backbone.weights[0].shape))
        expected.append(oracle(encoder, features))
        measured.on_epoch_end(epoch, logs := {"loss": 1.0})
        assert logs == {"loss": 1.0, "knn_top1": measured.history[-1][1]}
    # Rounding in float32 may turn a tie of two classes: one query of 50 is 2 %.
    found = [measured.initial_top1, *(top1 for _, top1 in measured.history)]
    np.testing.assert_allclose(found, expected, atol=2.1)
    assert max(expected) - min(expected) > 5, expected
    assert [epoch for epoch, _ in measured.history] == [0, 1, 2]


def test_tuples_and_arrays_are_measured_like_dictionaries(model):
    splits = [(IMAGES[:100], LABELS[:100]), (IMAGES[100:], LABELS[100:])]
    datasets = [tf.data.Dataset.from_tensor_slices(split).batch(32) for split in splits]
    found = []
    for bank, queries in (splits, datasets, (rows(0, 100), datasets[1])):
        measured = KnnMonitor(bank, queries, 5, k=9)
        measured.set_model(model)
        found.append(measured.evaluate())
    assert found == pytest.approx([oracle(model.encoder, "embedding")] * 3, abs=2.1)


def test_epochs_are_measured_by_every_epochs_and_the_last_one_always(model):
    """`RepresentationMonitor` inherits this."""
    measured = monitor(every_epochs=3)
    measured.evaluate = lambda: 50.0
    fit = {"steps_per_epoch": 1, "initial_epoch": 1, "epochs": 7, "verbose": 0}
    history = model.fit(batches(), **fit, callbacks=[measured]).history
    assert measured.history == [(2, 50.0), (5, 50.0), (6, 50.0)]
    assert history["knn_top1"] == [50.0] * 3 and measured.initial_top1 == 50.0


def test_a_model_that_has_been_trained_has_no_accuracy_before_training(model):
    for steps in (0, 3):
        measured = monitor()
        measured.evaluate = lambda: 50.0
        model.step.assign(steps)
        measured.set_model(model)
        measured.on_train_begin()
        assert measured.initial_top1 == (None if steps else 50.0)


def test_bad_settings_are_refused_before_the_first_step(model):
    with pytest.raises(ValueError, match="k=101, reference set of 100"):
        model.fit(batches(), steps_per_epoch=1, verbose=0, callbacks=[monitor(k=101)])
    assert model.steps_done == 0
    for bank, received in (
        (rows(0, 100).map(lambda batch: batch["image"]), "batches with 'image'"),
        (rows(0, 100).unbatch(), r"shape \(4, 4, 3\)"),
        (rows(0, 100).repeat(), "an infinite data set"),
        (iter(rows(0, 100)), "a OwnedIterator, which is read once"),
        ((IMAGES[:, :3], LABELS), r"\(3, 4, 3\)"),
    ):
        measured = KnnMonitor(bank, rows(100, 150), 5, k=9)
        measured.initial_top1 = 50.0  # known, so that nothing would be measured before the first epoch ends
        with pytest.raises(ValueError, match=rf"\A.* must .*Received: .*{received}.*\Z"):
            model.fit(batches(), steps_per_epoch=1, verbose=0, callbacks=[measured])
        assert model.steps_done == 0
    wrong = {"every_epochs": [0, -1, 0.5], "k": [0, 2.5], "temperature": [0, -1.0, math.nan], "num_classes": [0]}
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"`{name}` must be .* Received: {name}={value}\."):
                monitor(**{name: value})
    with pytest.raises(ValueError, match="'head'"):
        monitor(features="head")
