"""Logistic regression on frozen features, against scikit-learn; and the guard of frozen models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_moco.evaluation import Features, frozen, linear_accuracy, linear_probe


def digits():
    images, labels = load_digits(return_X_y=True)
    index = np.arange(len(labels))
    return Features(images[:400], labels[:400], index[:400]), Features(images[1200:], labels[1200:], index[1200:])


class SmallEncoder(keras.Model):
    """What `linear_probe` asks of an encoder: variables, BatchNorm among them, and `features`."""

    def __init__(self, cheat=False):
        super().__init__()
        self.dense = keras.layers.Dense(16)
        self.norm = keras.layers.BatchNormalization()
        self.cheat = cheat
        self.build((None, 8, 8, 1))

    def build(self, input_shape):
        self.dense.build((None, 64))
        self.norm.build((None, 16))
        self.built = True

    def features(self, images, training=False):
        return self.norm(self.dense(ops.reshape(images, (-1, 64))), training=training or self.cheat)


def image_batches(data):
    rows = {"image": data.features.reshape(-1, 8, 8, 1), "label": data.labels, "index": data.index}
    return tf.data.Dataset.from_tensor_slices(rows).batch(128)


@pytest.fixture(scope="module")
def probe():
    return linear_accuracy(*digits())


def test_the_accuracy_is_scikit_learns_with_the_chosen_c(probe):
    train, test = digits()
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=probe.c, max_iter=2000))
    oracle.fit(train.features, train.labels)
    # Within two of the 597 test images: the probe fits in float32 from a warm start.
    assert probe.accuracy == pytest.approx(100 * oracle.score(test.features, test.labels), abs=0.35)
    assert probe.accuracy > 85
    assert probe.converged and probe.c == max(probe.sweep, key=probe.sweep.get)


def test_c_is_chosen_without_the_test_data(probe):
    train, test = digits()
    shuffled = linear_accuracy(train, test._replace(labels=np.random.default_rng(0).permutation(test.labels)))
    assert shuffled.sweep == probe.sweep
    assert shuffled.accuracy < 20


def test_a_solver_that_stopped_early_is_reported():
    assert not linear_accuracy(*digits(), c_values=[1.0], max_iter=2).converged


def test_the_probe_of_an_encoder_is_that_of_its_features():
    encoder = SmallEncoder()
    train, test = digits()
    result = linear_probe(encoder, image_batches(train), image_batches(test), c_values=[0.1])
    embed = [data._replace(features=encoder.features(data.features).numpy()) for data in (train, test)]
    assert result.accuracy == pytest.approx(linear_accuracy(*embed, c_values=[0.1]).accuracy, abs=0.35)


def test_an_encoder_that_runs_in_training_mode_is_noticed():
    with pytest.raises(RuntimeError) as error:
        linear_probe(SmallEncoder(cheat=True), *map(image_batches, digits()), c_values=[0.1])
    paths = [f"small_encoder/batch_normalization/moving_{name}" for name in ("mean", "variance")]
    assert f"Received: 2 changed variable(s): {', '.join(paths)}" in str(error.value)


def test_one_changed_bit_fails():
    encoder = SmallEncoder()
    for variable in (encoder.variables[0], encoder.variables[-1]):
        values = variable.numpy()
        values.reshape(-1).view("uint32")[-1] ^= 1
        with pytest.raises(RuntimeError, match=f"Received: 1 changed variable.*: {variable.path}"):
            with frozen(encoder):
                variable.assign(values)
    with frozen(encoder):  # a restored value is no change
        before = encoder.variables[0].numpy()
        encoder.variables[0].assign(before + 1)
        encoder.variables[0].assign(before)

    twins = keras.Model()  # as the encoders of MoCo, which share the names of their variables
    twins.built, twins.pair = True, [keras.layers.Dense(2, name="twin") for _ in range(2)]
    for twin in twins.pair:
        twin.build((None, 3))
    assert len({variable.path for variable in twins.variables}) == 2
    for twin in twins.pair:
        with pytest.raises(RuntimeError, match="1 changed variable.*: twin/kernel"), frozen(twins):
            twin.kernel.assign(twin.kernel + 1)

    layer = keras.layers.Dense(2, name="late")
    with pytest.raises(RuntimeError, match="late/bias, late/kernel"), frozen(layer):
        layer.build((None, 3))
    # An error is not hidden by the guard.
    with pytest.raises(ZeroDivisionError), frozen(encoder):
        encoder.variables[0].assign(encoder.variables[0] + 1)
        raise ZeroDivisionError


def test_missing_labels_and_single_classes_are_refused():
    train, test = digits()
    none, one_class = (train._replace(labels=np.full_like(train.labels, label)) for label in (-1, 4))
    few = Features(*(rows[:5] for rows in train))
    for variable, data in (("400 labels from -1 to -1", none), (r"labels \[4\]", one_class), ("5 features", few)):
        with pytest.raises(ValueError, match=f"Received: {variable}"):
            linear_accuracy(data, test)
