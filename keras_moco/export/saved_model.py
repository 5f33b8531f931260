"""Writes a backbone as a SavedModel, and reads the variables of one."""

import contextlib

import keras
import tensorflow as tf

from keras_moco.networks.shuffle_bn import batch_norm_layers


def write_saved_model(path, call, model, images):
    """Writes the endpoints `serve` (inference) and `train` of a backbone.

    Args:
        path: path of the new folder.
        call: function of images and `training` to features.
        model: `keras.Model` with the variables of `call`.
        images: `tf.TensorSpec` of the images.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    with _one_group(model):
        archive.add_endpoint("serve", lambda images: call(images, training=False), input_signature=[images])
        archive.add_endpoint("train", lambda images: call(images, training=True), input_signature=[images])
        archive.write_out(str(path), verbose=False)


@contextlib.contextmanager
def _one_group(model):
    """BatchNorm treats a batch as one group, like Keras's own, and not as in the pre-training of this model."""
    layers = batch_norm_layers(model)
    before = [(layer.synchronized, getattr(layer, "splits", 1)) for layer in layers]
    try:
        for layer in layers:
            layer.synchronized, layer.splits = False, 1
        yield
    finally:
        for layer, (synchronized, splits) in zip(layers, before, strict=True):
            layer.synchronized, layer.splits = synchronized, splits


def saved_variables(path):
    """The variables of a SavedModel of `export_backbone`, in the order of the weights of its model: a list."""
    variables = tf.saved_model.load(str(path)).variables
    return [variable for variable in variables if "seed_generator_state" not in variable.name]  # which is no weight
