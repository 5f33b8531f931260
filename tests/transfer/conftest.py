"""An export at the path that docs/transfer.md uses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from keras_moco.export.backbone import export_backbone
from keras_moco.networks import Encoder, linear_head, resnet


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The folder for the programs: an exported encoder, and its features of the digits in `expected.npz`."""
    folder = tmp_path_factory.mktemp("elsewhere")
    digits = tf.image.resize(load_digits().images[:512, ..., None] * 255 / 16, (16, 16))
    keras.utils.set_random_seed(0)
    # Not narrower: see "narrow networks" on the page.
    backbone = resnet("resnet10", width=16, stem="cifar", input_shape=(16, 16, 1))
    encoder = Encoder(backbone, linear_head(128, 8), mean=0.3, std=0.38)
    for _ in range(3):  # moves the statistics from their initial values, so that losing them would show
        encoder(digits, training=True)
    export_backbone(encoder, folder / "runs" / "quickstart" / "export")
    stages = keras.Model(backbone.input, [backbone.get_layer(f"layer{stage}").output for stage in (2, 3, 4)])
    maps = stages(encoder.scaling(digits), training=False)
    np.savez(folder / "expected.npz", features=encoder.features(digits), P3=maps[0], P4=maps[1], P5=maps[2])
    return folder
