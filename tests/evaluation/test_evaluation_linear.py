"""Linear classifiers by SGD, side by side, against NumPy."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest

from keras_moco.data import array_source
from keras_moco.evaluation import Features, LinearHeads, linear, linear_sweep, linear_sweep_on_images

FEATURES, CLASSES = 5, 3


def clusters(count=60, seed=0, noise=0.7):
    """Features of three classes that overlap slightly."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    features = np.eye(CLASSES, FEATURES)[labels] + noise * random.normal(size=(count, FEATURES))
    return Features(features.astype("float32"), labels, np.arange(count))


def trained_in_numpy(data, kernel, rate, epochs):
    """Softmax regression by SGD with momentum, all images in every step; the rate falls at 60 and 80 %."""
    kernel, bias = kernel.astype("float64"), np.zeros(CLASSES)
    velocities = [np.zeros_like(kernel), np.zeros_like(bias)]
    for epoch in range(epochs):
        logits = data.features @ kernel + bias
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        errors = shares / shares.sum(axis=1, keepdims=True) - np.eye(CLASSES)[data.labels]
        gradients = [data.features.T @ errors / len(errors), errors.mean(axis=0)]
        velocities = [0.9 * velocity + gradient for velocity, gradient in zip(velocities, gradients, strict=True)]
        now = rate * 0.1 ** ((epoch >= 0.6 * epochs) + (epoch >= 0.8 * epochs))
        kernel, bias = kernel - now * velocities[0], bias - now * velocities[1]
    return kernel, bias


def test_every_head_trains_as_if_alone_in_numpy():
    data, rates, epochs = clusters(), (0.1, 1.0, 30.0), 20
    heads = LinearHeads(CLASSES, len(rates), seed=3)
    model = keras.Sequential([keras.Input((FEATURES,)), heads])
    before = heads.kernel.numpy()
    assert np.all(before == before[:, :1]) and abs(before.std() - 0.01) < 0.006
    linear._compile(model, rates, epochs, steps=1, batch_size=len(data.labels))
    model.fit(data.features, data.labels, batch_size=len(data.labels), epochs=epochs, verbose=0)
    for head, rate in enumerate(rates):
        scaled = rate * len(data.labels) / 256
        kernel, bias = trained_in_numpy(data, before[:, head], scaled, epochs)
        np.testing.assert_allclose(heads.kernel[:, head], kernel, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(heads.bias[head], bias, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_head_that_diverges_does_not_change_the_others():
    train, test = clusters(), clusters(seed=1)
    wild = linear_sweep(train, test, CLASSES, rates=(1.0, 1e38), epochs=4, batch_size=16)
    tame = linear_sweep(train, test, CLASSES, rates=(1.0, 0.5), epochs=4, batch_size=16)
    assert wild.tests[1.0] == tame.tests[1.0] and wild.held_out[1.0] == tame.held_out[1.0]
    assert wild.tests[1.0].top1 > 60


def test_the_rate_is_chosen_by_the_held_out_images():
    train, test = clusters(200), clusters(seed=1)
    found = linear_sweep(train, test, CLASSES, rates=(1e-6, 1.0), epochs=5, batch_size=32)
    assert found.rate == 1.0 == max(found.held_out, key=found.held_out.get)
    assert found.accuracy == found.tests[1.0]
    assert found.accuracy.top1 == pytest.approx(100 * np.mean(found.predicted == test.labels))
    np.testing.assert_array_equal(found.labels, test.labels)
    shuffled = test._replace(labels=np.random.default_rng(0).permutation(test.labels))
    same, other = (linear_sweep(train, shuffled, CLASSES, (1e-6, 1.0), 5, 32, seed=seed) for seed in (0, 1))
    assert same.held_out == found.held_out and other.held_out != found.held_out


@pytest.mark.slow
def test_a_single_rate_is_trained_on_all_images():
    train = clusters(30, noise=0.0)
    # The only image of its class is in the last batch, if anywhere.
    rare = train._replace(
        features=np.concatenate([train.features, [[0, 0, 0, 9, 0]]]).astype("float32"),
        labels=np.append(train.labels, 3),
        index=np.arange(31),
    )
    found = linear_sweep(rare, rare, 4, rates=(10.0,), epochs=30, batch_size=16)
    assert found.accuracy.top1 == 100 and found.held_out == {}


# On images


class Tint(keras.layers.Layer):
    """Three colour channels as features, through BatchNorm, whose statistics must stay."""

    def __init__(self, cheat=False):
        super().__init__()
        self.norm, self.cheat = keras.layers.BatchNormalization(), cheat
        self.calls = self.add_weight((), "zeros", trainable=False)

    def call(self, images, training=False):
        if self.cheat:
            self.calls.assign_add(1.0)
        return self.norm(keras.ops.mean(images, axis=(1, 2)) / 255, training=training)


def tinted(count=60, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    colors = 60 + 120 * np.eye(CLASSES)[labels] + random.uniform(-20, 20, (count, 3))
    return array_source(np.broadcast_to(colors[:, None, None], (count, 10, 10, 3)), labels)


def backbone(cheat=False):
    images = keras.Input((None, None, 3))
    return keras.Model(images, Tint(cheat)(images))


@pytest.mark.slow
def test_on_images_the_classes_are_found_and_the_backbone_stays():
    model = backbone()
    before = [np.array(weight) for weight in model.weights]
    found = linear_sweep_on_images(model, tinted(), tinted(seed=1), 8, rates=(1.0, 3.0), epochs=6, batch_size=16)
    assert found.accuracy.top1 == 100
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert model.trainable and len(model.trainable_weights) == 2


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("callbacks, ends_in", [([], nullcontext()), ([Interrupt()], pytest.raises(KeyboardInterrupt))])
def test_trainable_flags_of_the_backbone_stay(callbacks, ends_in):
    layers = [keras.layers.Dense(3, name="frozen"), keras.layers.Dense(3, name="trained")]
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D(), *layers])
    layers[0].trainable = False
    layers[1].bias.trainable = False
    with ends_in:
        settings = {"rates": (1.0,), "epochs": 1, "batch_size": 30, "callbacks": callbacks}
        linear_sweep_on_images(model, tinted(), tinted(seed=1), 8, **settings)
    assert model.trainable and not layers[0].trainable and layers[1].trainable
    assert [variable.path for variable in model.trainable_variables] == [layers[1].kernel.path]


@pytest.mark.slow
def test_a_backbone_that_changes_is_an_error():
    with pytest.raises(RuntimeError, match="Received: 1 changed"):
        linear_sweep_on_images(backbone(cheat=True), tinted(), tinted(), 8, rates=(1.0,), epochs=1, batch_size=16)


def test_bad_arguments_are_refused():
    for change, settings, variable in (
        ({"labels": np.full(60, -1)}, {}, "60 labels from -1 to -1"),
        ({"labels": np.arange(60)}, {}, "60 labels from 0 to 59, num_classes=3"),
        ({"features": np.zeros((60, 4))}, {}, "shapes (60, 4) and (60, 5)"),
        ({"labels": np.zeros(0, int), "features": np.zeros((0, 5))}, {}, "train.labels of shape (0,)"),
        ({}, {"rates": ()}, "rates=()"),
        ({}, {"rates": (0.0, 1.0)}, "rates=(0.0, 1.0)"),
    ):
        with pytest.raises(ValueError) as caught:
            linear_sweep(clusters()._replace(**change), clusters(), CLASSES, **settings)
        assert f"Received: {variable}" in str(caught.value)
