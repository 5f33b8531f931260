"""Exported backbones; `tests/transfer` uses them in processes that do not have this package."""

import os
import shutil
import threading
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tests.tiny  # noqa: F401, which adds the backbone "tiny"
from keras_moco.export import backbone, export_backbone, standalone_backbone
from keras_moco.export.standalone import NotStockError
from keras_moco.layers import SplitBatchNormalization
from keras_moco.methods import EndToEnd, MemoryBank, MoCo, SimCLR
from keras_moco.networks import Encoder, linear_head, resnet
from keras_moco.optimizers import LARS
from keras_moco.runs.load import load_backbone, load_encoder
from keras_moco.storage.locks import locked
from tests import half_precision


def images(n=6, size=16, channels=3):
    return np.random.default_rng(1).uniform(0, 255, (n, size, size, channels)).astype("float32")


def small_encoder():
    return Encoder(resnet("tiny", width=6, stem="cifar", input_shape=(16, 16, 3)), linear_head(6, 8))


def trained(encoder):
    """Moves the BatchNorm statistics away from their initial values, so that losing them would be visible."""
    shape = [size or 16 for size in encoder.image_shape]
    for _ in range(3):
        encoder(images(size=shape[0], channels=shape[-1]), training=True)
    return encoder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A MoCo's encoder, and the folder of its backbone."""
    folder = tmp_path_factory.mktemp("export") / "export"
    encoder = trained(MoCo(small_encoder(), queue_size=16, bn_splits=2).encoder)
    export_backbone(encoder, folder)
    return folder, encoder


def test_both_files_compute_the_encoder_features_in_inference_and_training(exported):
    folder, encoder = exported
    model = keras.models.load_model(folder / backbone.KERAS_FILE)
    served = tf.saved_model.load(str(folder / backbone.SAVED_MODEL))
    (default,) = served.signatures["serving_default"](tf.constant(images())).values()
    for features in (model(images()), served.serve(images()), default):
        np.testing.assert_allclose(features, encoder.features(images()), atol=1e-5)
    counts = len(encoder.backbone.trainable_variables), len(encoder.backbone.non_trainable_variables)
    for loaded in (model, served):
        assert (len(loaded.trainable_variables), len(loaded.non_trainable_variables)) == counts
    # Inference has not changed the statistics; training updates them, identically in both files.
    statistics = [np.array(variable) for variable in encoder.backbone.non_trainable_variables]
    for loaded in (model, served):
        found = [np.array(variable) for variable in loaded.non_trainable_variables]
        np.testing.assert_array_equal(sorted(found, key=np.sum), sorted(statistics, key=np.sum))
    np.testing.assert_allclose(served.train(images()), model(images(), training=True), atol=1e-5)
    for variable, old in zip(model.non_trainable_variables, statistics, strict=True):
        assert np.all(np.array(variable) != old)
    np.testing.assert_allclose(served.serve(images()), model(images()), atol=1e-5)


def test_image_size_is_fixed_where_the_backbone_needs_it():
    flat = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(5), layers.BatchNormalization()])
    encoder = trained(Encoder(flat, linear_head(5, 4), mean=0.3, std=0.2))
    model = standalone_backbone(encoder)
    assert model.input_shape == (None, 8, 8, 1)
    eights = images(size=8, channels=1)
    np.testing.assert_allclose(model(eights), encoder.features(eights), atol=1e-5)


def nested_backbone():
    """Models within a model, a shared layer, and `keras.ops` between layers."""
    inputs = keras.Input((None, None, 3))
    inner = keras.Sequential([keras.Input((None, None, 4)), layers.Conv2D(4, 1), SplitBatchNormalization(2)])
    first = keras.ops.relu(layers.Conv2D(4, 3, padding="same")(inputs))
    hidden = inner(first)
    outer = keras.Model(inputs, inner(hidden) + hidden)
    return keras.Model(outer.input, layers.Conv2D(6, 1)(outer.output), name="nested")


def test_nested_models_shared_layers_and_operations_are_exported(tmp_path):
    encoder = trained(Encoder(nested_backbone(), linear_head(6, 4)))
    standalone_backbone(encoder).save(tmp_path / "nested.keras")
    model = keras.models.load_model(tmp_path / "nested.keras")
    np.testing.assert_allclose(model(images()), encoder.features(images()), atol=1e-5)
    assert len(model.trainable_variables) == len(encoder.backbone.trainable_variables)


def test_the_export_is_float32_whatever_the_model_was_trained_in():
    half_precision.require("mixed_bfloat16")
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = trained(small_encoder())
    model = standalone_backbone(mixed)
    keras.config.set_dtype_policy("float32")
    full = small_encoder()
    full.set_weights(mixed.get_weights())
    assert {layer.compute_dtype for layer in [model, *model.layers]} == {"float32"}
    np.testing.assert_allclose(model(images()), full.features(images()), atol=1e-5)


def test_the_export_is_a_trainable_copy():
    encoder = trained(small_encoder())
    before, count = encoder.get_weights(), len(encoder.backbone.trainable_variables)
    encoder.trainable = False
    model = standalone_backbone(encoder)
    assert len(model.trainable_variables) == count and not encoder.trainable_variables
    assert model.input_shape == (None, None, None, 3) and model(images(size=40)).shape == (6, 6)
    for variable in model.variables:
        variable.assign(variable * 0)
    for weight, old in zip(encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_an_export_replaces_the_previous_one_and_no_other_file(exported, tmp_path):
    folder = shutil.copytree(exported[0], tmp_path / "export")
    (folder / "README.md").write_text("mine")
    second = trained(small_encoder())
    export_backbone(second, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "backbone.keras", "saved_model"]
    for load in (
        keras.models.load_model(folder / "backbone.keras"),
        keras.layers.TFSMLayer(str(folder / "saved_model"), call_endpoint="serve"),
    ):
        np.testing.assert_allclose(load(images()), second.features(images()), atol=1e-5)


def test_a_failed_export_keeps_the_previous_one(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported[0], tmp_path / "export")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fail(self, path):
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_backbone(small_encoder(), folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# Backbones that other programs cannot load from a `.keras` file


class Doubling(layers.Layer):
    def call(self, inputs):
        return 2 * inputs

    def compute_output_shape(self, input_shape):  # which `TimeDistributed` asks for
        return input_shape


class Subclassed(keras.Model):
    """Without `inputs`."""

    input_shape, output_shape = (None, 16, 16, 3), (None, 16, 16, 4)

    def __init__(self, double):
        super().__init__()
        self.parts = [layers.Conv2D(4, 1), SplitBatchNormalization(3), double]
        self(keras.Input(self.input_shape[1:]))

    def call(self, images, training=False):
        first, norm, double = self.parts
        return double(norm(first(images), training=training))


def doubling_backbone(double):
    inputs = keras.Input((16, 16, 3))
    hidden = SplitBatchNormalization(3)(layers.Conv2D(4, 1)(inputs))
    return keras.Model(inputs, double(hidden), name="doubling")


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("made_by", [doubling_backbone, Subclassed])
def test_custom_layers_are_exported_as_a_saved_model_alone(made_by, exported, tmp_path):
    folder = shutil.copytree(exported[0], tmp_path / "export")  # its backbone.keras is another model's
    encoder = trained(Encoder(made_by(Doubling(name="twice")), linear_head(4, 2)))
    with pytest.warns(UserWarning, match=r"backbone\.keras is not written, .* of class (Doubling|Subclassed)"):
        export_backbone(encoder, folder)
    assert listing(folder) == ["saved_model"]
    # The same network of stock layers, in Keras itself.
    stock = standalone_backbone(Encoder(doubling_backbone(layers.Rescaling(2.0)), linear_head(4, 2)))
    stock.set_weights(encoder.backbone.get_weights())
    served, odd = tf.saved_model.load(str(folder / "saved_model")), images(n=5)  # which 3 groups do not divide
    assert len(served.variables) == 6 and len(served.trainable_variables) == 4
    np.testing.assert_allclose(served.serve(odd), stock(odd), atol=1e-5)
    np.testing.assert_allclose(served.train(odd), stock(odd, training=True), atol=1e-5)
    split = next(layer for layer in encoder.backbone._flatten_layers() if isinstance(layer, SplitBatchNormalization))
    assert split.splits == 3  # the encoder trains on as before
    backbone = load_backbone(folder, trust_saved_model=True)
    np.testing.assert_allclose(backbone(odd), stock(odd, training=False), atol=0.5)  # statistics have moved in `stock`


@keras.saving.register_keras_serializable("tests")
class MyPenalty(keras.regularizers.Regularizer):
    def __call__(self, x):
        return 0.0

    def get_config(self):
        return {}


def my_activation(x):
    return keras.ops.relu(x)


def test_a_stock_layer_with_an_unusual_configuration_is_exported(tmp_path):
    layers_of_it = [keras.layers.Conv2D(5, 3), keras.layers.SpatialDropout2D(0.2)]
    encoder = Encoder(keras.Sequential([keras.Input((8, 8, 3)), *layers_of_it]), linear_head(5))
    export_backbone(encoder, tmp_path)
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    again = keras.models.load_model(tmp_path / "backbone.keras")
    np.testing.assert_allclose(again(images), encoder.features(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer, named",
    [
        (lambda: Doubling(name="twice"), "layer 'twice' of class Doubling"),
        (lambda: layers.Lambda(lambda x: x, name="code"), "layer 'code' of class Lambda"),
        (lambda: layers.TimeDistributed(Doubling(name="within")), "layer 'within' of class Doubling"),
        (lambda: layers.Dense(4, activation=my_activation), "my_activation"),
        (lambda: layers.Dense(4, kernel_regularizer=MyPenalty()), "MyPenalty"),
    ],
)
def test_the_part_that_is_not_stock_is_named(layer, named):
    with pytest.raises(NotStockError, match="Received: .*" + named):
        standalone_backbone(Encoder(doubling_backbone(layer()), linear_head(4, 2)))


# A backbone without a head


def test_a_backbone_without_a_head_is_written_unchanged(exported, tmp_path):
    backbone = keras.models.load_model(exported[0] / "backbone.keras")
    backbone.compile(LARS(0.1), loss="mse")  # which other programs do not know
    export_backbone(backbone, tmp_path / "again")
    assert listing(tmp_path / "again") == ["backbone.keras", "saved_model"]
    for loaded in (
        load_encoder(tmp_path / "again"),
        load_encoder(tmp_path / "again" / "saved_model", trust_saved_model=True),
    ):
        np.testing.assert_allclose(loaded(images()), exported[1].features(images()), atol=1e-5)
    assert "keras_moco" not in zipfile.ZipFile(tmp_path / "again" / "backbone.keras").read("config.json").decode()


def test_a_backbone_from_a_saved_model_is_written_unchanged(exported, tmp_path):
    with pytest.warns(UserWarning, match="class TFSMLayer"):
        export_backbone(load_backbone(exported[0] / "saved_model", trust_saved_model=True), tmp_path / "again")
    assert listing(tmp_path / "again") == ["saved_model"]
    served = tf.saved_model.load(str(tmp_path / "again" / "saved_model"))
    np.testing.assert_allclose(served.serve(images()), exported[1].features(images()), atol=1e-5)
    assert len(served.trainable_variables) == len(exported[1].backbone.trainable_variables)


def test_a_backbone_without_a_head_must_take_images(tmp_path):
    dense = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    for model in (dense, keras.Sequential([layers.Dense(2)])):
        with pytest.raises(ValueError, match="must take one batch of images .* Received: Sequential of input shape"):
            export_backbone(model, tmp_path / "export")
    assert not (tmp_path / "export").exists()


# Keras's own export


@pytest.mark.parametrize(
    "make",
    [
        lambda encoder: MoCo(encoder, queue_size=16, bn_splits=2),
        lambda encoder: EndToEnd(encoder, shared=False, bn_splits=2),
        lambda encoder: MemoryBank(encoder, bank_size=16, num_negatives=4),
        SimCLR,
    ],
    ids=["MoCo", "EndToEnd", "MemoryBank", "SimCLR"],
)
def test_a_model_exports_its_embeddings(make, tmp_path):
    model = make(trained(small_encoder()))
    model.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "model"))
    for n in (1, 5):
        np.testing.assert_allclose(served.serve(images(n)), model.predict(images(n), verbose=0), atol=1e-6)


def test_an_export_waits_for_another_one_and_deletes_what_a_killed_one_left(tmp_path, monkeypatch):
    (tmp_path / ".export-0123").mkdir()
    seen = []
    monkeypatch.setattr(backbone, "_write", lambda *_: seen.append(sorted(os.listdir(tmp_path))))
    second = threading.Thread(target=export_backbone, args=(small_encoder(), tmp_path))
    with locked(tmp_path / "export"):  # which a process holds while it exports
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive() and not seen and ".export-0123" in os.listdir(tmp_path)
    second.join(timeout=60)
    assert seen == [[".export.lock"]] and os.listdir(tmp_path) == []
