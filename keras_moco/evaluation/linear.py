"""The authors' linear evaluation: linear classifiers on frozen features by SGD, for several learning rates at once."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_moco.augment import supervised
from keras_moco.data import steps_per_epoch, subset
from keras_moco.data.source import Source
from keras_moco.errors import UserError
from keras_moco.evaluation.accuracy import Accuracy, accuracy_of, in_words, rounded
from keras_moco.evaluation.features import IMAGE_SETTINGS, Features, extract_features
from keras_moco.evaluation.guard import frozen
from keras_moco.evaluation.labelled import check_labels, fit_labelled, fit_verbosity, held_out_tenth, predict_labelled
from keras_moco.evaluation.linear_heads import LinearHeads
from keras_moco.evaluation.plots import draw_confusion
from keras_moco.evaluation.unfinished import Unfinished, delete_outdated, unfinished_run
from keras_moco.optimizers import SGD
from keras_moco.optimizers.schedules import learning_rate

SETTINGS = (*IMAGE_SETTINGS, "features", "linear_on", "rates", "epochs", "crop_min_area", "seed", "pictures")
RATES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def run(target):
    """`evaluate.py linear`: linear classifiers by SGD, as the authors train them, at several learning rates at once."""
    config = target.config
    unused = {"images": "features", "features": "crop_min_area"}[config.linear_on]
    if unused in config.changed():
        raise UserError(
            f"`{unused}` must not be given with linear_on={config.linear_on}, which does not use it. "
            f"Received: {unused}={getattr(config, unused)}. Omit --{unused}, or change --linear_on."
        )
    train, test = target.labelled()
    settings = {"rates": config.rates, "epochs": config.epochs or 100, "batch_size": config.batch_size}
    settings |= {"seed": config.seed, "verbose": fit_verbosity()}
    delete_outdated(target, "linear")
    unfinished = unfinished_run(target, "linear") if config.linear_on == "images" else None
    if config.linear_on == "features":
        with frozen(target.encoder):
            features = (extract_features(target.features, target.dataset_of(split)) for split in (train, test))
            sweep = linear_sweep(*features, num_classes=train.num_classes, **settings)
    else:
        settings |= {"crop_scale": (config.crop_min_area, 1.0), "unfinished": unfinished}
        sweep = linear_sweep_on_images(target.backbone(), train, test, target.image_size, **settings)
    for rate, accuracy in sweep.tests.items():
        chosen = f", {sweep.held_out[rate]:.2f} % held out" if sweep.held_out else ""
        print(f"linear, learning rate {rate:g}: {in_words(accuracy)}{chosen}")
    print(f"linear: top-1 {sweep.accuracy.top1:.2f} % (learning rate {sweep.rate:g}); no bit of the encoder changed")
    target.output.record(
        linear_top1=round(sweep.accuracy.top1, 2),
        linear_top5=round(sweep.accuracy.top5, 2),
        linear_rate=sweep.rate,
        linear_on=config.linear_on,
        linear_epochs=settings["epochs"],
        linear_rates={f"{rate:g}": rounded(accuracy) for rate, accuracy in sweep.tests.items()},
    )
    if unfinished:
        unfinished.delete()
    if config.pictures:
        path = target.output.path_of("confusion_linear.png")
        draw_confusion(path, sweep.labels, sweep.predicted, train.class_names)


class LinearSweep(NamedTuple):
    """Linear classifiers that differ only in the learning rate.

    Attributes:
        rate: float, the chosen learning rate for 256 images per step.
        accuracy: `Accuracy` of its classifier on the test images.
        predicted: int array `(n,)`, its class for each test image.
        labels: int array `(n,)`, their true classes.
        tests: dict of each rate to the `Accuracy` of its classifier on the test images.
        held_out: dict of each rate to the top-1 accuracy on held-out images, in percent, by which the best rate was
            chosen; empty for a single rate.
    """

    rate: float
    accuracy: Accuracy
    predicted: np.ndarray
    labels: np.ndarray
    tests: dict[float, Accuracy]
    held_out: dict[float, float]


class _FeaturesOf(keras.layers.Layer):
    """Features of a network that Keras does not find in the model: not trained, and its `trainable` flags stay."""

    def __init__(self, backbone):
        super().__init__(dtype="float32")  # half precision would round the images
        self.embed = functools.partial(backbone, training=False)  # in which Keras finds no layer

    def call(self, images):
        return ops.stop_gradient(self.embed(images))


def linear_sweep(
    train: Features,
    test: Features,
    num_classes: int,
    rates: Sequence[float] = RATES,
    epochs: int = 100,
    batch_size: int = 256,
    seed: int = 0,
    verbose: int | str = 0,
) -> LinearSweep:
    """The authors' protocol on features that are already extracted: fast, but without augmentation.

    SGD with momentum 0.9 and without weight decay, for 100 epochs; the learning rate is divided by 10 after 60 % and
    after 80 % of them (official `main_lincls.py`, whose rate is 30). Several rates are trained at once, and the best is
    chosen on a held-out tenth of the training features; a single rate is trained on all features.

    Args:
        train: `Features` to train on.
        test: `Features` to score.
        num_classes: int.
        rates: learning rates for 256 images per step, scaled linearly with `batch_size`.
        epochs: int.
        batch_size: int.
        seed: int, the random seed of initial weights, data order and held-out tenth; sets Keras's global seed.
        verbose: as for `keras.Model.fit`.

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
    if train.features.ndim != 2 or train.features.shape[1:] != test.features.shape[1:]:
        raise UserError(
            "Training and test features must be matrices of the same width, (m, F) and (n, F). "
            f"Received: shapes {train.features.shape} and {test.features.shape}. Take both from the same encoder."
        )
    check_labels("train.labels", train.labels, num_classes)
    check_labels("test.labels", test.labels, num_classes)
    rest, held_out = _split(len(train.labels), rates, seed)
    keras.utils.set_random_seed(seed)  # by which `fit` shuffles arrays
    heads = LinearHeads(num_classes, len(rates), seed)
    model = keras.Sequential([keras.Input(train.features.shape[1:]), heads])
    part = train.features[rest], train.labels[rest]
    _compile(model, rates, epochs, math.ceil(len(rest) / batch_size), batch_size)
    model.fit(*part, batch_size=batch_size, epochs=epochs, verbose=verbose)
    held_out_logits = model.predict(train.features[held_out], verbose=0) if len(held_out) else None
    test_logits = model.predict(test.features, verbose=0)
    return _judged(rates, held_out_logits, train.labels[held_out], test_logits, test.labels)


def linear_sweep_on_images(
    backbone: keras.Model,
    train: Source,
    test: Source,
    image_size: int,
    rates: Sequence[float] = RATES,
    epochs: int = 100,
    batch_size: int = 256,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = 0,
    unfinished: Unfinished | None = None,
) -> LinearSweep:
    """The authors' protocol (MoCo v1, sec. 4.1; official `main_lincls.py`): as `linear_sweep`, on augmented images.

    Training images are cropped and flipped at random, test images resized and cropped at the centre. The backbone is in
    inference mode throughout, so BatchNorm's statistics stay, and it is guarded by `frozen`. The last incomplete batch
    of an epoch is skipped; the authors' code trains on it.

    Args:
        backbone: `keras.Model` from images `(n, H, W, C)` in 0..255 to features `(n, F)`.
        train: labelled `Source` to train on.
        test: labelled `Source` to score.
        image_size: int, pixels.
        rates, epochs, batch_size, verbose: as for `linear_sweep`.
        crop_scale: (low, high). Range of the crops' area as a fraction of the image's.
        seed: int, the random seed of initial weights, data order, crops and held-out tenth.
        callbacks: as for `keras.Model.fit`.
        unfinished: `keras_moco.evaluation.unfinished.Unfinished`, from which an interrupted run resumes. Defaults to
            `None`: it starts from the beginning.

    Returns:
        `LinearSweep`.

    Raises:
        RuntimeError: if a variable of the backbone changes.
        ValueError: as `linear_sweep`.
    """
    labels, known = train.known_labels()
    check_labels("train.labels", labels, train.num_classes)
    rest, held_out = _split(len(labels), rates, seed)
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
        chosen: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
        if len(held_out):
            chosen = predict_labelled(model, subset(train, known[held_out]), image_size)
        return _judged(rates, *chosen, *predict_labelled(model, test, image_size))


def _split(count, rates, seed):
    """Indices of the training images, and of those held out to choose among several rates."""
    if len(rates) == 0 or min(rates) <= 0:
        raise UserError(f"`rates` must be positive numbers. Received: rates={rates}. The authors use 30.")
    held_out, rest = held_out_tenth(count, seed)
    return (rest, held_out) if len(rates) > 1 else (np.concatenate([held_out, rest]), held_out[:0])


def _compile(model, rates, epochs, steps, batch_size):
    """Trains every head at its own rate: the head's loss is weighted by it, and SGD's learning rate is 1, 0.1, 0.01.

    SGD without weight decay is linear in the gradients, so this is SGD at `rate`, `rate / 10`, `rate / 100`, with
    Keras's own optimizer; the loss that `fit` shows stays the mean over heads.
    """
    scaled = (np.array(rates) * batch_size / 256).astype("float32")

    def loss(labels, logits):
        labels = ops.broadcast_to(ops.reshape(labels, (-1, 1)), ops.shape(logits)[:2])
        each = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)  # (n, H)
        shown = ops.stop_gradient(each)
        # The value is the mean over heads, the gradient that of the weighted sum.
        return ops.mean(shown, axis=1) + ops.sum(scaled * (each - shown), axis=1)

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
