"""Backbones as Detectron2 reads them: names, arrays, and a pickle that needs only NumPy."""

import io
import os
import pickle

import keras
import numpy as np
import pytest

from keras_moco.convert import detectron2, to_detectron2
from keras_moco.methods import MoCo
from keras_moco.networks import RESNETS, Encoder, linear_head, resnet, simclr_head
from keras_moco.networks.resnet import _basic_block, _bottleneck_block
from tests.convert.small_moco import refused

NETWORKS = {"basic": (_basic_block, (2, 1)), "bottleneck": (_bottleneck_block, (2, 1))}


@pytest.fixture
def small(monkeypatch):
    """Lets small networks pass for those of Detectron2, which take ten times as long."""
    for name, network in NETWORKS.items():
        monkeypatch.setitem(RESNETS, name, network)
    monkeypatch.setattr(detectron2, "DEPTHS", tuple(NETWORKS))
    monkeypatch.setattr(detectron2, "STEM_KERNEL", (4, 3, 7, 7))


def make_encoder(name, width=4, channels=3, **settings):
    """An encoder whose statistics are not those it starts with."""
    backbone = resnet(name, width, input_shape=(None, None, channels), **settings)
    encoder = Encoder(backbone, linear_head(backbone.output_shape[-1]), mean=0.5, std=0.25)
    rng = np.random.default_rng(0)
    for layer in encoder.backbone.layers:
        if "bn" in layer.name:
            for weight in layer.weights:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return encoder


@pytest.fixture
def encoder(small):
    return make_encoder("basic")


def expected_arrays(encoder, name):
    """By the names of Detectron2's `BasicStem`, `BasicBlock` and `BottleneckBlock`."""
    layers = {layer.name: layer for layer in encoder.backbone.layers}
    places = {"stem.conv1": ("conv1", "bn1")}
    block_of, depths = RESNETS[name]
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            ours, theirs = f"layer{stage}_{block}", f"res{stage + 1}.{block}"
            for k in (1, 2) if block_of is _basic_block else (1, 2, 3):
                places[f"{theirs}.conv{k}"] = (f"{ours}_conv{k}", f"{ours}_bn{k}")
            if f"{ours}_downsample_conv" in layers:
                places[f"{theirs}.shortcut"] = (f"{ours}_downsample_conv", f"{ours}_downsample_bn")
    arrays = {}
    for place, (convolution, norm) in places.items():
        norm = layers[norm]
        arrays[f"{place}.weight"] = np.einsum("hwio->oihw", np.array(layers[convolution].kernel))
        arrays[f"{place}.norm.weight"] = np.array(norm.gamma)
        arrays[f"{place}.norm.bias"] = np.array(norm.beta)
        arrays[f"{place}.norm.running_mean"] = np.array(norm.moving_mean)
        arrays[f"{place}.norm.running_var"] = np.array(norm.moving_variance)
        arrays[f"{place}.norm.num_batches_tracked"] = np.array(0)
    return arrays


@pytest.mark.parametrize(
    "name, shortcuts, width",
    [
        ("basic", "3", 4),
        ("bottleneck", "23", 4),
        pytest.param("resnet18", "345", 64, marks=pytest.mark.slow),
        pytest.param("resnet50", "2345", 64, marks=pytest.mark.slow),
    ],
)
def test_every_array_has_its_name_in_detectron2(name, shortcuts, width, tmp_path, request):
    if name in NETWORKS:
        request.getfixturevalue("small")
    encoder = make_encoder(name, width)
    with open(to_detectron2(encoder, tmp_path / "backbone.pkl"), "rb") as file:
        content = pickle.load(file, encoding="latin1")  # as Detectron2 does
    assert content["matching_heuristics"] is True
    found, expected = content["model"], expected_arrays(encoder, name)
    assert set(found) == set(expected)
    for place in expected:
        assert found[place].dtype == expected[place].dtype
        np.testing.assert_array_equal(found[place], expected[place], err_msg=place, strict=True)
    assert {f"res{stage}.0.shortcut.weight" for stage in shortcuts} == {x for x in found if "shortcut.weight" in x}


class Names(pickle.Unpickler):
    """Notes down all that a pickle asks for."""

    def find_class(self, module, name):
        self.asked.add(f"{module}.{name}")
        return super().find_class(module, name)


def test_the_file_loads_in_numpy_1_and_its_arrays_are_writable(encoder, tmp_path):
    path = to_detectron2(encoder, tmp_path / "backbone.pkl")
    reader = Names(io.BytesIO(path.read_bytes()), encoding="latin1")
    reader.asked = set()
    arrays = reader.load()["model"]
    assert reader.asked == {"numpy.ndarray", "builtins.bytearray"}
    for name, array in arrays.items():
        assert type(array) is np.ndarray and array.flags.writeable and array.flags.c_contiguous, name
    # Of a MoCo it is the query encoder, with any head.
    model = MoCo(Encoder(encoder.backbone, simclr_head(8, 8), mean=0.5, std=0.25), queue_size=16)
    for variable in model.key_encoder.variables:
        variable.assign(variable * 0)
    assert to_detectron2(model, tmp_path / "moco.pkl").read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_networks_that_detectron2_lacks_are_refused(encoder, tmp_path):
    for settings, found in (
        (dict(name="basic", stem="cifar"), "basic with a first kernel (4, 3, 3, 3)"),
        (dict(name="basic", width=8), "basic with a first kernel (8, 3, 7, 7)"),
        (dict(name="resnet10"), "resnet10 with a first kernel (4, 3, 7, 7)"),
        (dict(name="basic", channels=1), "basic with a first kernel (4, 1, 7, 7)"),
    ):
        with refused(f"Received: {found}."):
            to_detectron2(make_encoder(**settings), tmp_path / "backbone.pkl")
    with refused(".pkl", tmp_path / "backbone.pth"):
        to_detectron2(encoder, tmp_path / "backbone.pth")
    with refused("`model`", "Received: Sequential."):
        to_detectron2(keras.Sequential(), tmp_path / "backbone.pkl")
    assert not any(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(encoder, tmp_path, monkeypatch):
    def half(pickler, content):
        raise OSError("disk full")

    path = tmp_path / "backbone.pkl"
    path.write_bytes(b"mine")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="^disk full$"):
        patched.setattr(detectron2._Pickler, "dump", half)
        to_detectron2(encoder, path, overwrite=True)
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == [path.name]
    assert to_detectron2(encoder, path, overwrite=True) == path and path.read_bytes() != b"mine"
