"""The authors' linear evaluation: linear classifiers on frozen features by SGD, for several learning rates at once."""

import functools
import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_moco.augment import supervised
from keras_moco.data import evaluation_dataset, steps_per_epoch, subset
from keras_moco.errors import UserError
from keras_moco.evaluation.accuracy import Accuracy, accuracy_of
from keras_moco.evaluation.checks import check_labelled, check_same_width
from keras_moco.evaluation.linear import frozen
from keras_moco.evaluation.unfinished import fit_labelled
from keras_moco.optimizers import SGD
from keras_moco.optimizers.schedules import learning_rate

RATES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_HELD_OUT = 0.1


class LinearSweep(NamedTuple):
    """Linear classifiers that differ in nothing but their learning rate.

    Attributes:
        rate: float, the chosen learning rate for 256 images per step.
        accuracy: `Accuracy` of its classifier on the test images.
        predicted: int array `(n,)`, its class for each test image.
        labels: int array `(n,)`, their true classes.
        tests: dict of each rate to the `Accuracy` of its classifier on the test images.
        held_out: dict of each rate to the top-1 accuracy, in percent, by which it was chosen; empty if there is one.
    """

    rate: float
    accuracy: Accuracy
    predicted: np.ndarray
    labels: np.ndarray
    tests: dict
    held_out: dict


@keras.saving.register_keras_serializable(package="keras_moco")
class LinearHeads(keras.layers.Layer):
    """Several linear classifiers of the same features, side by side.

    All begin with the same weights, N(0, 0.01), and without biases (official `main_lincls.py`).

    Args:
        num_classes: int, `C`.
        num_heads: int, `H`.
        seed: int, of the initial weights.

    Call arguments:
        features: `(n, F)`.

    Call returns:
        Logits `(n, H, C)`.

    Example:

    >>> LinearHeads(num_classes=10, num_heads=3)(np.zeros((2, 8))).shape
    TensorShape([2, 3, 10])
    """

    def __init__(self, num_classes, num_heads, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.num_heads, self.seed = num_classes, num_heads, seed

    def build(self, shape):
        small = keras.initializers.RandomNormal(stddev=0.01, seed=self.seed)

        def alike(shape, dtype=None):
            return ops.broadcast_to(small((shape[0], 1, shape[2]), dtype), shape)

        self.kernel = self.add_weight((shape[-1], self.num_heads, self.num_classes), alike, name="kernel")
        self.bias = self.add_weight((self.num_heads, self.num_classes), "zeros", name="bias")

    def call(self, features):
        return ops.einsum("nf,fhc->nhc", features, self.kernel) + self.bias

    def compute_output_shape(self, shape):
        return (shape[0], self.num_heads, self.num_classes)

    def get_config(self):
        own = {"num_classes": self.num_classes, "num_heads": self.num_heads, "seed": self.seed}
        return {**super().get_config(), **own}


class _FeaturesOf(keras.layers.Layer):
    """Features by a network that is no part of the model: it is not trained, and what of it is trainable stays so."""

    def __init__(self, backbone):
        super().__init__(dtype="float32")  # half precision would round the images
        self.embed = functools.partial(backbone, training=False)  # in which Keras finds no layer

    def call(self, images):
        return ops.stop_gradient(self.embed(images))


def linear_sweep(train, test, num_classes, rates=RATES, epochs=100, batch_size=256, seed=0, verbose=0):
    """The authors' protocol on features that are already extracted: fast, but without augmentation.

    SGD with momentum 0.9 and no weight decay, for 100 epochs, a tenth of the learning rate from 60 % and 80 % of them
    on (official `main_lincls.py`, whose rate is 30). Several rates are trained at once. The best one is then chosen by
    a held-out tenth of the training features, which none of them is trained on; a single rate is trained on all.

    Args:
        train: `Features` to train on.
        test: `Features` to score.
        num_classes: int.
        rates: learning rates for 256 images per step, scaled linearly with `batch_size`.
        epochs: int.
        batch_size: int.
        seed: int, of initial weights, data order and held-out tenth; sets Keras's global seed.
        verbose: as of `keras.Model.fit`.

    Returns:
        `LinearSweep`.

    Raises:
        ValueError: if labels are missing or out of range, widths differ, or a rate is not positive.

    Example:

    >>> from keras_moco.evaluation import Features
    >>> data = Features(np.repeat(np.eye(2, dtype="float32"), 20, axis=0), np.repeat([0, 1], 20), np.arange(40))
    >>> linear_sweep(data, data, num_classes=2, rates=[1.0], epochs=5).accuracy.top1
    100.0
    """
    check_same_width(train, test)
    for name, features in (("train", train), ("test", test)):
        check_labelled(name, features.labels, num_classes)
    rest, held_out = _split(len(train.labels), rates, seed)
    keras.utils.set_random_seed(seed)
    heads = LinearHeads(num_classes, len(rates), seed)
    model = keras.Sequential([keras.Input(train.features.shape[1:]), heads])
    part = train.features[rest], train.labels[rest]
    _compile(model, rates, epochs, math.ceil(len(rest) / batch_size), batch_size)
    model.fit(*part, batch_size=batch_size, epochs=epochs, verbose=verbose)
    held_out_logits = model.predict(train.features[held_out], verbose=0) if len(held_out) else None
    test_logits = model.predict(test.features, verbose=0)
    return _judged(rates, held_out_logits, train.labels[held_out], test_logits, test.labels)


def linear_sweep_on_images(
    backbone,
    train,
    test,
    image_size,
    rates=RATES,
    epochs=100,
    batch_size=256,
    crop_scale=(0.08, 1.0),
    seed=0,
    callbacks=(),
    verbose=0,
    unfinished=None,
):
    """The authors' protocol (MoCo v1, sec. 4.1; official `main_lincls.py`): as `linear_sweep`, on augmented images.

    Training images are cropped at random and flipped, test images resized and cropped at the centre. The backbone is in
    inference mode throughout, so BatchNorm's statistics stay, and it is guarded by `frozen`. The last incomplete batch
    of an epoch is left out, where the authors' code trains on it.

    Args:
        backbone: `keras.Model` from images `(n, H, W, C)` in 0..255 to features `(n, F)`.
        train: labelled `Source` to train on.
        test: labelled `Source` to score.
        image_size: int, pixels.
        rates, epochs, batch_size, seed, verbose: as in `linear_sweep`.
        crop_scale: (low, high). Range of the crops' area as a fraction of the image's.
        callbacks: of `keras.Model.fit`.
        unfinished: `keras_moco.evaluation.unfinished.Unfinished`, from which an interrupted training resumes. Defaults
            to `None`: it begins anew.

    Returns:
        `LinearSweep`.

    Raises:
        RuntimeError: if a variable of the backbone changed meanwhile.
        ValueError: as `linear_sweep`.
    """
    labels, known = train.known_labels()
    check_labelled("train", labels, train.num_classes)
    rest, held_out = _split(len(labels), rates, seed)
    keras.utils.set_random_seed(seed)
    part = subset(train, known[rest])
    steps = steps_per_epoch(part, batch_size)
    with frozen(backbone):
        images = keras.Input((image_size, image_size, train.image_shape[-1]))
        heads = LinearHeads(train.num_classes, len(rates), seed)
        model = keras.Model(images, heads(_FeaturesOf(backbone)(images)))
        _compile(model, rates, epochs, steps, batch_size)
        model.optimizer.build(model.trainable_variables)
        fit_labelled(
            model,
            part,
            supervised(image_size, crop_scale=crop_scale),
            batch_size,
            epochs,
            seed,
            callbacks=callbacks,
            verbose=verbose,
            unfinished=unfinished,
        )
        chosen = predict_labelled(model, subset(train, known[held_out]), image_size) if len(held_out) else (None, None)
        return _judged(rates, *chosen, *predict_labelled(model, test, image_size))


def predict_labelled(model, source, image_size):
    """What a model says of all images of a source, without augmentation.

    Args:
        model: `keras.Model` from images in 0..255.
        source: labelled `Source`.
        image_size: int, pixels.

    Returns:
        `(outputs, labels)`: arrays `(n, ...)` and `(n,)`, unreadable images left out.
    """
    outputs, labels = [], []
    for batch in evaluation_dataset(source, image_size):
        outputs.append(ops.convert_to_numpy(model.predict_on_batch(batch["image"])))
        labels.append(batch["label"].numpy())
    return np.concatenate(outputs), np.concatenate(labels)


def _split(count, rates, seed):
    """Indices to train on, and those held out to choose among several rates."""
    if len(rates) == 0 or min(rates) <= 0:
        raise UserError(f"`rates` must be positive numbers. Received: rates={rates}. The authors' is 30.")
    order = np.random.default_rng(seed).permutation(count)
    held_out = math.ceil(_HELD_OUT * count) if len(rates) > 1 else 0
    return order[held_out:], order[:held_out]


def _compile(model, rates, epochs, steps, batch_size):
    """Gives every head its own learning rate: its gradient is multiplied by it, and SGD's own rate goes 1, 0.1, 0.01.

    As SGD without weight decay is linear in the gradients, that is SGD at `rate`, `rate / 10`, `rate / 100`.
    """
    scaled = (np.array(rates) * batch_size / 256).astype("float32")

    def loss(labels, logits):
        labels = ops.broadcast_to(ops.reshape(labels, (-1, 1)), ops.shape(logits)[:2])
        each = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)  # (n, H)
        value = ops.stop_gradient(each)  # the mean of which is shown; the rest is zero, but for its gradient
        return ops.mean(value, axis=1) + ops.sum(scaled * (each - value), axis=1)

    model.compile(SGD(learning_rate("step", 1.0, epochs, steps), momentum=0.9, weight_decay=0.0), loss=loss)


def _judged(rates, held_out_logits, held_out_labels, test_logits, test_labels):
    def each(logits, labels):
        return {rate: accuracy_of(logits[:, head], labels) for head, rate in enumerate(rates)}

    tests = each(test_logits, test_labels)
    held_out = {}
    if held_out_logits is not None:
        held_out = {rate: found.top1 for rate, found in each(held_out_logits, held_out_labels).items()}
    rate = max(held_out, key=lambda rate: held_out[rate]) if held_out else rates[0]
    predicted = test_logits[:, list(rates).index(rate)].argmax(axis=1)
    return LinearSweep(rate, tests[rate], predicted, test_labels, tests, held_out)
