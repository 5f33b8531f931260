"""Files, models and folders that do not fit: the message says what to do, and nothing has changed."""

import contextlib
import json
import os
import sys

import keras
import numpy as np
import pytest
import safetensors.numpy
from keras import layers

from keras_moco import SGD, presets
from keras_moco.backbones import resnet
from keras_moco.convert import (
    detectron2,
    encoder_from_pytorch,
    files,
    from_pytorch,
    load_pytorch,
    to_detectron2,
    to_pytorch,
)
from keras_moco.models import Encoder, MoCo, SimCLR, linear_head, mlp_head, simclr_head

QUERY, KEY, POINTER = "module.encoder_q.", "module.encoder_k.", "module.queue_ptr"


def make_encoder(name="resnet10", head=linear_head, width=4, stem="cifar"):
    return Encoder(resnet(name, width, stem, input_shape=(None, None, 3)), head(8 * width, 8))


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


@pytest.fixture(scope="module")
def model(encoder):
    return MoCo(encoder, queue_size=20)


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    """Tensors that fit `model`, none of which is what it has."""
    path = to_pytorch(model, tmp_path_factory.mktemp("checkpoint") / "moco.safetensors")
    rng = np.random.default_rng(0)
    tensors = safetensors.numpy.load_file(path)
    floats = {name: np.float32(rng.uniform(size=t.shape)) for name, t in tensors.items() if t.dtype == "float32"}
    return {**tensors, **floats, POINTER: np.array([3])}


@pytest.fixture(scope="module")
def state_dict(checkpoint):
    """Tensors that fit `encoder`."""
    return {name.removeprefix(QUERY): tensor for name, tensor in checkpoint.items() if name.startswith(QUERY)}


@pytest.fixture
def write(tmp_path):
    def write(tensors, **notes):
        path = tmp_path / "tensors.safetensors"
        safetensors.numpy.save_file(tensors, path, metadata=notes or None)
        return path

    return write


@pytest.fixture(scope="module")
def spare():
    """A model whose weights nobody counts on."""
    return MoCo(make_encoder(), queue_size=20)


@contextlib.contextmanager
def refused(*models):
    """A `ValueError`, after which the models have all their bits."""
    weights = [weight for model in models for weight in model.weights]
    before = [np.array(weight).tobytes() for weight in weights]
    with pytest.raises(ValueError) as error:
        yield error
    assert [np.array(weight).tobytes() for weight in weights] == before


def without(tensors, *parts):
    return {name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)}


def counters(tensors, steps):
    return {name: np.array(steps) for name in tensors if name.endswith("num_batches_tracked")}


@contextlib.contextmanager
def told(message):
    """One warning for users, which points to this file; NumPy has its own about Keras for developers."""
    with pytest.warns(UserWarning) as warned:
        yield
    [warning] = [warning for warning in warned if issubclass(warning.category, UserWarning)]
    assert str(warning.message) == message
    assert warning.filename == __file__


def left(path, *lines):
    return "\n  ".join([f"Received: {path}, with these left (- in the file, + in the model):", *lines])


def mismatch(path, *lines):
    return (
        "Every tensor of the file must have its weight in the model, and every weight its tensor. "
        f"{left(path, *lines)}\n"
        "Choose the model that fits, or leave them by allow_partial=True (--allow_partial)."
    )


def test_what_is_damaged_below_would_change_every_weight(checkpoint, write, model, spare):
    spare.set_weights(model.get_weights())
    load_pytorch(spare, write({**checkpoint, **counters(checkpoint, 5)}))
    pairs = zip(spare.weights, model.weights, strict=True)
    same = {new.name for new, old in pairs if np.array_equal(new, old)}
    assert same == {"not_finite", "sums", "steps"}  # of which a file of PyTorch knows nothing
    kernel = checkpoint[QUERY + "conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(spare.encoder.backbone.get_layer("conv1").kernel, kernel)
    assert spare.steps_done == 5 and int(spare.queue.count) == 23


# Files that cannot be read.


@pytest.mark.parametrize("kind", ["which does not exist", "a folder"])
def test_the_file_must_exist(kind, tmp_path, model):
    path = tmp_path if kind == "a folder" else tmp_path / "moco.safetensors"
    for convert in (from_pytorch, encoder_from_pytorch, lambda path: load_pytorch(model, path)):
        with refused(model) as error:
            convert(path)
        assert str(error.value) == (
            f"The checkpoint must be an existing file. Received: {path}, {kind}. Correct the path."
        )


def damaged(path):
    return (
        f"A safetensors file must be whole. Received: {path}, which is damaged, cut off, or something else. "
        "Fetch it again."
    )


def test_a_file_that_is_cut_off_is_refused(checkpoint, write, model):
    path = write(checkpoint)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with refused(model) as error:
            load_pytorch(model, path)
        assert str(error.value) == damaged(path), length


def headed(header, data=b""):
    """A safetensors file with any header."""
    header = json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


GARBAGE = {
    "noise": np.random.default_rng(0).bytes(1000),
    "zeros": bytes(1000),
    "text": b"<!DOCTYPE html><title>404</title>" * 30,
    "a header that says it is longer than the file": (2**40).to_bytes(8, "little") + b"{}",
    "a header of another kind": headed([1, 2]),
    "a tensor beyond the end": headed({"bn1.bias": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(15)),
    "a tensor of another size": headed(
        {"bn1.bias": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}, bytes(16)
    ),
    "an unknown precision": headed({"bn1.bias": {"dtype": "F31", "shape": [4], "data_offsets": [0, 16]}}, bytes(16)),
    "PyTorch's own": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused(content, tmp_path, model):
    path = tmp_path / "moco.safetensors"
    path.write_bytes(content)
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == damaged(path)


def test_notes_that_are_no_json_are_refused(checkpoint, write, model):
    path = write(checkpoint, keras_moco="{")
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == damaged(path)


@pytest.mark.parametrize("notes", ["[1]", "3", "null", '"x"'])
def test_notes_that_are_no_dict_are_left_out(notes, state_dict, write):
    path = write(state_dict, keras_moco=notes)
    assert files.read(path).settings == {}
    assert encoder_from_pytorch(path).mean == list(presets.CIFAR10_MEAN)


def test_notes_of_a_wrong_kind_are_left_out_one_by_one(checkpoint, write):
    wrong = {"stem": 3, "mean": "x", "std": 1, "momentum": "big", "symmetric": 1, "bn_mode": [], "bn_splits": 2.5}
    model = from_pytorch(write(checkpoint, keras_moco=json.dumps({**wrong, "seed": None, "temperature": 0.5, "x": 1})))
    preset = presets.PRESETS["moco_v1_resnet18_cifar10"]
    assert (model.temperature, model.momentum) == (0.5, preset.momentum)
    assert (model.encoder.mean, model.encoder.std) == (list(preset.mean), list(preset.std))
    defaults = MoCo(model.encoder, queue_size=20).get_config()
    for name in ("symmetric", "bn_mode", "bn_splits", "seed"):
        assert model.get_config()[name] == defaults[name], name


def test_notes_of_others_are_left_out(state_dict, write):
    assert files.read(write(state_dict, format="pt")).settings == {}


def test_a_precision_that_numpy_lacks_is_refused(tmp_path, model):
    path = tmp_path / "moco.safetensors"
    path.write_bytes(headed({"bn1.bias": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)))
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == (
        f"Tensors must be dense, of a dtype that NumPy has. Received: {path} with a tensor, of which is said: module "
        "'numpy' has no attribute 'float8_e4m3fn'. Save them as float32."
    )


# Other networks.


def not_a_resnet(path, found):
    return (
        "The tensors must be those of torchvision's resnet10, resnet18, resnet34, resnet50, resnet101, resnet152, with "
        f"a first kernel of 7x7 or 3x3. Received: {path} with {found}. Only these can be converted."
    )


def test_a_vision_transformer_is_refused(write):
    blocks = {f"blocks.{i}.attn.qkv.weight": np.zeros((12, 4), "float32") for i in range(4)}
    path = write({"patch_embed.proj.weight": np.zeros((4, 3, 16, 16), "float32"), **blocks})
    with refused() as error:
        encoder_from_pytorch(path)
    names = "blocks.0.attn.qkv.weight, blocks.1.attn.qkv.weight, blocks.2.attn.qkv.weight"
    assert str(error.value) == not_a_resnet(path, f"5 tensors such as {names}")


OTHERS = {
    "basic blocks": ({"layer3.1.conv1.weight": (16, 16, 3, 3)}, "1-1-2-1 basic blocks and a first kernel of 3x3"),
    "bottlenecks": ({"layer1.0.conv3.weight": (16, 4, 1, 1)}, "1-1-1-1 bottleneck blocks and a first kernel of 3x3"),
    "a stage": ({"layer5.0.conv1.weight": (64, 32, 3, 3)}, "1-1-1-1-1 basic blocks and a first kernel of 3x3"),
    "the kernel": ({"conv1.weight": (4, 3, 5, 5)}, "1-1-1-1 basic blocks and a first kernel of 5x5"),
}


@pytest.mark.parametrize("shapes, found", OTHERS.values(), ids=OTHERS)
def test_other_residual_networks_are_refused(shapes, found, state_dict, checkpoint, write):
    path = write(state_dict | {name: np.zeros(shape, "float32") for name, shape in shapes.items()})
    with refused() as error:
        encoder_from_pytorch(path)
    assert str(error.value) == not_a_resnet(path, found)
    path = write(checkpoint | {QUERY + name: np.zeros(shape, "float32") for name, shape in shapes.items()})
    with refused() as error:
        from_pytorch(path)
    assert str(error.value) == not_a_resnet(path, found)


def test_a_first_layer_that_is_no_convolution_is_refused(state_dict, write):
    path = write({**state_dict, "conv1.weight": np.zeros((4, 3), "float32")})
    with refused() as error:
        encoder_from_pytorch(path)
    names = "bn1.bias, bn1.num_batches_tracked, bn1.running_mean"
    assert str(error.value) == not_a_resnet(path, f"{len(state_dict)} tensors such as {names}")


def test_another_depth_does_not_fit_the_model(tmp_path, encoder, state_dict):
    path = to_pytorch(make_encoder("resnet18"), tmp_path / "resnet18.safetensors")
    with refused(encoder) as error:
        load_pytorch(encoder, path)
    tensors = without(safetensors.numpy.load_file(path), "tracked").items()
    more = [f"- {name} ({', '.join(map(str, t.shape))})" for name, t in sorted(tensors) if name not in state_dict]
    assert len(more) == 4 * (2 + 2 * 4)
    assert str(error.value) == mismatch(path, *more)


def test_the_stem_of_the_argument_must_fit_the_file(state_dict, write):
    path = write(state_dict)
    with refused() as error:
        encoder_from_pytorch(path, stem="imagenet")
    assert str(error.value) == mismatch(path, "- conv1.weight (4, 3, 3, 3)", "+ conv1.weight (4, 3, 7, 7)")
    with refused() as error:
        encoder_from_pytorch(path, stem="vgg")
    assert str(error.value) == "`stem` must be one of imagenet, cifar, half. Received: 'vgg'. Choose one of them."


def test_the_preset_must_fit_the_file(checkpoint, state_dict, write):
    for convert, tensors in ((from_pytorch, checkpoint), (encoder_from_pytorch, state_dict)):
        path = write(tensors)
        with refused() as error:
            convert(path, preset="moco_v2_resnet50_imagenet")
        assert str(error.value) == (
            "The file must hold what the preset names, resnet50 of width 64, imagenet stem, mlp head of 128. Received: "
            f"{path} with resnet10 of width 4, cifar stem, linear head of 8. Choose the preset that fits, or none."
        )


def test_a_preset_must_be_known(checkpoint, write):
    path = write(checkpoint)
    for ask in (presets.moco, lambda name: from_pytorch(path, name), lambda name: encoder_from_pytorch(path, name)):
        with refused() as error:
            ask("moco_v3_resnet50_imagenet")
        assert str(error.value) == (
            f"`preset` must be one of {', '.join(presets.PRESETS)}. "
            "Received: 'moco_v3_resnet50_imagenet'. Choose one of them."
        )
    assert "moco_v1_resnet50_imagenet" in presets.PRESETS


# Tensors and weights that are left over.


def test_extra_tensors_are_listed(state_dict, checkpoint, write, encoder, model):
    path = write({**state_dict, "extra": np.zeros((2, 3), "float32"), "scalar": np.float32(1)[...]})
    with refused(encoder) as error:
        load_pytorch(encoder, path)
    assert str(error.value) == mismatch(path, "- extra (2, 3)", "- scalar ()")
    path = write({**checkpoint, "module.queue2": np.zeros((8, 20), "float32")})
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == mismatch(path, "- queue2 (8, 20)")


def test_missing_weights_are_listed(state_dict, checkpoint, write, encoder, model):
    path = write(without(state_dict, "layer2.0.downsample.0", "fc.bias"))
    with refused(encoder) as error:
        load_pytorch(encoder, path)
    assert str(error.value) == mismatch(path, "+ layer2.0.downsample.0.weight (8, 4, 1, 1)", "+ fc.bias (8)")
    path = write(without(checkpoint, KEY + "fc.bias"))
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == mismatch(path, "+ encoder_k.fc.bias (8)")


def test_tensors_of_another_shape_are_listed_on_both_sides(state_dict, write, encoder):
    path = write({**state_dict, "bn1.bias": np.zeros((4, 1), "float32")})
    with refused(encoder) as error:
        load_pytorch(encoder, path)
    assert str(error.value) == mismatch(path, "- bn1.bias (4, 1)", "+ bn1.bias (4)")


MLP = {"fc.0.bias": (32,), "fc.0.weight": (32, 32), "fc.2.bias": (8,), "fc.2.weight": (8, 32)}


def test_another_head_is_listed_on_both_sides(state_dict, write, encoder):
    tensors = {name: np.zeros(shape, "float32") for name, shape in MLP.items()}
    path = write(without(state_dict, "fc.") | tensors)
    with refused(encoder) as error:
        load_pytorch(encoder, path)
    assert str(error.value) == mismatch(
        path,
        "- fc.0.bias (32)",
        "- fc.0.weight (32, 32)",
        "- fc.2.bias (8)",
        "- fc.2.weight (8, 32)",
        "+ fc.weight (8, 32)",
        "+ fc.bias (8)",
    )
    mlp = make_encoder(head=mlp_head)
    path = write(state_dict)
    with refused(mlp) as error:
        load_pytorch(mlp, path)
    assert str(error.value) == mismatch(
        path,
        "- fc.bias (8)",
        "- fc.weight (8, 32)",
        "+ fc.0.weight (32, 32)",
        "+ fc.0.bias (32)",
        "+ fc.2.weight (8, 32)",
        "+ fc.2.bias (8)",
    )


def test_a_missing_head_is_listed(state_dict, checkpoint, write):
    path = write(without(state_dict, "fc."))
    with refused() as error:
        encoder_from_pytorch(path)
    assert str(error.value) == mismatch(path, "+ fc.weight (128, 32)", "+ fc.bias (128)")
    path = write(without(checkpoint, "fc."))
    with refused() as error:
        from_pytorch(path)
    assert str(error.value) == mismatch(
        path,
        "- queue (8, 20)",
        "+ encoder_q.fc.weight (128, 32)",
        "+ encoder_q.fc.bias (128)",
        "+ encoder_k.fc.weight (128, 32)",
        "+ encoder_k.fc.bias (128)",
        "+ queue (128, 20)",
    )


def test_a_missing_head_may_be_asked_for(state_dict, write, tmp_path):
    backbone = without(state_dict, "fc.", "tracked")
    path = write(backbone)
    lines = ("+ fc.weight (128, 32)", "+ fc.bias (128)")
    with told(f"Only part of the weights was converted. {left(path, *lines)}"):
        encoder = encoder_from_pytorch(path, allow_partial=True)
    kernel = backbone["layer3.0.downsample.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(encoder.backbone.get_layer("layer3_0_downsample_conv").kernel, kernel)
    again = safetensors.numpy.load_file(to_pytorch(encoder, tmp_path / "again.safetensors"))
    assert again.pop("fc.weight").shape == (128, 32) and again.pop("fc.bias").shape == (128,)
    assert sorted(without(again, "tracked")) == sorted(backbone)
    for name in backbone:
        np.testing.assert_array_equal(again[name], backbone[name], err_msg=name)


@pytest.mark.parametrize("convert", ["from_pytorch", "load_pytorch"])
def test_a_partial_moco_is_told(convert, checkpoint, write, spare):
    path = write({**checkpoint, "module.extra": np.zeros(2, "float32")})
    with told(f"Only part of the weights was converted. {left(path, '- extra (2)')}"):
        if convert == "from_pytorch":
            model = from_pytorch(path, allow_partial=True)
        else:
            model = spare
            load_pytorch(model, path, allow_partial=True)
    np.testing.assert_array_equal(model.queue.features, checkpoint["module.queue"].T)


def test_a_partial_encoder_is_told(state_dict, write, spare):
    path = write({**state_dict, "extra": np.zeros(2, "float32")})
    with told(f"Only part of the weights was converted. {left(path, '- extra (2)')}"):
        load_pytorch(spare.encoder, path, allow_partial=True)
    np.testing.assert_array_equal(spare.encoder.head.get_layer("fc").bias, state_dict["fc.bias"])


def twice(path, *names):
    return (
        f"Every weight must have one tensor. Received: {path} with {', '.join(names)} twice, with and without a "
        "wrapper's name. Save one of them."
    )


def test_two_tensors_of_one_weight_are_refused(state_dict, checkpoint, write, encoder, model):
    path = write({**state_dict, "module.bn1.bias": state_dict["bn1.bias"] + 1})
    with refused(encoder) as error:
        load_pytorch(encoder, path)
    assert str(error.value) == twice(path, "bn1.bias")
    more = {name.removeprefix("module."): checkpoint[name] for name in (QUERY + "bn1.running_var", POINTER)}
    path = write({**checkpoint, **more})
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == twice(path, "encoder_q.bn1.running_var", "queue_ptr")


# Parts of a checkpoint.


def no_moco(path, beginnings):
    return (
        "A checkpoint of MoCo must hold encoder_q, encoder_k, queue and queue_ptr. "
        f"Received: {path} with {beginnings}. Use encoder_from_pytorch for an encoder alone."
    )


def test_a_part_of_a_moco_is_no_moco(state_dict, checkpoint, write, model):
    for tensors, beginnings in (
        (state_dict, "bn1, conv1, fc, layer1, layer2"),
        (without(checkpoint, KEY), "encoder_q, queue, queue_ptr"),
        (without(checkpoint, QUERY), "encoder_k, queue, queue_ptr"),
    ):
        path = write(tensors)
        for convert in (from_pytorch, lambda path: load_pytorch(model, path)):
            with refused(model) as error:
                convert(path)
            assert str(error.value) == no_moco(path, beginnings)


def test_the_queue_must_be_as_long_as_the_model_has_it(checkpoint, write, encoder):
    model = MoCo(encoder, queue_size=12)
    path = write(checkpoint)
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == mismatch(path, "- queue (8, 20)", "+ queue (8, 12)")


def test_the_queue_must_be_as_wide_as_the_embedding(checkpoint, write, model):
    path = write({**checkpoint, "module.queue": np.zeros((16, 20), "float32")})
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == mismatch(path, "- queue (16, 20)", "+ queue (8, 20)")


def test_the_queue_must_be_there(checkpoint, write, model):
    path = write(without(checkpoint, "module.queue") | {POINTER: np.array([3])})
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == mismatch(path, "+ queue (8, 20)")


POINTERS = {
    "[20]": np.array([20]),
    "[-1]": np.array([-1]),
    "[1, 2]": np.array([1, 2]),
    "[]": np.zeros(0, "int64"),
    "[3.0]": np.array([3.0]),
    "[nan]": np.array([np.nan]),
    "[inf]": np.array([np.inf]),
    "[True]": np.array([True]),
    "none": None,
}


@pytest.mark.parametrize("found", POINTERS)
def test_the_pointer_must_be_one_row_of_the_queue(found, checkpoint, write, model):
    tensors = without(checkpoint, POINTER)
    path = write(tensors if POINTERS[found] is None else {**tensors, POINTER: POINTERS[found]})
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == (
        f"`queue_ptr` must be one row of the queue, 0 to 19. Received: {path} with {found}. "
        "Fetch or save the file again."
    )


def test_scalars_in_place_of_tensors_are_refused(checkpoint, state_dict, write, model):
    path = write({**checkpoint, "module.queue": np.array(1, "float32")})
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == mismatch(path, "- queue ()", "+ queue (8, 20)")
    path = write({**state_dict, "fc.weight": np.array(1, "float32")})
    with refused() as error:
        encoder_from_pytorch(path)
    assert str(error.value) == mismatch(
        path, "- fc.bias (8)", "- fc.weight ()", "+ fc.weight (128, 32)", "+ fc.bias (128)"
    )


def test_a_scalar_in_place_of_the_queue_gives_the_published_length(checkpoint, write):
    path = write({**checkpoint, "module.queue": np.array(1, "float32")})
    with refused() as error:
        from_pytorch(path)
    assert str(error.value) == mismatch(path, "- queue ()", "+ queue (8, 4096)")


# Numbers.


def digits_lost(path, name, dtype, advice=""):
    return (
        "Tensors must fit into float32, the precision of the model, or digits are lost. "
        f"Received: {path} with {name} of {dtype}. Save them as float32{advice}."
    )


WIDER = ", or build the model under keras.config.set_dtype_policy('float64')"

LOSSES = {
    "a digit": (np.float64(0.1), WIDER),
    "too large": (np.float64(1e300), WIDER),
    "too small": (np.float64(1e-60), WIDER),
    "an integer": (np.int64(2**24 + 1), ""),
    "the largest integer": (np.int32(2**31 - 1), ""),
    "the largest of all": (np.uint64(2**64 - 1), ""),
    "complex": (np.complex64(1), ""),
    "bool": (np.bool_(True), ""),
}


@pytest.mark.parametrize("value, advice", LOSSES.values(), ids=LOSSES)
def test_values_that_do_not_fit_are_refused(value, advice, checkpoint, write, model):
    # Of the last tensors: those before them are not assigned.
    tensor = np.zeros(8, value.dtype)
    tensor[5] = value
    path = write({**checkpoint, KEY + "fc.bias": tensor})
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == digits_lost(path, "encoder_k.fc.bias", value.dtype, advice)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "uint16", "int64"])
def test_values_that_fit_are_taken_exactly_in_any_precision(dtype, checkpoint, write, spare, tmp_path):
    rng = np.random.default_rng(1)

    def convert(tensor):
        if tensor.dtype != "float32":
            return tensor
        if dtype == "float64":
            return np.float64(tensor)
        return tensor.astype(dtype) if dtype == "float16" else rng.integers(0, 100, tensor.shape).astype(dtype)

    tensors = {name: convert(tensor) for name, tensor in checkpoint.items()}
    load_pytorch(spare, write(tensors))
    again = safetensors.numpy.load_file(to_pytorch(spare, tmp_path / "again.safetensors"))
    assert sorted(again) == sorted(tensors)
    for name, tensor in without(tensors, "tracked", POINTER).items():
        assert tensor.dtype == dtype and again[name].dtype == "float32"
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_values_that_are_none_stay_so(checkpoint, write, spare):
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1, 2, 3, 4])
    load_pytorch(spare, write({**checkpoint, QUERY + "fc.bias": values}))
    bias = np.array(spare.encoder.head.get_layer("fc").bias)
    assert bias.tobytes() == values.astype("float32").tobytes()


def test_a_model_of_bfloat16_comes_back(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    ours = MoCo(make_encoder(), queue_size=20)
    assert ours.encoder.head.get_layer("fc").kernel.dtype == "bfloat16"
    path = to_pytorch(ours, tmp_path / "moco.safetensors")

    def expect(theirs):
        for old, new in zip(ours.weights, theirs.weights, strict=True):
            assert old.dtype == new.dtype
            if not old.path.endswith("queue/count"):  # all keys of a file count as real ones
                assert np.array(old).tobytes() == np.array(new).tobytes(), old.path

    theirs = from_pytorch(path)
    expect(theirs)
    for weight in theirs.weights:
        weight.assign(weight * 0)
    load_pytorch(theirs, path)
    expect(theirs)


def test_counters_that_differ_are_told_and_the_largest_taken(checkpoint, write, spare):
    path = write({**checkpoint, **counters(checkpoint, 3), KEY + "bn1.num_batches_tracked": np.array(8)})
    message = f"BatchNorm's counters in {path} differ, from 3 to 8: the largest is taken for the steps trained."
    for model, steps in ((spare, 8), (MoCo(spare.encoder, queue_size=20, symmetric=True), 4)):
        with told(message):
            load_pytorch(model, path)
        assert model.steps_done == steps
    with told(message):
        model = from_pytorch(path)
    assert model.steps_done == 8


@pytest.mark.parametrize("steps", [-1, 1.5, 2.0, "3"])
def test_steps_must_count(steps, checkpoint, write, model):
    path = write(checkpoint)
    with refused(model) as error:
        load_pytorch(model, path, steps=steps)
    assert str(error.value) == (
        f"`steps` must be a whole number, at least 0. Received: steps={steps!r}. Leave it out, or count."
    )


def test_training_goes_on_from_files_with_an_optimizer_only(checkpoint, write, encoder):
    path = write({**checkpoint, **counters(checkpoint, 5)})
    model = MoCo(encoder, queue_size=20)
    model.compile(optimizer=SGD())
    model.optimizer.build(model.trainable_variables)
    with refused(model) as error:
        load_pytorch(model, path)
    assert str(error.value) == (
        "A checkpoint to go on training from must hold the state of its optimizer. "
        f"Received: {path} without one. Leave the optimizer out, or start it anew by allow_partial=True."
    )
    assert int(model.optimizer.iterations) == 0


def test_the_optimizer_must_be_the_one_whose_state_is_known(checkpoint, write):
    path = write(checkpoint)
    for optimizer in (keras.optimizers.SGD(), "sgd"):
        with refused() as error:
            from_pytorch(path, optimizer=optimizer)
        assert str(error.value) == (
            "`optimizer` must be a keras_moco.SGD, whose state the authors' checkpoints hold. "
            f"Received: {type(optimizer).__name__}. Compile the model with another optimizer afterwards."
        )


# Models that have no place in the layout.


def test_only_moco_and_encoders_are_converted(checkpoint, write, encoder, tmp_path):
    path = write(checkpoint)
    for model in (SimCLR(encoder), keras.Sequential([keras.Input((2,)), layers.Dense(2)])):
        for convert in (lambda model: load_pytorch(model, path), lambda model: to_pytorch(model, tmp_path / "new.pth")):
            with refused(model) as error:
                convert(model)
            assert str(error.value) == (
                "`model` must be a MoCo or an Encoder, which the authors' layout knows. "
                f"Received: {type(model).__name__}. Give model.encoder, the encoder that was learnt."
            )
    assert os.listdir(tmp_path) == [path.name]


def own_backbone(name="mine", kernel=3):
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(32, kernel, name=name), layers.BatchNormalization()])


def other_layers(names):
    return (
        "The encoder must be a ResNet of keras_moco.backbones with a linear or MLP head, whose layers "
        f"PyTorch's ResNet has too. Received: layer {names}. Convert other encoders by tools of their own."
    )


def test_other_layers_are_refused_by_name(tmp_path, state_dict, write):
    body = Encoder(own_backbone(), linear_head(32, 8))
    head = make_encoder(head=simclr_head)
    path = write(state_dict)
    for encoder, names in ((body, "mine, batch_normalization"), (head, "bn1, bn2, fc3, bn3")):
        for convert in (
            lambda encoder: load_pytorch(encoder, path),
            lambda encoder: to_pytorch(encoder, tmp_path / "new.pth"),
        ):
            with refused(encoder) as error:
                convert(encoder)
            assert str(error.value) == other_layers(names)
    with refused(body) as error:
        to_detectron2(body, tmp_path / "new.pkl")
    assert str(error.value) == other_layers("mine, batch_normalization")
    assert os.listdir(tmp_path) == [path.name]


def test_a_layer_that_is_called_as_a_resnets_is_not_read_as_one(tmp_path):
    backbone = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(32, 5, name="conv1")])
    encoder = Encoder(backbone, linear_head(32, 8))
    path = to_pytorch(MoCo(encoder, queue_size=20), tmp_path / "new.safetensors")
    with refused() as error:
        from_pytorch(path)
    names = "conv1.bias, conv1.weight, fc.bias"
    assert str(error.value) == not_a_resnet(path, f"4 tensors such as {names}")
    with refused() as error:
        to_detectron2(encoder, tmp_path / "backbone.pkl")
    assert str(error.value) == not_a_resnet("the model", "2 tensors such as conv1.weight, conv1.bias")
    assert os.listdir(tmp_path) == [path.name]


def test_a_backbone_without_a_first_convolution_is_refused(tmp_path):
    backbone = keras.Sequential([keras.Input((8, 8, 3)), layers.BatchNormalization(name="bn1")])
    with refused():
        to_pytorch(MoCo(Encoder(backbone, linear_head(3, 8)), queue_size=20), tmp_path / "new.safetensors")
    assert not os.listdir(tmp_path)


# Detectron2.


UNFIT = {
    "the stem": (dict(name="resnet18", stem="cifar", width=64), "resnet18 that begins with (64, 3, 3, 3)"),
    "the width": (dict(name="resnet18", stem="imagenet", width=4), "resnet18 that begins with (4, 3, 7, 7)"),
    "the depth": (dict(name="resnet10", stem="imagenet", width=64), "resnet10 that begins with (64, 3, 7, 7)"),
}


@pytest.mark.parametrize("settings, found", UNFIT.values(), ids=UNFIT)
def test_detectron2_needs_a_resnet_of_its_own(settings, found, tmp_path):
    encoder = make_encoder(**settings)
    with refused(encoder) as error:
        to_detectron2(encoder, tmp_path / "backbone.pkl")
    assert str(error.value) == (
        "Detectron2's ResNet must be one of resnet18, resnet34, resnet50, resnet101, resnet152 and begin with a kernel "
        f"(64, 3, 7, 7): width 64, three channels, the ImageNet stem. Received: {found}. "
        "Only such a backbone can be converted."
    )
    assert not os.listdir(tmp_path)


def test_detectron2_needs_three_channels(tmp_path):
    encoder = Encoder(resnet("resnet18", input_shape=(None, None, 1)), linear_head(512), mean=0.5, std=0.5)
    with refused() as error:
        to_detectron2(encoder, tmp_path / "backbone.pkl")
    assert "Received: resnet18 that begins with (64, 1, 7, 7)." in str(error.value)
    assert not os.listdir(tmp_path)


def test_detectron2_takes_any_head(large, tmp_path):
    encoder = Encoder(large.backbone, simclr_head(512, 8))
    one, other = (
        to_detectron2(model, tmp_path / f"{i}.pkl").read_bytes() for i, model in enumerate((large, SimCLR(encoder)))
    )
    assert one == other


def test_detectron2_needs_its_ending(encoder, tmp_path):
    path = tmp_path / "backbone.pth"
    with refused(encoder) as error:
        to_detectron2(encoder, path)
    assert str(error.value) == (
        "The name of a file for Detectron2 must end in .pkl, by which it knows the format. "
        f"Received: {path}. Rename it."
    )


def test_detectron2_needs_an_encoder(tmp_path):
    with refused() as error:
        to_detectron2(own_backbone(), tmp_path / "backbone.pkl")
    assert str(error.value) == (
        "`model` must be an Encoder, or a model that has one as `encoder`. Received: Sequential. "
        "Build one with keras_moco.Encoder."
    )


# Files that cannot be written.


@pytest.fixture(scope="module")
def large():
    """What Detectron2 takes."""
    return make_encoder("resnet18", width=64, stem="imagenet")


WRITERS = {"moco.safetensors": to_pytorch, "moco.pth": to_pytorch, "moco.pkl": to_detectron2}


@pytest.mark.parametrize("name", WRITERS)
def test_an_existing_file_stays(name, large, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"mine")
    with refused(large) as error:
        WRITERS[name](large, path)
    assert str(error.value) == (
        f"The file to write must not exist yet. Received: {path}, which exists. "
        "Choose another name, or overwrite it by overwrite=True (--overwrite)."
    )
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_the_folder_must_exist(name, large, tmp_path):
    path = tmp_path / "new" / name
    with refused(large) as error:
        WRITERS[name](large, path)
    assert str(error.value) == (
        f"The file must be written into an existing folder. Received: {path}. Make {path.parent} first."
    )
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_is_not_overwritten(name, overwrite, large, tmp_path):
    path = tmp_path / name
    path.mkdir()
    with refused(large) as error:
        WRITERS[name](large, path, overwrite=overwrite)
    assert str(error.value) == f"The file to write must be a file. Received: {path}, a folder. Choose another name."
    assert not os.listdir(path) and os.listdir(tmp_path) == [name]


def fills_up(*arguments, **settings):
    """Stands for what writes to a disk."""
    raise OSError("disk full")


def fills_up_halfway(tensors, path, metadata):
    path.write_bytes(b"half")
    fills_up()


FAILURES = {
    "moco.safetensors before": (safetensors.numpy, "save_file", fills_up),
    "moco.safetensors halfway": (safetensors.numpy, "save_file", fills_up_halfway),
    "moco.safetensors after": (os, "replace", fills_up),
    "moco.pkl halfway": (detectron2._Pickler, "dump", fills_up),
    "moco.pkl after": (os, "replace", fills_up),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_write_leaves_the_last_file(case, large, tmp_path, monkeypatch):
    name = case.partition(" ")[0]
    path = tmp_path / name
    path.write_bytes(b"mine")
    monkeypatch.setattr(*FAILURES[case])
    with pytest.raises(OSError, match="^disk full$"):
        WRITERS[name](large, path, overwrite=True)
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["moco.safetensors", "moco.pkl"])
def test_overwriting_leaves_one_file(name, large, tmp_path):
    (tmp_path / name).write_bytes(b"mine")
    assert WRITERS[name](large, tmp_path / name, overwrite=True) == tmp_path / name
    assert (tmp_path / name).stat().st_size > 10**7 and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("package, suffix", [("torch", ".pth"), ("safetensors", ".safetensors")])
def test_a_missing_package_is_named_with_its_extra(package, suffix, encoder, tmp_path, monkeypatch):
    path = tmp_path / f"encoder{suffix}"
    path.write_bytes(b"mine")
    # `None` is what makes Python say that there is no such package.
    for name in (package, f"{package}.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    for convert in (
        from_pytorch,
        encoder_from_pytorch,
        lambda path: load_pytorch(encoder, path),
        lambda path: to_pytorch(encoder, path, overwrite=True),
    ):
        with pytest.raises(ImportError) as error:
            convert(path)
        assert str(error.value).startswith(f"{package} must be installed to read and write PyTorch's files. Received: ")
        assert str(error.value).endswith('. Run pip install "keras_moco[torch]".')
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == [path.name]
