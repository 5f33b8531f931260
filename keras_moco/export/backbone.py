"""Exports a backbone: which files are written, and how they replace those of an earlier export."""

import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_moco.errors import UserError, UserOSError
from keras_moco.export.saved_model import write_saved_model
from keras_moco.export.standalone import NotStockError, describe, foreign_part, standalone_backbone
from keras_moco.networks import Encoder
from keras_moco.networks.raw_values import Limits, from_raw_values
from keras_moco.storage.locks import locked
from keras_moco.storage.paths import StrPath, user_path

SAVED_MODEL = "saved_model"
KERAS_FILE = "backbone.keras"


def export_backbone(encoder: keras.Model, directory: StrPath, value_range: Limits | None = None) -> Path:
    """Writes a backbone as a SavedModel and, where it consists of stock Keras layers, as a `.keras` file.

    Neither file needs this package. Both models take float32 images `(n, H, W, C)` with values in 0..255, since the
    scaling is part of the model, and return pooled features `(n, F)` in float32, whatever precision the model was
    trained in. `H` and `W` are free where the backbone allows it, otherwise as in `encoder.image_shape`. The projection
    head is skipped: the features before it transfer better (Chen et al. 2020, sec. 4.2).

    `directory/saved_model` has the endpoints `serve` (inference; also the signature `serving_default`) and
    `train` (BatchNormalization with batch statistics, and moving statistics that are updated), and lists
    `variables`, `trainable_variables` and `non_trainable_variables`. `directory/backbone.keras` consists of
    stock Keras layers: `SplitBatchNormalization` becomes `keras.layers.BatchNormalization` with the same
    weights.

    A backbone with other layers or functions, or a subclass of `keras.Model`, is written as a SavedModel alone. A
    warning says so, an older `backbone.keras` is deleted, and precision, image size and frozen layers stay as they are.

    An existing export is replaced only when the new one is complete; other files in `directory` stay.

    Args:
        encoder: `Encoder`, such as `model.encoder`; or a `keras.Model` from images to features without a head, such as
            an exported backbone, which is written unchanged.
        directory: path of the folder, created if missing.
        value_range: `(low, high)`, the values of image files that became 0..255 in training, each a float or a tuple of
            one for each channel: the exported models take images with these raw values, and scale and clip them
            themselves. Defaults to `None`: they take 0..255.

    Returns:
        `pathlib.Path` of `directory`.

    Raises:
        ValueError: if a model without a head does not take one batch of images, of a known shape.
        OSError: if the files cannot be written; an earlier export stays.

    Example:

    ```python
    export_backbone(model.encoder, "export")

    # In any other program:
    backbone = keras.models.load_model("export/backbone.keras")
    classifier = keras.Sequential([backbone, keras.layers.Dense(10)])

    # Or with TensorFlow alone:
    backbone = tf.saved_model.load("export/saved_model")
    features = backbone.serve(images)
    ```
    """
    directory = user_path(directory)
    found = _exportable(encoder, value_range)
    if found.stock is None:
        warnings.warn(
            f"{KERAS_FILE} is not written, since no program without {found.foreign} could load it. "
            f"{directory / SAVED_MODEL} needs only TensorFlow.",
            stacklevel=2,
        )
    directory.mkdir(parents=True, exist_ok=True)
    # One process at a time, so that SavedModel and `.keras` file are of the same backbone. Incomplete exports that are
    # found then belong to a process that was killed.
    with locked(directory / "export") as held:
        for incomplete in directory.glob(".export-*") if held else ():
            shutil.rmtree(incomplete)
        try:
            _write(found, directory)
        except tf.errors.OpError as error:
            raise UserOSError(f"The backbone could not be written to {directory}: {error.message}") from error
    return directory


class _Exportable(NamedTuple):
    """A backbone as it is exported."""

    call: Callable  # of images and `training`
    tracked: keras.Model  # which holds the variables
    images: tf.TensorSpec
    stock: keras.Model | None = None  # for a `.keras` file; `None` if other programs could not load it
    foreign: str = ""  # the part that they could not load


def _exportable(encoder, value_range):
    if isinstance(encoder, Encoder):
        try:
            model = standalone_backbone(encoder, value_range)
        except NotStockError as error:
            images = tf.TensorSpec((None, *encoder.image_shape), tf.float32, name="images")
            features = encoder.features
            if value_range:

                def features(values, training=False):
                    return encoder.features(from_raw_values(values, value_range), training=training)

            return _Exportable(features, encoder.backbone, images, foreign=error.what)
        return _Exportable(model, model, tf.TensorSpec(model.input_shape, tf.float32, name="images"), model)
    shape = getattr(encoder, "input_shape", None)  # which a subclass of `keras.Model` need not have
    if not (isinstance(shape, tuple) and len(shape) == 4):
        raise UserError(
            "A backbone without a head must take one batch of images (n, H, W, C), of a shape that is known. "
            f"Received: {type(encoder).__name__} of input shape {shape}. Build it with `keras.Model(inputs, outputs)`."
        )
    if not getattr(encoder, "inputs", None):
        images = tf.TensorSpec(shape, tf.float32, name="images")
        return _Exportable(encoder, encoder, images, foreign=describe(encoder))
    # The same layers, without the settings that the model was compiled with.
    model = keras.Model(encoder.inputs[0], encoder.outputs[0], name=encoder.name)
    images = tf.TensorSpec(shape, encoder.inputs[0].dtype, name="images")
    foreign = foreign_part(model)
    return _Exportable(encoder, encoder, images, None if foreign else model, foreign)


def _write(found, directory):
    # On the same disk as the result, so that complete files are moved by renaming alone.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as temporary:
        new = Path(temporary)
        write_saved_model(new / SAVED_MODEL, found.call, found.tracked, found.images)
        if found.stock is not None:
            found.stock.save(new / KERAS_FILE)
        _replace(new / SAVED_MODEL, directory / SAVED_MODEL, new / "replaced")
        if found.stock is None:
            (directory / KERAS_FILE).unlink(missing_ok=True)
        else:
            (new / KERAS_FILE).replace(directory / KERAS_FILE)


def _replace(new, target, old):
    """Replaces the directory `target` by `new`. A directory, unlike a file, must be moved away first, to `old`."""
    if target.exists():
        target.replace(old)
    try:
        new.replace(target)
    except BaseException:
        if old.exists():
            old.replace(target)
        raise
