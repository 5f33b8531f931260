"""Exported backbones, seen from processes that know nothing of this package."""

import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

from keras_moco import export
from keras_moco.backbones import resnet
from keras_moco.export import export_backbone, standalone_backbone
from keras_moco.layers import SplitBatchNormalization
from keras_moco.models import Encoder, MoCo, linear_head


def images(n=6, size=16, channels=3):
    return np.random.default_rng(1).uniform(0, 255, (n, size, size, channels)).astype("float32")


def small_encoder(**kwargs):
    return Encoder(resnet("resnet10", width=4, stem="cifar", **kwargs), linear_head(32, 8))


def lived_in(encoder):
    """Moves the BatchNorm statistics away from where they start, so that forgetting them would show."""
    shape = [size or 16 for size in encoder.image_shape]
    for _ in range(3):
        encoder(images(size=shape[0], channels=shape[-1]), training=True)
    return encoder


def run_elsewhere(code, *arguments, cwd):
    """Runs code in a fresh process outside the checkout and returns the JSON it prints last."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


FINE_TUNE_WITH_TENSORFLOW_ALONE = """
    import json, sys
    sys.modules["keras"] = None  # TensorFlow imports Keras where it can: here nothing can
    import numpy as np
    import tensorflow as tf

    backbone, images = tf.saved_model.load(sys.argv[1] + "/saved_model"), np.load(sys.argv[2])
    features = backbone.serve(images)
    default = backbone.signatures["serving_default"](tf.constant(images))
    np.testing.assert_array_equal(list(default.values())[0], features)
    np.save(sys.argv[3], features)

    before = {v.name + str(i): v.numpy() for i, v in enumerate(backbone.trainable_variables)}
    statistics = [v.numpy() for v in backbone.non_trainable_variables]
    changed = {}
    for endpoint in ("serve", "train"):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(getattr(backbone, endpoint)(images) ** 2)
        gradients = tape.gradient(loss, backbone.trainable_variables)
        for variable, gradient in zip(backbone.trainable_variables, gradients):
            variable.assign_sub(0.01 * gradient)
        after = {v.name + str(i): v.numpy() for i, v in enumerate(backbone.trainable_variables)}
        changed[endpoint] = [bool(np.any(after[k] != before[k])) for k in before]
        moved = zip(backbone.non_trainable_variables, statistics)
        changed[endpoint + " statistics"] = [bool(np.any(new.numpy() != old)) for new, old in moved]
        before = after
    changed["package"] = "keras_moco" in sys.modules
    print(json.dumps(changed))
"""

LOAD_WITH_KERAS_ALONE = """
    import json, sys
    import numpy as np
    import keras

    model = keras.models.load_model(sys.argv[1] + "/backbone.keras")
    np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
    layers = sorted({type(layer).__module__.split(".")[0] for layer in model.layers})
    trainable = len(model.trainable_variables)
    print(json.dumps({"layers": layers, "trainable": trainable, "package": "keras_moco" in sys.modules}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A MoCo's encoder, exported; images of a size it was not built for; and their features."""
    directory = tmp_path_factory.mktemp("export")
    encoder = lived_in(MoCo(small_encoder(input_shape=(16, 16, 3)), queue_size=16, bn_splits=2).encoder)
    export_backbone(encoder, directory / "export")
    np.save(directory / "images.npy", images())
    return directory, encoder


def test_tensorflow_alone_serves_and_fine_tunes_the_saved_model(exported):
    directory, encoder = exported
    report = run_elsewhere(
        FINE_TUNE_WITH_TENSORFLOW_ALONE,
        directory / "export",
        directory / "images.npy",
        directory / "served.npy",
        cwd=directory,
    )
    np.testing.assert_allclose(np.load(directory / "served.npy"), encoder.features(images()), atol=1e-5)
    assert len(report["serve"]) == len(encoder.backbone.trainable_variables)
    assert all(report["serve"]) and all(report["train"])
    assert len(report["serve statistics"]) == len(encoder.backbone.non_trainable_variables)
    assert not any(report["serve statistics"])
    assert all(report["train statistics"])
    assert not report["package"]


def test_keras_alone_loads_the_keras_file(exported):
    directory, encoder = exported
    report = run_elsewhere(
        LOAD_WITH_KERAS_ALONE,
        directory / "export",
        directory / "images.npy",
        directory / "kept.npy",
        cwd=directory,
    )
    np.testing.assert_allclose(np.load(directory / "kept.npy"), encoder.features(images()), atol=1e-5)
    assert report == {
        "layers": ["keras"],
        "trainable": len(encoder.backbone.trainable_variables),
        "package": False,
    }


def test_the_train_endpoint_is_keras_own_training_mode(exported):
    directory, _ = exported
    model = keras.models.load_model(directory / "export" / export.KERAS_FILE)
    layer = keras.layers.TFSMLayer(
        str(directory / "export" / export.SAVED_MODEL), call_endpoint="serve", call_training_endpoint="train"
    )
    np.testing.assert_allclose(layer(images(), training=True), model(images(), training=True), atol=1e-5)
    # The moving statistics that this step left behind agree too.
    np.testing.assert_allclose(layer(images(), training=False), model(images(), training=False), atol=1e-5)


def test_image_size_is_free_where_the_backbone_allows_it(exported):
    directory, encoder = exported
    assert encoder.image_shape == (16, 16, 3)
    model = keras.models.load_model(directory / "export" / export.KERAS_FILE)
    assert model.input_shape == (None, None, None, 3)
    assert model(images(size=40)).shape == (6, 32)


def test_image_size_stays_where_the_backbone_needs_it():
    flat = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(5), layers.BatchNormalization()])
    encoder = lived_in(Encoder(flat, linear_head(5, 4), mean=0.3, std=0.2))
    model = standalone_backbone(encoder)
    assert model.input_shape == (None, 8, 8, 1)
    np.testing.assert_allclose(
        model(images(size=8, channels=1)), encoder.features(images(size=8, channels=1)), atol=1e-5
    )


def nested_backbone():
    """Models within a model, a shared layer, and `keras.ops` between layers."""
    inputs = keras.Input((None, None, 3))
    inner = keras.Sequential([keras.Input((None, None, 4)), layers.Conv2D(4, 1), SplitBatchNormalization(2)])
    first = keras.ops.relu(layers.Conv2D(4, 3, padding="same")(inputs))
    hidden = inner(first)
    outer = keras.Model(inputs, inner(hidden) + hidden)
    return keras.Model(outer.input, layers.Conv2D(6, 1)(outer.output), name="nested")


def test_nested_models_shared_layers_and_operations_survive(tmp_path):
    encoder = lived_in(Encoder(nested_backbone(), linear_head(6, 4)))
    export_backbone(encoder, tmp_path)
    model = keras.models.load_model(tmp_path / export.KERAS_FILE)
    np.testing.assert_allclose(model(images()), encoder.features(images()), atol=1e-5)
    assert len(model.trainable_variables) == len(encoder.backbone.trainable_variables)


def test_the_export_is_float32_whatever_the_model_was_trained_in():
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = lived_in(small_encoder(input_shape=(16, 16, 3)))
    model = standalone_backbone(mixed)
    keras.config.set_dtype_policy("float32")
    full = small_encoder(input_shape=(16, 16, 3))
    full.set_weights(mixed.get_weights())
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    np.testing.assert_allclose(model(images()), full.features(images()), atol=1e-5)


def test_a_frozen_encoder_is_exported_trainable_and_stays_frozen():
    encoder = small_encoder(input_shape=(16, 16, 3))
    encoder.trainable = False
    assert len(standalone_backbone(encoder).trainable_variables) == 36
    assert not encoder.trainable_variables


def test_the_export_does_not_share_weights_with_the_encoder():
    encoder = lived_in(small_encoder(input_shape=(16, 16, 3)))
    before = encoder.features(images()).numpy()
    for variable in standalone_backbone(encoder).variables:
        variable.assign(variable * 0)
    np.testing.assert_array_equal(encoder.features(images()), before)


def test_an_export_replaces_the_last_one_and_nothing_else(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    export_backbone(small_encoder(input_shape=(16, 16, 3)), tmp_path)
    second = lived_in(small_encoder(input_shape=(16, 16, 3)))
    export_backbone(second, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "backbone.keras", "saved_model"]
    for load in (
        keras.models.load_model(tmp_path / "backbone.keras"),
        keras.layers.TFSMLayer(str(tmp_path / "saved_model"), call_endpoint="serve"),
    ):
        np.testing.assert_allclose(load(images()), second.features(images()), atol=1e-5)


def test_a_failed_export_leaves_the_last_one(tmp_path, monkeypatch):
    encoder = lived_in(small_encoder(input_shape=(16, 16, 3)))
    export_backbone(encoder, tmp_path)

    def fail(self, path):
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_backbone(small_encoder(input_shape=(16, 16, 3)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone.keras", "saved_model"]
    served = keras.layers.TFSMLayer(str(tmp_path / "saved_model"), call_endpoint="serve")
    np.testing.assert_allclose(served(images()), encoder.features(images()), atol=1e-5)


class Doubling(layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_layers_of_your_own_are_refused_by_name(tmp_path):
    inputs = keras.Input((None, None, 3))
    backbone = keras.Model(inputs, Doubling(name="twice")(layers.Conv2D(4, 1)(inputs)))
    with pytest.raises(ValueError, match="Received: layer 'twice' of class Doubling. Replace it by layers of"):
        export_backbone(Encoder(backbone, linear_head(4, 2)), tmp_path / "export")
    assert not (tmp_path / "export").exists()


class Subclassed(keras.Model):
    input_shape, output_shape = (None, 8, 8, 3), (None, 8, 8, 3)

    def call(self, inputs):
        return inputs


def test_a_backbone_without_a_graph_is_refused():
    with pytest.raises(ValueError, match="Received: Subclassed. Build it with `keras.Model"):
        standalone_backbone(Encoder(Subclassed(), linear_head(3, 2)))
