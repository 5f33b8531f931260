"""Training and prediction on images with labels, and the check of the labels."""

import math
import sys

import keras
import numpy as np
from keras import ops

from keras_moco.data import evaluation_dataset, labelled_dataset, steps_per_epoch
from keras_moco.data.source import Source
from keras_moco.errors import UserError


def check_labels(name, labels, num_classes=None, shape=None, every_class=False):
    """Labels as an array, once they are known to be classes.

    Args:
        name: str, the name of the labels in the message.
        labels: integers; -1 marks an image without a label.
        num_classes: int. Defaults to `None`: any number of classes.
        shape: tuple, the shape that labels must have. Defaults to `None`: any `(n,)` with `n` of at least 1.
        every_class: bool, whether every class must occur. Defaults to `False`.

    Returns:
        The array of labels.

    Raises:
        ValueError: if the shape is another one, or labels are out of range, or a class is missing.
    """
    labels = np.asarray(labels)
    if labels.shape != shape if shape is not None else labels.ndim != 1 or not len(labels):
        wanted = "at least one label" if shape is None else f"labels of shape {shape}"
        raise UserError(
            f"`{name}` must hold {wanted}, one per image. Received: {name} of shape {labels.shape}. "
            "Take labels and images from the same data, in the same order."
        )
    if labels.size and (labels.min() < 0 or labels.max() >= (np.inf if num_classes is None else num_classes)):
        raise UserError(
            f"`{name}` must be numbers of classes in [0, num_classes). Received: {labels.size} labels from "
            f"{labels.min()} to {labels.max()}, num_classes={num_classes}. Label -1 marks an image without a label, "
            "which cannot be used here."
        )
    missing = sorted(set(range(num_classes)) - set(labels.tolist())) if every_class else []
    if missing:
        raise UserError(
            f"Every class must occur in `{name}`, or the classifier never learns it. "
            f"Received: {num_classes} classes, and no image of {len(missing)} of them "
            f"({', '.join(map(str, missing[:10]))}{', ...' if len(missing) > 10 else ''}). "
            "Add images, or remove those classes."
        )
    return labels


def held_out_tenth(count, seed):
    """Random indices of a tenth of `count` images, and of the others."""
    return np.split(np.random.default_rng(seed).permutation(count), [math.ceil(0.1 * count)])


def fit_labelled(model, source, augmentation, batch_size, epochs, seed, callbacks=(), verbose=0, unfinished=None):
    """Trains a compiled model, whose optimizer is built, on augmented images with their labels.

    Args:
        model: `keras.Model` from images to logits.
        source: labelled `Source`.
        augmentation, batch_size, seed: as for `keras_moco.data.labelled_dataset`.
        epochs: int.
        callbacks, verbose: as for `keras.Model.fit`.
        unfinished: `Unfinished`, from which an interrupted training run resumes. Defaults to `None`.
    """
    done = unfinished.restore(model, source) if unfinished else 0
    if done >= epochs:
        return
    model.fit(
        labelled_dataset(source, augmentation, batch_size, seed, first_epoch=done),
        steps_per_epoch=steps_per_epoch(source, batch_size),
        initial_epoch=done,
        epochs=epochs,
        callbacks=[*callbacks, *filter(None, [unfinished])],
        verbose=verbose,
        shuffle=False,
    )


def fit_verbosity():
    """The `verbose` argument of `fit`: a progress bar on a terminal, a line per epoch elsewhere."""
    return "auto" if sys.stdout.isatty() else 2


def predict_labelled(model: keras.Model, source: Source, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of a model for all images of a source, without augmentation.

    Args:
        model: `keras.Model` from images in 0..255.
        source: labelled `Source`.
        image_size: int, pixels.

    Returns:
        `(outputs, labels)`: arrays `(n, ...)` and `(n,)`, without images that cannot be read.
    """
    outputs, labels = [], []
    for batch in evaluation_dataset(source, image_size):
        outputs.append(ops.convert_to_numpy(model.predict_on_batch(batch["image"])))
        labels.append(batch["label"].numpy())
    return np.concatenate(outputs), np.concatenate(labels)
