"""What docs/transfer.md says does not work: once one of these fails, the page has a limit less."""

import re
from pathlib import Path

import keras
import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "transfer.md").read_text(encoding="utf-8")


@pytest.fixture
def export(folder):
    return folder / "runs" / "quickstart" / "export"


def shown(message):
    """What an error must say: the words that the page shows of it."""
    assert f"`{message}`" in " ".join(PAGE.split())
    return re.escape(message)


def digits(count):
    data = load_digits()
    return tf.image.resize(data.images[:count, ..., None] * 255 / 16, (16, 16)).numpy(), data.target[:count]


def layer(export, **kwargs):
    return keras.layers.TFSMLayer(str(export / "saved_model"), call_endpoint="serve", **kwargs)


def classifier(backbone):
    return keras.Sequential([keras.Input((16, 16, 1)), backbone, keras.layers.Dense(10)])


def values(variables):
    return [np.array(variable.value) for variable in variables]


def moved(variables, before):
    return [bool(np.any(new != old)) for new, old in zip(values(variables), before, strict=True)]


def test_without_the_train_endpoint_the_statistics_stay(export):
    backbone = layer(export, trainable=True)
    images, _ = digits(32)
    before = values(backbone.variables)
    np.testing.assert_array_equal(backbone(images, training=True), backbone(images, training=False))
    assert not any(moved(backbone.variables, before))


def test_a_layer_that_is_not_trainable_moves_its_statistics_all_the_same(export):
    backbone = layer(export, call_training_endpoint="train", trainable=False)
    before = values(backbone.variables)
    backbone(digits(32)[0], training=True)
    assert sum(moved(backbone.variables, before)) == 24 and len(before) == 60


def test_an_optimizer_that_fit_builds_stumbles_over_names(export):
    model = classifier(layer(export, call_training_endpoint="train", trainable=True))
    model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss="mse")
    images, _ = digits(32)
    with pytest.raises(ValueError, match=shown("'conv1_kernel:0_momentum' is not a valid scope name")):
        model.fit(images, np.zeros((32, 10)), verbose=0)


def test_a_model_with_the_layer_loads_unsafely_only(export, tmp_path):
    classifier(layer(export)).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="safe_mode=False"):
        keras.models.load_model(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras", safe_mode=False).output_shape == (None, 10)


def test_keras_does_not_load_the_saved_model(export):
    with pytest.raises(ValueError, match=shown("the legacy SavedModel format is not supported")):
        keras.models.load_model(export / "saved_model")


def test_a_tensor_of_another_type_is_refused(export):
    backbone = tf.saved_model.load(str(export / "saved_model"))
    images, _ = digits(4)
    whole = images.astype("uint8")
    np.testing.assert_allclose(backbone.serve(whole), backbone.serve(whole.astype("float32")))
    with pytest.raises(TypeError, match="Can not cast TensorSpec"):
        backbone.serve(tf.constant(whole))


def test_keras_exports_to_onnx_only_what_has_been_called(export, tmp_path):
    backbone = keras.models.load_model(export / "backbone.keras")
    with pytest.raises(ValueError, match=shown("The model provided has never called.")):
        backbone.export(tmp_path / "backbone.onnx", format="onnx")


def test_a_retinanet_is_saved_but_not_read(export, tmp_path):
    backbone = keras.models.load_model(export / "backbone.keras")
    backbone.pyramid_level_inputs = {"P3": "layer2", "P4": "layer3", "P5": "layer4"}
    keras_cv.models.RetinaNet(backbone, num_classes=2, bounding_box_format="xyxy").save(tmp_path / "model.keras")
    with pytest.raises(AttributeError, match=shown("'Functional' object has no attribute 'pyramid_level_inputs'")):
        keras.models.load_model(tmp_path / "model.keras")


def test_the_interpreter_of_tensorflow_is_to_be_deleted(export, tmp_path):
    keras.models.load_model(export / "backbone.keras").export(tmp_path / "b.tflite", format="litert", verbose=False)
    with pytest.warns(UserWarning, match=shown("scheduled for deletion")):
        tf.lite.Interpreter(str(tmp_path / "b.tflite"))
