"""A `.keras` file only describes layers and holds their weights. One that does more is refused before it is built."""

import json
import os
import socket
import stat
import struct
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_moco.convert import encoder_from_pytorch
from keras_moco.methods import MoCo
from keras_moco.runs.load import initial_weights, load_backbone, load_keras
from tests.trust import attacks
from tests.trust.attacks import Initialiser, keras_file, layer, members_of, saved_model, write_archive


def refusal(path, call=load_keras):
    with pytest.raises(ValueError) as caught:
        call(path)
    said = str(caught.value)
    assert said.count("Received: ") == 1 and "\n" not in said and str(path) in said
    return said


def empty(file):
    for name in list(file):
        del file[name]


# The configuration


def test_a_saved_model_in_a_layer_is_not_loaded(tmp_path):
    """Regardless of Keras's safe mode, which differs between its versions."""
    canary = tmp_path / "canary"
    served = saved_model(tmp_path / "model", resource=Initialiser(canary))
    inner = layer("keras.layers", "TFSMLayer", {"filepath": str(served), "call_endpoint": "serve"})
    for number, entry in enumerate(
        (
            layer("keras.layers", "Lambda", {"name": "f", "function": inner}),
            layer("keras.layers", "Lambda", {"name": "f", "function": layer("keras.layers", "function", "TFSMLayer")}),
            inner,
            layer("keras.src.export.tfsm_layer", "TFSMLayer", inner["config"]),
            layer("keras.layers", "TimeDistributed", {"layer": inner}),
            layer("keras.layers", "Dense", {"units": 2, "activation": inner}),
            layer("keras.layers", "Dense", {"units": 2, "kernel_initializer": [{"deep": inner}]}),
        )
    ):
        path = keras_file(tmp_path / f"{number}.keras", entry)
        for call in (load_keras, load_backbone, initial_weights):
            said = refusal(path, call)
            assert " with Lambda of keras.layers; " in said or " with TFSMLayer of keras." in said
        assert not canary.exists()


def test_no_module_is_imported(tmp_path, monkeypatch):
    canary, packages = tmp_path / "canary", tmp_path / "packages"
    for package in ("keras_nlp", "innocent"):
        (packages / package).mkdir(parents=True)
        (packages / package / "__init__.py").write_text(f"open({str(canary)!r}, 'w')\nclass Layer: pass\n")
    monkeypatch.syspath_prepend(packages)
    for module in ("keras_nlp", "keras_nlp.layers", "innocent", "keras.innocent", "os", "keras_moco.trust"):
        for entry in (layer(module, "Layer", {}), layer(module, "function", "Layer", registered_name="Layer")):
            said = refusal(keras_file(tmp_path / "model.keras", entry))
            assert f"of {module}; " in said
    # The name of a class that is registered: Keras looks for it by `registered_name` alone, and then in the module.
    for module in ("keras_nlp", "keras_nlp.layers", "keras.src.backend.jax.core"):
        for registered in (None, "nothing", 7):
            entry = layer(module, "keras_moco>Encoder", {}, registered_name=registered)
            assert f"of {module}; " in refusal(keras_file(tmp_path / "model.keras", entry))
    assert not canary.exists() and not {"keras_nlp", "innocent"} & sys.modules.keys()


def test_anything_but_a_harmless_layer_of_keras_is_refused(tmp_path):
    (tmp_path / "secret").write_text("first\nsecond")
    words = {"vocabulary": str(tmp_path / "secret"), "max_tokens": None}
    lookup = "keras.src.layers.preprocessing.index_lookup"
    code = {"code": "4wEA", "defaults": None, "closure": None}
    for entry in (
        layer("keras.layers", "StringLookup", words),
        layer("keras.layers", "TextVectorization", words),
        layer(lookup, "IndexLookup", words),
        layer("keras.layers", "TorchModuleWrapper", {"module": "gASV"}),
        layer("keras.layers", "Lambda", {"function": layer("builtins", "__lambda__", code)}),
        layer("keras.layers", "Dense", {"units": 2, "activation": layer("builtins", "__lambda__", code)}),
        layer("keras.layers", "Dense", {"units": 2, "activation": layer("keras.utils", "function", "get_file")}),
        layer("keras.layers", "Dense", {"units": 2, "activation": layer("keras.activations", "function", "get")}),
        layer("keras.layers", "Dense", {"units": 2, "activation": layer("builtins", "function", "exec")}),
        layer("keras.utils", "get_file", {}),
        layer("keras.callbacks", "BackupAndRestore", {}),
        layer("tensorflow", "__typespec__", [], spec_name="TensorSpec"),
        # Names of what is registered, beside those of what is not.
        layer("keras.layers", "Lambda", {}, registered_name="keras_moco>Encoder"),
        layer("builtins", "exec", {}, registered_name="exec"),
        # Of training: as activations they would have the memory that they ask for.
        layer(
            "keras.layers", "Dense", {"units": 2, "activation": layer("keras.metrics", "MeanIoU", {"num_classes": 9})}
        ),
        layer("keras.layers", "Dense", {"units": 2, "activation": layer("keras.metrics", "function", "MeanIoU")}),
        layer("keras.layers", "Dense", {"units": 2, "activation": layer("keras.optimizers", "Adam", {})}),
        layer("keras.layers", "Dense", {"units": 2, "compile_config": layer("keras.losses", "Huber", {})}),
        layer("absent", "TFSMLayer", {}, registered_name="absent"),  # as older files have it
        layer("keras.layers", None, {}),
        layer(7, "Dense", {}),
        layer("keras.layers", "__numpy__", {"value": 0, "dtype": "S1000000000"}),
    ):
        said = refusal(keras_file(tmp_path / "model.keras", entry))
        assert "hold no code" in said and "nothing of it was run" in said, entry
    for config in (b"[]", b'"text"', b"{}", b"no JSON", b"\xff"):
        refusal(keras_file(tmp_path / "model.keras", config=config))


def test_deep_nesting_is_refused(tmp_path):
    for depth in (200, 10**6):
        nested = b'{"class_name": "Sequential", "module": "keras", "config": ' + b"[" * depth + b"]" * depth + b"}"
        said = refusal(keras_file(tmp_path / "model.keras", config=nested))
        assert "nested deeper than any model" in said


def test_usual_models_are_loaded(tmp_path):
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2", kernel_constraint="max_norm")(images)
    x = keras.ops.mean(x[:, 1:] * 2 + 1, axis=(1, 2))
    x = keras.layers.Dense(3, activation=keras.activations.gelu, kernel_initializer=keras.initializers.Constant(0.5))(x)
    x = keras.layers.Bidirectional(keras.layers.LSTM(2))(keras.layers.Reshape((1, 3))(x))
    model = keras.Model(images, keras.Sequential([keras.layers.Dense(2, dtype="mixed_float16")])(x))

    def own_loss(y_true, y_pred):
        return y_pred

    model.compile("adam", own_loss, metrics=["mae"])  # which no file can hold
    model.save(tmp_path / "model.keras")
    batch = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(load_keras(tmp_path / "model.keras")(batch), model(batch))


def test_registered_classes_are_loaded(tmp_path):
    @keras.saving.register_keras_serializable("tests_of_trust")
    class Own(keras.layers.Dense):
        pass

    try:
        keras.Sequential([keras.Input((3,)), Own(2)]).save(tmp_path / "own.keras")
        assert isinstance(load_keras(tmp_path / "own.keras").layers[0], Own)
    finally:
        keras.saving.get_custom_objects().pop("tests_of_trust>Own")
    assert f" with Own of {__name__}; " in refusal(tmp_path / "own.keras")
    with keras.saving.custom_object_scope({"tests_of_trust>Own": Own}):
        load_keras(tmp_path / "own.keras")


def test_a_zip_with_another_suffix_is_refused(tmp_path):
    """Keras goes by the suffix: in a file of HDF5 followed by a zip, the zip would be checked and the HDF5 loaded."""
    path = keras_file(tmp_path / "model.keras").rename(tmp_path / "model.h5")
    assert f"must be named so. Received: {path}. " in refusal(path)


def test_an_inner_model_is_not_compiled(tmp_path):
    before, own = keras.Model.compile_from_config, MoCo.compile_from_config
    inner = attacks.model()
    inner.compile("adam", "mse", metrics=["mae", keras.metrics.AUC(name="auc")])
    keras.Sequential([keras.Input((3,)), inner]).save(tmp_path / "model.keras")
    assert b'"AUC"' in members_of(tmp_path / "model.keras")["config.json"]
    found = load_keras(tmp_path / "model.keras")
    np.testing.assert_array_equal(found(np.ones((1, 3))), inner(np.ones((1, 3))))
    assert not found.compiled and not found.layers[0].compiled
    assert keras.Model.compile_from_config is before and MoCo.compile_from_config is own


@pytest.mark.skipif(not hasattr(keras.quantizers, "Int8QuantizationConfig"), reason="of Keras 3.13")
def test_quantized_models_are_loaded(tmp_path):
    model = attacks.model()
    model.layers[-1].quantize("int8")
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(load_keras(tmp_path / "model.keras")(np.ones((1, 3))), model(np.ones((1, 3))))


# Its size


def nested_calls(each, depth):
    """The configuration of a model that calls a model several times, which calls a model several times, and so on."""
    described = layer("keras.layers", "ReLU", {"name": "inner"})
    for _ in range(depth):
        images = x = keras.Input((2,))
        inner = keras.layers.ReLU(name="inner")
        for _ in range(each):
            x = inner(x)
        outer = json.loads(keras.Model(images, x).to_json())
        nodes = outer["config"]["layers"][1]["inbound_nodes"]
        described["config"]["name"] = "inner"
        outer["config"]["layers"][1] = described | {"name": "inner", "inbound_nodes": nodes}
        described = outer
    return json.dumps(described | {"compile_config": None})


def test_too_many_calls_of_models_in_models_are_refused(tmp_path):
    path = keras_file(tmp_path / "model.keras", config=nested_calls(8, 9))
    assert " with models in models, and 1" in refusal(path)
    assert load_keras(keras_file(tmp_path / "model.keras", config=nested_calls(3, 3), weights=empty))


def test_variables_beyond_the_weights_of_the_file_are_refused(tmp_path):
    for entry in (
        layer("keras.layers", "Dense", {"units": 10**12, "name": "large"}),
        layer("keras.layers", "Embedding", {"input_dim": 10**6, "output_dim": 10**6, "name": "large"}),
        layer("keras.layers", "EinsumDense", {"equation": "ab,bc->ac", "output_shape": 10**12, "name": "large"}),
    ):
        said = refusal(keras_file(tmp_path / "model.keras", entry))
        assert f"and a layer {entry['class_name']} that asks for " in said and ",000,000,000,000 bytes" in said
    # The file stores a byte per number, and the layer asks for eight.
    wide = keras_file(
        tmp_path / "model.keras",
        layer(
            "keras.layers", "Embedding", {"input_dim": 3 * 10**6, "output_dim": 1, "dtype": "float64", "name": "wide"}
        ),
        weights=lambda file: file.create_dataset("other", 6 * 10**6, "u1"),
    )
    assert "asks for 24,000,000 bytes" in refusal(wide)
    assert load_keras(keras_file(tmp_path / "model.keras")).count_params() == 8  # other files load as before


def test_a_layer_that_computes_while_it_is_built_is_refused(tmp_path):
    """A call of an operation with numbers alone would compute at once, however large its result."""
    images = keras.Input(batch_shape=(1, 3))
    model = keras.Model(images, keras.ops.broadcast_to(images, (1, 3)))
    model.save(tmp_path / "model.keras")
    load_keras(tmp_path / "model.keras")
    members = members_of(tmp_path / "model.keras")
    config = json.loads(members["config.json"])
    large = config["config"]["layers"][-1]
    assert large["class_name"] == "BroadcastTo"
    for args in ([1.0], [], [{"class_name": "__numpy__", "config": {"value": [1.0], "dtype": "float32"}}]):
        large["config"]["shape"] = [10**4, 10**5]
        large["inbound_nodes"] = [{"args": args, "kwargs": {}}]
        path = write_archive(tmp_path / "model.keras", members | {"config.json": json.dumps(config)})
        assert f"a layer {large['name']} that computes while it is built" in refusal(path)


def test_a_zip_bomb_is_refused(tmp_path):
    members = members_of(keras_file(tmp_path / "model.keras"))
    for name in ("assets/large", "config.json"):
        path = write_archive(tmp_path / "bomb.keras", members | {name: bytes(77_777)})
        # The size in the directory at its end, by which it is unpacked.
        content = path.read_bytes()
        start = content.rindex(struct.pack("<I", 77_777))
        path.write_bytes(content[:start] + struct.pack("<I", 2**30) + content[start + 4 :])
        assert "which would become 1,073," in refusal(path)


# The members of the archive


def test_members_that_keras_does_not_write_are_refused(tmp_path):
    members = members_of(keras_file(tmp_path / "model.keras"))
    for name in ("../canary", "/canary", "assets/../../canary", "assets\\..\\canary", "C:canary", "model.weights.npz"):
        path = write_archive(tmp_path / "odd.keras", members | {name: b"written"})
        assert f" with {name!r}; nothing was unpacked" in refusal(path)
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(write_archive(tmp_path / "odd.keras", members), "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "with 'assets/link'" in refusal(tmp_path / "odd.keras")
    with zipfile.ZipFile(write_archive(tmp_path / "odd.keras", members), "a") as archive:
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("config.json", "{}")
    assert "with 'config.json'" in refusal(tmp_path / "odd.keras")
    for name in ("config.json", "model.weights.h5"):
        path = write_archive(tmp_path / "odd.keras", {key: value for key, value in members.items() if key != name})
        assert f"{path} without {name}" in refusal(path)
    content = (
        keras_file(tmp_path / "odd.keras").read_bytes().replace(b'"units": 2', b'"units": 9')
    )  # its checksum is off
    (tmp_path / "odd.keras").write_bytes(content)
    assert "which is damaged" in refusal(tmp_path / "odd.keras")


def test_weights_outside_the_file_are_refused(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["0"] = np.ones((3, 2))
    (tmp_path / "raw").write_bytes(bytes(48))

    def linked(file):
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink(str(secret), "0")

    def soft(file):
        file["layers/dense/vars/2"] = h5py.SoftLink("/layers/dense/vars/0")

    def stored(file):
        file.create_dataset("other", (3, 2), "float64", external=[(str(tmp_path / "raw"), 0, 48)])

    def virtual(file):
        layout = h5py.VirtualLayout((3, 2), "float64")
        layout[:] = h5py.VirtualSource(str(secret), "0", (3, 2))
        file.create_virtual_dataset("other", layout)

    def text(file):
        file["other"] = ["text"]

    def bomb(file):
        file.create_dataset("other", (10**6, 10**6), "float64", chunks=(1000, 1000))

    def chunk(file):
        file.create_dataset(
            "other", (3, 2), "float32", maxshape=(None, None), chunks=(2**14, 2**15), compression="gzip"
        )

    def cyclic(file):
        file["layers/again"] = file["layers"]

    for change, expected in (
        (linked, f"/layers/dense/vars/0 is a link elsewhere, to {secret}; it was not read"),
        (soft, "/layers/dense/vars/2 is a link elsewhere"),
        (stored, f"/other is stored in another file, {tmp_path / 'raw'}"),
        (virtual, "/other is assembled from other files"),
        (text, "/other is no array of numbers"),
        (chunk, "/other is stored in chunks that are larger than the array"),
        (bomb, "which declares 8,000,000,000,"),
    ):
        assert expected in refusal(keras_file(tmp_path / "model.keras", weights=change)), change
    load_keras(keras_file(tmp_path / "model.keras", weights=cyclic))
    write_archive(tmp_path / "model.keras", members_of(tmp_path / "model.keras") | {"model.weights.h5": b"\x89HDF\r\n"})
    assert "for which HDF5 says: " in refusal(tmp_path / "model.keras")


# Paths that are no file


@pytest.mark.parametrize("name", ["model.keras", "model.safetensors", "model.pth", "model"])
def test_pipes_and_sockets_are_refused_at_once(name, tmp_path):
    """Opening a pipe blocks until another process writes."""
    os.mkfifo(tmp_path / name)
    for call in (load_backbone, initial_weights, encoder_from_pytorch):
        assert f"Received: {tmp_path / name}, a named pipe. " in refusal(tmp_path / name, call)
    os.unlink(tmp_path / name)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / name))
        assert "a socket. " in refusal(tmp_path / name, load_backbone)
    with pytest.raises(ValueError, match="Received: /dev/zero, a device"):
        load_backbone("/dev/zero")


def test_pipes_in_an_export_are_refused_and_links_are_followed(tmp_path):
    os.mkfifo(tmp_path / "backbone.keras")
    with pytest.raises(ValueError, match="backbone.keras, a named pipe"):
        load_backbone(tmp_path)
    os.unlink(tmp_path / "backbone.keras")
    attacks.model().save(tmp_path / "model.keras")
    (tmp_path / "backbone.keras").symlink_to("model.keras")
    assert load_backbone(tmp_path).output_shape == (None, 2)


def test_a_folder_in_place_of_a_keras_file_is_refused(tmp_path):
    """Keras would build the `config.json` in it."""
    keras.saving.save_model(attacks.model(), tmp_path / "folder", zipped=False)
    for path in (tmp_path / "folder", tmp_path / "absent.keras"):
        assert "must be an existing file" in refusal(path)
