"""Export of a trained backbone for use without this package."""

import shutil
import tempfile
from pathlib import Path

import keras
import tensorflow as tf
from keras import tree

from keras_moco.errors import UserError, UserOSError
from keras_moco.layers import SplitBatchNormalization

__all__ = ["export_backbone", "standalone_backbone"]

SAVED_MODEL = "saved_model"
KERAS_FILE = "backbone.keras"


def export_backbone(encoder, directory):
    """Writes the backbone of an encoder as a SavedModel and as a `.keras` file; neither needs this package.

    Both take float32 images `(n, H, W, C)` with values in 0..255, the scaling being part of the model, and
    give pooled features `(n, F)` in float32, whatever precision the model was trained in. `H` and `W` are
    free where the backbone allows it, otherwise as in `encoder.image_shape`. The projection head is left out:
    features transfer better from before it (Chen et al. 2020, sec. 4.2).

    `directory/saved_model` has the endpoints `serve` (inference; also the signature `serving_default`) and
    `train` (BatchNormalization with batch statistics, and moving statistics that follow), and lists
    `variables`, `trainable_variables` and `non_trainable_variables`. `directory/backbone.keras` consists of
    stock Keras layers: `SplitBatchNormalization` becomes `keras.layers.BatchNormalization` with the same
    weights.

    An existing export is replaced only when the new one is complete; other files in `directory` stay.

    Args:
        encoder: `Encoder`, such as `model.encoder`. Its backbone must be a functional or sequential model of
            stock Keras layers and `SplitBatchNormalization`.
        directory: path, created if missing.

    Returns:
        `pathlib.Path` of `directory`.

    Raises:
        ValueError: if the backbone cannot be rebuilt from stock Keras layers.
        OSError: if it cannot be written; what was there before stays.

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
    directory = Path(directory)
    model = standalone_backbone(encoder)
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(".export-*"):  # of a process that was killed
        shutil.rmtree(left)
    try:
        # On the same disk as the result, so that what is complete is moved by renaming alone.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as temporary:
            new = Path(temporary)
            _write_saved_model(model, new / SAVED_MODEL)
            model.save(new / KERAS_FILE)
            _replace(new / SAVED_MODEL, directory / SAVED_MODEL, new / "replaced")
            (new / KERAS_FILE).replace(directory / KERAS_FILE)
    except tf.errors.OpError as error:
        raise UserOSError(f"The backbone could not be written to {directory}: {error.message}") from error
    return directory


def standalone_backbone(encoder):
    """Rebuilds scaling, backbone and pooling of an encoder as one functional model of stock Keras layers.

    Args:
        encoder: `Encoder`, as for `export_backbone`.

    Returns:
        A float32, trainable `keras.Model` named after the backbone, with copies of its weights, from images
        `(n, H, W, C)` in 0..255 to `(n, F)`.

    Raises:
        ValueError: if the backbone cannot be rebuilt from stock Keras layers.

    Example:

    >>> from keras_moco.backbones import resnet
    >>> from keras_moco.models import Encoder, linear_head
    >>> encoder = Encoder(resnet("resnet10", width=4), linear_head(32))
    >>> standalone_backbone(encoder).output_shape
    (None, 32)
    """
    if not hasattr(encoder.backbone, "inputs"):
        raise UserError(
            "The backbone must be a functional or sequential Keras model to be exported. "
            f"Received: {type(encoder.backbone).__name__}. Build it with `keras.Model(inputs, outputs)`."
        )
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # inputs and models have a dtype too
    try:
        return _rebuild(encoder, (None, None, encoder.image_shape[-1]))
    except (ValueError, TypeError):
        if encoder.image_shape[:2] == (None, None):
            raise
        # Flattening or position embeddings tie the backbone to one image size.
        return _rebuild(encoder, encoder.image_shape)
    finally:
        keras.config.set_dtype_policy(policy)


def _rebuild(encoder, image_shape):
    images = keras.Input(image_shape, name="images")
    scaling = encoder.scaling
    # Lists, which the file says more plainly than arrays.
    scaled = keras.layers.Rescaling(scaling.scale.tolist(), scaling.offset.tolist(), name=scaling.name)(images)
    pairs = []

    def clone(layer):
        pairs.append((layer, _stock_copy(layer)))
        return pairs[-1][1]

    def call(layer, *args, **kwargs):
        # Whatever read the images reads the scaled images: one flat graph, whose feature maps are easy to
        # reach.
        args, kwargs = tree.map_structure(lambda x: scaled if x is images else x, (args, kwargs))
        return layer(*args, **kwargs)

    # A plain functional model over the same layers, whether the backbone is sequential or a subclass of its
    # own.
    graph = keras.Model(encoder.backbone.inputs, encoder.backbone.outputs)
    copy = keras.models.clone_model(graph, [images], clone_function=clone, call_function=call, recursive=True)
    for layer, stock in pairs:
        if isinstance(layer, keras.Layer):
            stock.set_weights(layer.get_weights())
    return keras.Model(images, _stock_copy(encoder.pool)(copy.outputs[0]), name=encoder.backbone.name)


def _stock_copy(layer):
    """The same layer with new weights, in float32."""
    split = isinstance(layer, SplitBatchNormalization)
    stock = type(layer).__module__.startswith("keras.") and not isinstance(layer, keras.layers.Lambda)
    if not (split or stock):
        raise UserError(
            "The backbone must consist of stock Keras layers to be exported, so that it loads anywhere. "
            f"Received: layer {layer.name!r} of class {type(layer).__name__}. "
            "Replace it by layers of `keras.layers`."
        )
    config = layer.get_config()
    if isinstance(layer, keras.Layer):
        # What is frozen here need not be frozen for whoever fine-tunes it.
        config |= {"dtype": "float32", "trainable": True}
    if split:
        del config["splits"]
        config["synchronized"] = False  # a matter of how it was trained
    return (keras.layers.BatchNormalization if split else type(layer)).from_config(config)


def _write_saved_model(model, path):
    archive = keras.export.ExportArchive()
    archive.track(model)
    images = [tf.TensorSpec(model.input_shape, tf.float32, name="images")]
    archive.add_endpoint("serve", lambda images: model(images, training=False), input_signature=images)
    archive.add_endpoint("train", lambda images: model(images, training=True), input_signature=images)
    archive.write_out(str(path), verbose=False)


def _replace(new, target, old):
    """Puts the directory `new` in the place of `target`; a directory, unlike a file, must make room first."""
    if target.exists():
        target.replace(old)
    try:
        new.replace(target)
    except BaseException:
        if old.exists():
            old.replace(target)
        raise
