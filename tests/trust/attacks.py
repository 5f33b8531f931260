"""Files made to run code, read files, or exhaust memory on the machine that opens them."""

import io
import json
import zipfile

import h5py
import keras
import tensorflow as tf

SIZE = 3


def model():
    return keras.Sequential([keras.Input((SIZE,), name="images"), keras.layers.Dense(2, name="dense")])


def layer(module, name, config, **further):
    """The configuration of a layer, as in the file of a model."""
    entry = {"module": module, "class_name": name, "config": config, "registered_name": None}
    return {key: value for key, value in (entry | further).items() if value != "absent"}


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def keras_file(path, entry=None, config=None, weights=None, **members):
    """The file of `model`, with one more layer, another configuration or other weights."""
    model().save(path)
    content = members_of(path)
    described = json.loads(content["config.json"])
    if entry is not None:
        described["config"]["layers"].append(entry)
    content["config.json"] = json.dumps(described) if config is None else config
    if weights is not None:
        buffer = io.BytesIO(content["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            weights(file)
        content["model.weights.h5"] = buffer.getvalue()
    return write_archive(path, content | members)


class Served(tf.Module):
    """The endpoints of a SavedModel; `serve` applies `body` to images."""

    def __init__(self, body, resource=None):
        super().__init__()
        self.weight = tf.Variable(tf.ones((SIZE, 2)))
        self.resource = resource
        images = [tf.TensorSpec((None, SIZE), tf.float32)]
        self.serve = tf.function(lambda images: body(images) @ self.weight, input_signature=images)
        self.train = tf.function(lambda images: images @ self.weight, input_signature=images)


class Initialiser(tf.saved_model.experimental.TrackableResource):
    """A table that writes a file when it is created, which is when the SavedModel is loaded."""

    def __init__(self, path):
        super().__init__()
        self.path = str(path)

    def _create_resource(self):
        return tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.int64)

    def _initialize(self):
        tf.io.write_file(self.path, "written")


def saved_model(path, body=lambda images: images, resource=None):
    tf.saved_model.save(Served(body, resource), str(path))
    return path
