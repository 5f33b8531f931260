"""Export of a trained backbone for use without this package."""

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import tree

from keras_moco.errors import UserError, UserOSError
from keras_moco.layers import SplitBatchNormalization
from keras_moco.layers.nested import nested_layers
from keras_moco.networks import Encoder
from keras_moco.networks.shuffle_bn import batch_norm_layers
from keras_moco.storage.locks import locked
from keras_moco.storage.paths import user_path

__all__ = ["export_backbone", "standalone_backbone"]

SAVED_MODEL = "saved_model"
KERAS_FILE = "backbone.keras"


class NotStockError(UserError):
    """A backbone holds what is not Keras's own, so that a `.keras` file of it could not be loaded elsewhere.

    Attributes:
        what: str, what that is.
    """

    def __init__(self, what):
        super().__init__(
            "The backbone must be a functional or sequential model of stock Keras layers to be loaded anywhere. "
            f"Received: {what}. Replace it by layers of `keras.layers`, or use the SavedModel of `export_backbone`."
        )
        self.what = what


def export_backbone(encoder, directory):
    """Writes a backbone as a SavedModel and, where it consists of stock Keras layers, as a `.keras` file.

    Neither needs this package. Both take float32 images `(n, H, W, C)` with values in 0..255, the scaling being part of
    the model, and give pooled features `(n, F)` in float32, whatever precision the model was trained in. `H` and `W`
    are free where the backbone allows it, otherwise as in `encoder.image_shape`. The projection head is left out:
    features transfer better from before it (Chen et al. 2020, sec. 4.2).

    `directory/saved_model` has the endpoints `serve` (inference; also the signature `serving_default`) and
    `train` (BatchNormalization with batch statistics, and moving statistics that follow), and lists
    `variables`, `trainable_variables` and `non_trainable_variables`. `directory/backbone.keras` consists of
    stock Keras layers: `SplitBatchNormalization` becomes `keras.layers.BatchNormalization` with the same
    weights.

    Of a backbone with other layers or functions, or of a subclass of `keras.Model`, there is the SavedModel alone: a
    warning says so, an older `backbone.keras` goes, and precision, image size and frozen layers are as they stand.

    An existing export is replaced only when the new one is complete; other files in `directory` stay.

    Args:
        encoder: `Encoder`, such as `model.encoder`; or a `keras.Model` from images to features without a head, such as
            an exported backbone, which is written as it is.
        directory: path, created if missing.

    Returns:
        `pathlib.Path` of `directory`.

    Raises:
        ValueError: if a model without a head does not take one batch of images, of a known shape.
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
    directory = user_path(directory)
    found = _exportable(encoder)
    if found.stock is None:
        warnings.warn(
            f"{KERAS_FILE} is left out, since no program without {found.foreign} could load it. "
            f"{directory / SAVED_MODEL} needs nothing but TensorFlow.",
            stacklevel=2,
        )
    directory.mkdir(parents=True, exist_ok=True)
    # One process at a time: SavedModel and `.keras` file are of one backbone, and what lies there half-written is of a
    # process that was killed.
    with locked(directory / "export") as held:
        for left in directory.glob(".export-*") if held else ():
            shutil.rmtree(left)
        try:
            _write(found, directory)
        except tf.errors.OpError as error:
            raise UserOSError(f"The backbone could not be written to {directory}: {error.message}") from error
    return directory


def _write(found, directory):
    # On the same disk as the result, so that what is complete is moved by renaming alone.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as temporary:
        new = Path(temporary)
        _write_saved_model(found, new / SAVED_MODEL)
        if found.stock is not None:
            found.stock.save(new / KERAS_FILE)
        _replace(new / SAVED_MODEL, directory / SAVED_MODEL, new / "replaced")
        if found.stock is None:
            (directory / KERAS_FILE).unlink(missing_ok=True)
        else:
            (new / KERAS_FILE).replace(directory / KERAS_FILE)


def saved_variables(path):
    """The variables of a SavedModel of `export_backbone`, in the order of the weights of its model: a list."""
    variables = tf.saved_model.load(str(path)).variables
    return [variable for variable in variables if "seed_generator_state" not in variable.name]  # which is no weight


class _Exportable(NamedTuple):
    """What is written of a backbone.

    Attributes:
        call: function of images and `training`.
        tracked: model, which holds the variables.
        images: `tf.TensorSpec`.
        stock: the model for a `.keras` file, or `None`.
        foreign: str, what keeps it from being one.
    """

    call: Callable
    tracked: keras.Model
    images: tf.TensorSpec
    stock: keras.Model | None = None
    foreign: str = ""


def _exportable(encoder):
    if isinstance(encoder, Encoder):
        try:
            model = standalone_backbone(encoder)
        except NotStockError as error:
            images = tf.TensorSpec((None, *encoder.image_shape), tf.float32, name="images")
            return _Exportable(encoder.features, encoder.backbone, images, foreign=error.what)
        return _Exportable(model, model, tf.TensorSpec(model.input_shape, tf.float32, name="images"), model)
    shape = getattr(encoder, "input_shape", None)  # which a subclass of `keras.Model` need not have
    if not (isinstance(shape, tuple) and len(shape) == 4):
        raise UserError(
            "A backbone without a head must take one batch of images (n, H, W, C), of a shape that is known. "
            f"Received: {type(encoder).__name__} of input shape {shape}. Build it with `keras.Model(inputs, outputs)`."
        )
    if not getattr(encoder, "inputs", None):
        images = tf.TensorSpec(shape, tf.float32, name="images")
        return _Exportable(encoder, encoder, images, foreign=_named(encoder))
    # The same layers, without what the model was compiled with.
    model = keras.Model(encoder.inputs[0], encoder.outputs[0], name=encoder.name)
    images = tf.TensorSpec(shape, encoder.inputs[0].dtype, name="images")
    foreign = _foreign(model)
    return _Exportable(encoder, encoder, images, None if foreign else model, foreign)


def standalone_backbone(encoder):
    """Rebuilds scaling, backbone and pooling of an encoder as one functional model of stock Keras layers.

    Args:
        encoder: `Encoder`, as for `export_backbone`.

    Returns:
        A float32, trainable `keras.Model` named after the backbone, with copies of its weights, from images
        `(n, H, W, C)` in 0..255 to `(n, F)`.

    Raises:
        ValueError: `NotStockError`, if the backbone cannot be rebuilt from stock Keras layers.

    Example:

    >>> from keras_moco.networks import resnet
    >>> from keras_moco.networks import Encoder, linear_head
    >>> encoder = Encoder(resnet("resnet10", width=4), linear_head(32))
    >>> standalone_backbone(encoder).output_shape
    (None, 32)
    """
    if not hasattr(encoder.backbone, "inputs"):
        raise NotStockError(_named(encoder.backbone))
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # inputs and models have a dtype too
    try:
        model = _rebuild(encoder, (None, None, encoder.image_shape[-1]))
    except NotStockError:
        raise
    except (ValueError, TypeError):
        if encoder.image_shape[:2] == (None, None):
            raise
        # Flattening or position embeddings tie the backbone to one image size.
        model = _rebuild(encoder, encoder.image_shape)
    finally:
        keras.config.set_dtype_policy(policy)
    if foreign := _foreign(model):
        raise NotStockError(foreign)
    return model


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
            if hasattr(stock, "finalize_state"):  # `Normalization` computes with constants that it makes of its weights
                stock.finalize_state()
    return keras.Model(images, _stock_copy(encoder.pool)(copy.outputs[0]), name=encoder.backbone.name)


def _stock_copy(layer):
    """The same layer with new weights, in float32."""
    split = isinstance(layer, SplitBatchNormalization)
    if not split and (foreign := _foreign(layer)):
        raise NotStockError(foreign)
    config = layer.get_config()
    if isinstance(layer, keras.Layer):
        # What is frozen here need not be frozen for whoever fine-tunes it.
        new = {"dtype": "float32", "trainable": True}
        config |= {name: value for name, value in new.items() if name in config}
    if isinstance(layer, keras.layers.BatchNormalization):
        config.pop("splits", None)
        config["synchronized"] = False  # a matter of how it was trained
    return (keras.layers.BatchNormalization if split else type(layer)).from_config(config)


def _is_stock(layer):
    """Whether every program with Keras can load this layer; the content of layers in it aside."""
    alone = not isinstance(layer, keras.layers.Lambda | keras.layers.TFSMLayer)  # else code, or a folder elsewhere
    return type(layer).__module__.startswith("keras.") and alone


def _named(layer):
    return f"layer {layer.name!r} of class {type(layer).__name__}"


def _foreign(layer):
    """What in a layer or model is not Keras's own, in words; empty if there is nothing."""
    # Also those within wrappers and cells. Operations between layers have none.
    for each in nested_layers(layer) if isinstance(layer, keras.Layer) else [layer]:
        if not _is_stock(each):
            return _named(each)
    # Activations, initializers, regularizers.
    name = next(_foreign_names(layer.get_config()), None)
    return repr(name) if name else ""


def _foreign_names(config):
    """Names of the classes and functions in a configuration that are not Keras's own."""
    if isinstance(config, dict):
        name = config.get("class_name")
        is_keras = (config.get("module") or "").partition(".")[0] == "keras"
        if name == "__lambda__" or name and config.get("registered_name") and not is_keras:
            yield config["config"] if name == "function" else name
    if isinstance(config, dict | list | tuple):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _foreign_names(value)


def _write_saved_model(found, path):
    archive = keras.export.ExportArchive()
    archive.track(found.tracked)
    call, images = found.call, [found.images]
    with _one_group(found.tracked):
        archive.add_endpoint("serve", lambda images: call(images, training=False), input_signature=images)
        archive.add_endpoint("train", lambda images: call(images, training=True), input_signature=images)
        archive.write_out(str(path), verbose=False)


@contextlib.contextmanager
def _one_group(model):
    """Has BatchNorm see a batch as one group, as Keras's own does, and not as the training of this model did."""
    layers = batch_norm_layers(model)
    before = [(layer.synchronized, getattr(layer, "splits", 1)) for layer in layers]
    try:
        for layer in layers:
            layer.synchronized, layer.splits = False, 1
        yield
    finally:
        for layer, (synchronized, splits) in zip(layers, before, strict=True):
            layer.synchronized, layer.splits = synchronized, splits


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
