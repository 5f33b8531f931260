"""Fine-tuning of a whole backbone on few images."""

import keras
import numpy as np
import pytest

from keras_moco.data import array_source
from keras_moco.evaluation import accuracy_of, fine_tune, fresh_copy, predict_labelled

CLASSES = 3


def tinted(count=60, seed=0, classes=CLASSES):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    colors = 60 + 120 * np.eye(CLASSES)[labels] + random.uniform(-40, 40, (count, 3))
    return array_source(np.broadcast_to(colors[:, None, None], (count, 10, 10, 3)), labels, tuple("abc"))


def backbone():
    images = keras.Input((None, None, 3))
    features = keras.layers.Rescaling(1 / 255)(images)
    features = keras.layers.Conv2D(8, 3, use_bias=False)(features)
    features = keras.layers.ReLU()(keras.layers.BatchNormalization()(features))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(features), name="small")


def values(model):
    return [np.array(weight) for weight in model.weights]


def test_every_variable_moves_and_the_classes_are_found():
    network, history = backbone(), keras.callbacks.History()
    before = values(network)
    settings = {"epochs": 12, "batch_size": 16, "base_learning_rate": 1.0, "crop_scale": (0.5, 1.0)}
    classifier = fine_tune(network, tinted(), 8, callbacks=[history], **settings)
    assert all(np.any(new != old) for new, old in zip(values(network), before, strict=True))
    assert history.history["loss"][-1] < 0.3 * history.history["loss"][0]
    scores, labels = predict_labelled(classifier, tinted(seed=1), 8)
    np.testing.assert_array_equal(labels, np.arange(60) % CLASSES)
    assert accuracy_of(scores, labels).top1 > 90


@pytest.mark.slow
def test_training_is_reproducible_by_seed():
    start = values(backbone())

    def trained(seed):
        network = backbone()
        network.set_weights(start)
        network.layers[2].trainable = False  # which stays as it is
        model = fine_tune(network, tinted(), 8, epochs=1, batch_size=16, base_learning_rate=1.0, seed=seed)
        np.testing.assert_array_equal(network.layers[2].kernel, start[0])
        return np.concatenate([np.ravel(weight) for weight in model.weights])

    one, again, other = trained(0), trained(0), trained(1)
    np.testing.assert_allclose(one, again, atol=1e-5)  # sums of several threads have no fixed order
    assert np.abs(one - other).max() > 1e-3


def test_a_batch_is_no_larger_than_the_number_of_images():
    steps = []
    counting = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    fine_tune(backbone(), tinted(9), 8, epochs=2, callbacks=[counting])
    assert len(steps) == 2


def test_every_class_must_occur():
    with pytest.raises(ValueError, match=r"Received: 3 classes, and no image of 1 of them \(2\)"):
        fine_tune(backbone(), tinted(classes=2), 8)


def test_a_fresh_copy_is_the_same_network_with_other_weights():
    keras.utils.set_random_seed(2)
    network = backbone()
    fresh, again, other = (fresh_copy(network, seed) for seed in (0, 0, 1))
    assert [weight.shape for weight in fresh.weights] == [weight.shape for weight in network.weights]
    assert all(np.array_equal(a, b) for a, b in zip(values(fresh), values(again), strict=True))
    kernel, old, another = (values(model)[0] for model in (fresh, network, other))
    assert not np.array_equal(kernel, old) and not np.array_equal(kernel, another)
