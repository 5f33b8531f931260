"""Files that cannot be read, or that hold another network, are refused; nothing has changed then."""

import functools
import json

import numpy as np
import pytest

from keras_moco import presets
from keras_moco.convert import encoder_from_pytorch, files, from_pytorch, load_pytorch
from keras_moco.models import MoCo
from tests.convert.small_moco import KEY, POINTER, QUERY, left_over, refused, without


def test_file_that_fits_changes_every_weight(checkpoint, write, model, spare):
    spare.set_weights(model.get_weights())
    counters = {name: np.array(5) for name in checkpoint if name.endswith("num_batches_tracked")}
    load_pytorch(spare, write({**checkpoint, **counters}))
    pairs = zip(spare.weights, model.weights, strict=True)
    same = {new.name for new, old in pairs if np.array_equal(new, old)}
    assert same == {"not_finite", "sums", "steps"}  # of which a file of PyTorch knows nothing
    kernel = checkpoint[QUERY + "conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(spare.encoder.backbone.get_layer("conv1").kernel, kernel)
    assert spare.steps_done == 5 and int(spare.queue.count) == 23


@pytest.mark.parametrize("name, found", [("absent.safetensors", "does not exist"), (".", "a folder")])
def test_file_must_exist(name, found, tmp_path, model):
    for convert in (from_pytorch, encoder_from_pytorch, functools.partial(load_pytorch, model)):
        with refused(f"{tmp_path / name}, ", found, unchanged=[model]):
            convert(tmp_path / name)


def test_file_cut_off(checkpoint, write, model):
    path = write(checkpoint)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with refused(f"{path}, which is damaged", unchanged=[model]):
            load_pytorch(model, path)


def headed(header, data=b""):
    """A safetensors file with any header."""
    header = json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


def one_tensor(dtype="F32", size=4, end=16, length=16, **others):
    return headed({"bn1.bias": {"dtype": dtype, "shape": [size], "data_offsets": [0, end]}, **others}, bytes(length))


DAMAGED = {
    "noise": np.random.default_rng(0).bytes(1000),
    "zeros": bytes(1000),
    "text": b"<!DOCTYPE html><title>404</title>" * 30,
    "a header longer than the file": (2**40).to_bytes(8, "little") + b"{}",
    "a header of another kind": headed([1, 2]),
    "a tensor beyond the end": one_tensor(length=15),
    "a tensor of another size": one_tensor(size=5),
    "an unknown precision": one_tensor(dtype="F31"),
    "notes that are no JSON": one_tensor(__metadata__={"keras_moco": "{"}),
    "a file of PyTorch": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_file(content, tmp_path, model):
    path = tmp_path / "moco.safetensors"
    path.write_bytes(content)
    with refused(f"{path}, which is damaged", unchanged=[model]):
        load_pytorch(model, path)


def test_precision_that_numpy_lacks(tmp_path, model):
    path = tmp_path / "moco.safetensors"
    path.write_bytes(one_tensor(dtype="F8_E4M3", end=4, length=4))
    with refused(path, "float8_e4m3fn", unchanged=[model]):
        load_pytorch(model, path)


def test_notes_that_are_not_ours_are_ignored(state_dict, write):
    for notes in ({"format": "pt"}, *({"keras_moco": text} for text in ("[1]", "3", "null", '"x"'))):
        path = write(state_dict, **notes)
        assert files.read(path).settings == {}, notes
    assert encoder_from_pytorch(path).mean == list(presets.CIFAR10_MEAN)


def test_each_note_of_a_wrong_kind_is_ignored(checkpoint, write):
    wrong = {"stem": 3, "mean": "x", "std": 1, "momentum": "big", "symmetric": 1, "bn_mode": [], "bn_splits": 2.5}
    model = from_pytorch(write(checkpoint, keras_moco=json.dumps({**wrong, "seed": None, "temperature": 0.5, "x": 1})))
    preset = presets.PRESETS["moco_v1_resnet18_cifar10"]
    assert (model.temperature, model.momentum) == (0.5, preset.momentum)
    assert (model.encoder.mean, model.encoder.std) == (list(preset.mean), list(preset.std))
    defaults = MoCo(model.encoder, queue_size=20).get_config()
    for name in ("symmetric", "bn_mode", "bn_splits", "seed"):
        assert model.get_config()[name] == defaults[name], name


NETWORKS = {
    "more blocks": ({"layer1.1.conv1.weight": (4, 4, 3, 3)}, " 2 basic blocks and a first kernel of 3x3"),
    "bottlenecks": ({"layer1.0.conv3.weight": (16, 4, 1, 1)}, " 1 bottleneck blocks and a first kernel of 3x3"),
    "another stage": ({"layer2.0.conv1.weight": (8, 4, 3, 3)}, " 1-1 basic blocks and a first kernel of 3x3"),
    "another kernel": ({"conv1.weight": (4, 3, 5, 5)}, " 1 basic blocks and a first kernel of 5x5"),
    "no convolution": (
        {"conv1.weight": (4, 3)},
        " tensors such as bn1.bias, bn1.num_batches_tracked, ",
    ),
}


@pytest.mark.parametrize("shapes, found", NETWORKS.values(), ids=NETWORKS)
def test_other_residual_network(shapes, found, state_dict, checkpoint, write):
    path = write(state_dict | shapes)
    with refused(path, found):
        encoder_from_pytorch(path)
    path = write(checkpoint | {QUERY + name: shape for name, shape in shapes.items()})
    with refused(path, found):
        from_pytorch(path)


def test_vision_transformer(write):
    path = write({"patch_embed.proj.weight": (4, 3, 16, 16), "blocks.0.attn.qkv.weight": (12, 4)})
    with refused(f"{path} with 2 tensors such as blocks.0.attn.qkv.weight, patch_embed.proj.weight."):
        encoder_from_pytorch(path)


def test_given_stem_must_fit_the_file(state_dict, write):
    path = write(state_dict)
    with refused(path) as error:
        encoder_from_pytorch(path, stem="imagenet")
    assert left_over(error.value) == ["- conv1.weight (4, 3, 3, 3)", "+ conv1.weight (4, 3, 7, 7)"]
    with refused("`stem`", "'vgg'"):
        encoder_from_pytorch(path, stem="vgg")


def test_preset_must_fit_the_file(checkpoint, state_dict, write):
    for convert, tensors in ((from_pytorch, checkpoint), (encoder_from_pytorch, state_dict)):
        path = write(tensors)
        with refused(
            "resnet50 of width 64, imagenet stem, mlp head of 128",
            f"{path} with tiny of width 4, cifar stem, linear head of 8",
        ):
            convert(path, preset="moco_v2_resnet50_imagenet")
        with refused("`preset`", "moco_v1_resnet50_imagenet", "'moco_v3'"):
            convert(path, preset="moco_v3")


def test_part_of_a_moco_is_no_moco(state_dict, checkpoint, write, model):
    for tensors, beginnings in (
        (state_dict, "bn1, conv1, fc, layer1"),
        (without(checkpoint, KEY), "encoder_q, queue, queue_ptr"),
        (without(checkpoint, QUERY), "encoder_k, queue, queue_ptr"),
    ):
        path = write(tensors)
        for convert in (from_pytorch, functools.partial(load_pytorch, model)):
            with refused(f"{path} with {beginnings}.", unchanged=[model]):
                convert(path)


POINTERS = {
    "[20]": np.array([20]),
    "[-1]": np.array([-1]),
    "[1, 2]": np.array([1, 2]),
    "[]": np.zeros(0, "int64"),
    "[3.0]": np.array([3.0]),
    "[nan]": np.array([np.nan]),
    "[True]": np.array([True]),
    "none": None,
}


@pytest.mark.parametrize("found", POINTERS)
def test_pointer_must_be_a_row_of_the_queue(found, checkpoint, write, model):
    tensors = without(checkpoint, POINTER)
    path = write(tensors if POINTERS[found] is None else {**tensors, POINTER: POINTERS[found]})
    with refused("`queue_ptr`", f"{path} with {found}.", unchanged=[model]):
        load_pytorch(model, path)
