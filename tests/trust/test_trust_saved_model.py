"""A SavedModel is a program: it is opened only on request, and only if it does nothing but compute."""

import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_moco.config import Config, EvaluationConfig
from keras_moco.evaluation.target import EvaluationTarget
from keras_moco.export import export_backbone
from keras_moco.runs.load import initial_weights, load_backbone, load_encoder, open_model
from keras_moco.trust.graph import STATEFUL, WORDS, foreign_operation
from keras_moco.trust.saved_model import check_saved_model
from tests.small_encoder import small_encoder
from tests.trust.attacks import Initialiser, saved_model


def refusal(path, call=load_backbone, **trust):
    with pytest.raises(ValueError) as caught:
        call(path, **trust)
    said = str(caught.value)
    assert said.count("Received: ") == 1 and "\n" not in said
    return said


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    encoder = small_encoder(batch_norm=True)
    return encoder, export_backbone(encoder, tmp_path_factory.mktemp("export"))


def test_a_saved_model_is_opened_only_on_request(export):
    encoder, folder = export
    served = folder / "saved_model"
    for call in (load_backbone, load_encoder, open_model, initial_weights):
        said = refusal(served, call)
        assert f"Received: {served}. " in said and ".keras" in said and "--trust_saved_model" in said
    config = EvaluationConfig(model=str(served))
    assert refusal(config, EvaluationTarget) == said
    images = np.random.default_rng(0).uniform(0, 255, (4, 4, 4, 3)).astype("float32")
    config = EvaluationConfig(model=str(served), trust_saved_model=True)
    for found in (load_backbone(served, trust_saved_model=True), EvaluationTarget(config).backbone()):
        np.testing.assert_allclose(found(images), encoder.features(images), atol=1e-5)
    # From an export, the `.keras` file is loaded, which needs no trust.
    assert not any(isinstance(layer, keras.layers.TFSMLayer) for layer in load_backbone(folder).layers)


def test_trust_is_not_a_setting_of_a_run():
    config = Config(init_from="model", trust_saved_model=True)
    assert "trust" not in config.to_flagfile()
    assert config.differences(Config(init_from="model")) == {}


def test_an_export_without_a_keras_file_needs_trust(export, tmp_path):
    shutil.copytree(export[1] / "saved_model", tmp_path / "saved_model")
    assert f"Received: {tmp_path / 'saved_model'}. " in refusal(tmp_path)
    assert load_backbone(tmp_path, trust_saved_model=True).output_shape == load_backbone(export[1]).output_shape


# Operations by what they would do; `{}` stands for the path of a file.
BODIES = {
    "ReadFile": lambda path: lambda images: images + tf.cast(tf.strings.length(tf.io.read_file(path)), tf.float32),
    "MatchingFiles": lambda path: (
        lambda images: images + tf.cast(tf.size(tf.raw_ops.MatchingFiles(pattern=path)), tf.float32)
    ),
    "EagerPyFunc": lambda path: lambda images: tf.ensure_shape(tf.py_function(abs, [images], tf.float32), (None, 3)),
    "RestoreV2": lambda path: (
        lambda images: (
            images
            + tf.raw_ops.RestoreV2(prefix=path, tensor_names=["weight"], shape_and_slices=[""], dtypes=[tf.float32])[0]
        )
    ),
    "SaveV2": lambda path: (
        lambda images: with_effect(
            images, lambda: tf.raw_ops.SaveV2(prefix=path, tensor_names=["x"], shape_and_slices=[""], tensors=[images])
        )
    ),
    "PrintV2": lambda path: (
        lambda images: with_effect(images, lambda: tf.raw_ops.PrintV2(input="written", output_stream=f"file://{path}"))
    ),
    "ImmutableConst": lambda path: (
        lambda images: images + tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=(3,), memory_region_name=path)
    ),
    # In a function that a branch calls.
    "WriteFile": lambda path: (
        lambda images: tf.cond(
            tf.reduce_sum(images) > 0,
            lambda: with_effect(images, lambda: tf.io.write_file(path, "written")),
            lambda: images,
        )
    ),
}


def with_effect(images, effect):
    operation = effect()
    with tf.control_dependencies([operation] if operation is not None else []):
        return tf.identity(images)


@pytest.mark.parametrize("name", BODIES)
def test_an_operation_that_reads_writes_or_calls_is_refused(name, tmp_path):
    canary = tmp_path / "canary"
    path = saved_model(tmp_path / "model", BODIES[name](str(canary)))
    said = refusal(path, trust_saved_model=True)
    assert f"Received: {path / 'saved_model.pb'} with the operation {name} in its function " in said
    assert not canary.exists()


def test_an_initialiser_does_not_run(tmp_path):
    canary = tmp_path / "canary"
    path = saved_model(tmp_path / "model", resource=Initialiser(canary))
    for trust in (False, True):
        said = refusal(path, trust_saved_model=trust)
        assert not canary.exists()
    assert "with an object of the kind resource" in said
    tf.saved_model.load(str(path))  # without the check
    assert canary.exists()


def test_a_call_of_the_function_that_saves_variables_is_refused(tmp_path):
    """Its operations could write and read any file: their path is an argument."""

    def edited(change):
        model = saved_model_pb2.SavedModel.FromString(program)
        graph = model.meta_graphs[0]
        change(graph)
        return foreign_operation(graph)

    def names(graph):
        return [function.signature.name for function in graph.graph_def.library.function]

    def save_of(graph):
        return next(name for name in names(graph) if "traced_save" in name)

    program = (saved_model(tmp_path / "model") / "saved_model.pb").read_bytes()
    assert edited(lambda graph: None) == ""

    def computing(graph):  # their order varies
        return next(each for each in graph.graph_def.library.function if "traced" not in each.signature.name)

    def call(graph):
        computing(graph).node_def.add(name="extra", op=save_of(graph))

    def hand_over(graph):
        computing(graph).node_def.add(name="extra", op="If").attr["then_branch"].list.func.add(name=save_of(graph))

    def offer(graph):
        graph.object_graph_def.nodes.add().bare_concrete_function.concrete_function_name = save_of(graph)

    def differentiate(graph):
        graph.graph_def.library.gradient.add(function_name="f", gradient_func=save_of(graph))

    def outside(graph):
        graph.graph_def.node.add(name="extra", op="SaveV2")

    def twice(graph):
        graph.graph_def.library.function.add().CopyFrom(graph.graph_def.library.function[0])

    def disguised(graph):
        computing(graph).signature.name = "ReadFile"

    def unknown(graph):
        computing(graph).node_def.add(name="extra", op="NobodyKnowsThis")

    def primitive(graph):
        computing(graph).node_def.add(name="extra", op="If").attr["then_branch"].func.name = "ReadFile"

    # These make TensorFlow call another function of the same signature instead, such as the one that saves.
    def swapped(graph):
        computing(graph).attr["api_implements"].s = b"any"

    def swapped_argument(graph):
        computing(graph).arg_attr[0].attr["api_implements"].s = b"any"

    def marked(graph):
        computing(graph).node_def[0].attr["_kernel"].s = b"any"

    for change, expected in (
        (swapped, "the attribute api_implements of its function "),
        (swapped_argument, "the attribute api_implements of its function "),
        (marked, "the attribute _kernel of "),
        (primitive, "a call of ReadFile"),
        (call, "a call of the function that saves its variables"),
        (hand_over, "a call of the function that saves its variables"),
        (offer, "the operation "),
        (differentiate, "the operation "),
        (outside, "the operation SaveV2"),
        (twice, "two functions of one name"),
        (disguised, "a function by the name of the operation ReadFile"),
        (unknown, "the operation NobodyKnowsThis"),
    ):
        assert edited(change).startswith(expected), change


def test_anything_but_one_graph_of_plain_objects_is_refused(tmp_path):
    path = saved_model(tmp_path / "model")
    program = (path / "saved_model.pb").read_bytes()

    def old(model):
        model.meta_graphs[0].ClearField("object_graph_def")

    def two(model):
        model.meta_graphs.add().CopyFrom(model.meta_graphs[0])

    def asset(model):
        model.meta_graphs[0].asset_file_def.add(filename="../../../etc/passwd")

    def revived(model):
        model.meta_graphs[0].object_graph_def.nodes[0].user_object.identifier = "_tf_keras_layer"

    def registered(model):
        model.meta_graphs[0].object_graph_def.nodes[0].registered_name = "somebody.Class"

    for change, expected in (
        (old, "another number of graphs"),
        (two, "another number of graphs"),
        (asset, "files beside its variables"),
        (revived, "an object _tf_keras_layer"),
        (registered, "an object that saves and loads itself"),
    ):
        model = saved_model_pb2.SavedModel.FromString(program)
        change(model)
        (path / "saved_model.pb").write_bytes(model.SerializeToString())
        assert f"with {expected}" in refusal(path, trust_saved_model=True)
    (path / "saved_model.pb").write_bytes(program[: len(program) // 2])
    assert f"Received: {path / 'saved_model.pb'}, which is damaged" in refusal(path, trust_saved_model=True)


def test_links_and_pipes_in_the_folder_are_refused(tmp_path):
    path = saved_model(tmp_path / "model")
    odd = path / "variables" / "odd"
    for make in (lambda: odd.symlink_to("/etc/passwd"), lambda: os.mkfifo(odd), (path / "saved_model.pbtxt").touch):
        make()
        said = refusal(path, trust_saved_model=True)
        assert f"Received: {odd}. " in said or f"Received: {path / 'saved_model.pbtxt'}. " in said
        odd.unlink(missing_ok=True)
    (path / "saved_model.pbtxt").unlink()
    check_saved_model(path, trusted=True)
    (tmp_path / "elsewhere").symlink_to(path)  # the user made a link to the folder itself
    check_saved_model(tmp_path / "elsewhere", trusted=True)


def test_the_allowed_operations_exist_and_take_no_file_name():
    from tensorflow.python.framework import op_def_registry

    operations = {name: op_def_registry.get(name) for name in STATEFUL}
    assert {name for name, found in operations.items() if found is None or not found.is_stateful} == set()
    texts = {attribute.name for found in operations.values() for attribute in found.attr if "string" in attribute.type}
    # Names of variables in the memory of the program.
    assert texts <= WORDS | {"container", "shared_name", "debug_name", "allowed_devices", "rnn_mode"} | {
        *("input_mode", "direction")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV3Small", "ConvNeXtTiny", "ResNet50V2"])
def test_the_networks_of_keras_pass(name, tmp_path):
    getattr(keras.applications, name)(weights=None).export(tmp_path / "model", verbose=False)
    check_saved_model(tmp_path / "model", trusted=True)


@pytest.mark.slow
def test_common_layers_pass(tmp_path):
    layers = keras.layers
    images = keras.Input((16, 16, 3))
    x = layers.RandomRotation(0.1)(layers.RandomFlip()(images))
    x = layers.GaussianNoise(0.1)(layers.Resizing(8, 8)(layers.RandomContrast(0.1)(x)))
    x = layers.SeparableConv2D(8, 3, activation="gelu")(layers.UpSampling2D()(x))
    x = layers.GroupNormalization(2)(layers.SpatialDropout2D(0.1)(x))
    x = layers.LayerNormalization()(layers.Reshape((-1, 8))(layers.Conv2DTranspose(8, 3, activation="silu")(x)))
    x = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.GRU(4)(layers.Bidirectional(layers.LSTM(4, return_sequences=True))(layers.Dropout(0.1)(x)))
    x = layers.UnitNormalization()(layers.EinsumDense("ab,bc->ac", output_shape=4)(x))
    model = keras.Model(images, x)
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = [keras.InputSpec(shape=(None, 16, 16, 3), dtype="float32")]
    archive.add_endpoint("serve", lambda images: model(images, training=False), input_signature=spec)
    archive.add_endpoint("train", lambda images: model(images, training=True), input_signature=spec)
    archive.write_out(str(tmp_path / "model"), verbose=False)
    check_saved_model(tmp_path / "model", trusted=True)
