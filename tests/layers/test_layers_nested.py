"""Layers are found wherever a model or a layer keeps them."""

import keras
from keras import layers

from keras_moco.layers.nested import nested_layers


class Block(layers.Layer):
    def __init__(self):
        super().__init__(name="block")
        self.norm = layers.BatchNormalization(name="norm")
        self.branches = [layers.Dense(2, name="first"), {"key": layers.Dense(2, name="second")}]


def test_layers_in_attributes_lists_and_models_are_found():
    inner = keras.Sequential([layers.Dense(3, name="dense"), Block()], name="inner")
    images = keras.Input((3,), name="images")
    model = keras.Model(images, inner.layers[0](images), name="outer")
    model.inner = inner
    names = [layer.name for layer in nested_layers(model)]
    assert names[0] == "outer"
    assert sorted(set(names)) == ["block", "dense", "first", "images", "inner", "norm", "outer", "second"]
