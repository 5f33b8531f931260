"""The limits that docs/transfer.md lists: when one of these tests fails, that limit is gone."""

import re
from pathlib import Path

import keras
import keras_cv
import numpy as np
import pytest

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "transfer.md").read_text(encoding="utf-8")
IMAGES = np.random.default_rng(0).uniform(0, 255, (32, 16, 16, 1)).astype("float32")


@pytest.fixture
def export(folder):
    return folder / "runs" / "quickstart" / "export"


def shown(message):
    """An error message, which the page must show: a pattern."""
    assert f"`{message}`" in " ".join(PAGE.split())
    return re.escape(message)


def layer(export, **kwargs):
    return keras.layers.TFSMLayer(str(export / "saved_model"), call_endpoint="serve", **kwargs)


def classifier(backbone):
    return keras.Sequential([keras.Input((16, 16, 1)), backbone, keras.layers.Dense(10)])


def moved_by_training_mode(backbone):
    """The number of variables that a call in training mode changes."""
    before = [np.array(variable.value) for variable in backbone.variables]
    backbone(IMAGES, training=True)
    return sum(np.any(variable.value != old) for variable, old in zip(backbone.variables, before, strict=True))


def test_statistics_follow_only_the_train_endpoint(export):
    plain = layer(export, trainable=True)
    np.testing.assert_array_equal(plain(IMAGES, training=True), plain(IMAGES, training=False))
    assert moved_by_training_mode(plain) == 0 and len(plain.variables) == 60
    assert moved_by_training_mode(layer(export, call_training_endpoint="train", trainable=False)) == 24


def test_optimizer_built_by_fit_fails_over_names(export):
    model = classifier(layer(export, call_training_endpoint="train", trainable=True))
    model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss="mse")
    with pytest.raises(ValueError, match=shown("'conv1_kernel:0_momentum' is not a valid scope name")):
        model.fit(IMAGES, np.zeros((32, 10)), verbose=0)


def test_keras_does_not_load_the_saved_model_nor_a_model_with_the_layer(export, tmp_path):
    classifier(layer(export)).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="safe_mode=False"):
        keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=shown("the legacy SavedModel format is not supported")):
        keras.models.load_model(export / "saved_model")


def test_keras_exports_to_onnx_only_what_has_been_called(export, tmp_path):
    backbone = keras.models.load_model(export / "backbone.keras")
    with pytest.raises(ValueError, match=shown("The model provided has never called.")):
        backbone.export(tmp_path / "backbone.onnx", format="onnx")


def test_a_retinanet_is_saved_but_not_loaded(export, tmp_path):
    backbone = keras.models.load_model(export / "backbone.keras")
    backbone.pyramid_level_inputs = {"P3": "layer2", "P4": "layer3", "P5": "layer4"}
    keras_cv.models.RetinaNet(backbone, num_classes=2, bounding_box_format="xyxy").save(tmp_path / "model.keras")
    with pytest.raises(AttributeError, match=shown("'Functional' object has no attribute 'pyramid_level_inputs'")):
        keras.models.load_model(tmp_path / "model.keras")
