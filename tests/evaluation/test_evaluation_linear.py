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
    return Features(images[:600], labels[:600], index[:600]), Features(images[1200:], labels[1200:], index[1200:])


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


def test_the_accuracy_is_scikit_learns_with_the_chosen_c():
    train, test = digits()
    probe = linear_accuracy(train, test)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=probe.c, max_iter=2000))
    oracle.fit(train.features, train.labels)
    # Within one of the 597 test images: the probe fits in float32 from a warm start.
    assert probe.accuracy == pytest.approx(100 * oracle.score(test.features, test.labels), abs=0.2)
    assert probe.accuracy > 85
    assert probe.converged
    assert probe.c == max(probe.sweep, key=probe.sweep.get)
    assert list(probe.sweep) == [0.001, 0.01, 0.1, 1.0]


def test_c_is_chosen_without_the_test_data():
    train, test = digits()
    shuffled = test._replace(labels=np.random.default_rng(0).permutation(test.labels))
    assert linear_accuracy(train, shuffled).sweep == linear_accuracy(train, test).sweep
    assert linear_accuracy(train, shuffled).accuracy < 20


def test_a_solver_that_stopped_early_is_reported():
    assert not linear_accuracy(*digits(), c_values=[1.0], max_iter=2).converged


def test_the_probe_of_an_encoder_is_that_of_its_features():
    encoder = SmallEncoder()
    train, test = digits()
    result = linear_probe(encoder, image_batches(train), image_batches(test), c_values=[0.1])
    embed = [data._replace(features=encoder.features(data.features).numpy()) for data in (train, test)]
    assert result.accuracy == pytest.approx(linear_accuracy(*embed, c_values=[0.1]).accuracy, abs=0.2)


def test_an_encoder_that_runs_in_training_mode_is_found_out():
    encoder = SmallEncoder(cheat=True)
    with pytest.raises(RuntimeError) as error:
        linear_probe(encoder, *map(image_batches, digits()))
    statistics = (
        "small_encoder/batch_normalization/moving_mean",
        "small_encoder/batch_normalization/moving_variance",
    )
    assert f"Received: 2 changed variable(s): {', '.join(statistics)}. Call it" in str(error.value)


@pytest.mark.parametrize("position", [0, -1])
def test_one_changed_bit_fails(position):
    encoder = SmallEncoder()
    variable = encoder.variables[position]
    values = variable.numpy()
    values.reshape(-1).view("uint32")[-1] ^= 1
    with pytest.raises(RuntimeError, match=f"Received: 1 changed variable.*: {variable.path}. Call it with"):
        with frozen(encoder):
            variable.assign(values)


def test_what_is_put_back_or_left_alone_is_no_change():
    encoder = SmallEncoder()
    with frozen(encoder):
        kernel = encoder.variables[0]
        before = kernel.numpy()
        kernel.assign(before + 1)
        kernel.assign(before)
        encoder.features(np.ones((2, 8, 8, 1)))


def test_variables_that_appear_are_named():
    layer = keras.layers.Dense(2, name="late")
    with pytest.raises(RuntimeError, match="late/bias, late/kernel"), frozen(layer):
        layer.build((None, 3))


def test_an_error_inside_is_not_hidden_by_the_guard():
    encoder = SmallEncoder()
    with pytest.raises(ZeroDivisionError), frozen(encoder):
        encoder.variables[0].assign(encoder.variables[0] + 1)
        raise ZeroDivisionError


def test_what_cannot_be_probed_is_refused():
    train, test = digits()
    unlabelled = train._replace(labels=np.full_like(train.labels, -1))
    with pytest.raises(ValueError, match="`train` must be labelled. Received: 600 labels, the smallest -1."):
        linear_accuracy(unlabelled, test)
    with pytest.raises(ValueError, match=r"`train` must hold at least two classes.*labels \[4\]. Use more"):
        linear_accuracy(train._replace(labels=np.full_like(train.labels, 4)), test)
    with pytest.raises(ValueError, match="at least ten features.*Received: 5 features"):
        linear_accuracy(Features(*(rows[:5] for rows in train)), test)
    with pytest.raises(ValueError, match="`c_values` must be positive numbers. Received: c_values="):
        linear_accuracy(train, test, c_values=[])
