"""Backbones as Detectron2 reads them: names, arrays, and a pickle that asks for nothing but NumPy."""

import io
import pickle

import numpy as np
import pytest

from keras_moco import convert
from keras_moco.backbones import RESNETS, resnet
from keras_moco.models import Encoder, MoCo, linear_head, simclr_head

CONVOLUTIONS = {"resnet18": 2, "resnet50": 3}  # in a block


def lived_in(name, **kwargs):
    """An encoder whose statistics are not those it starts with."""
    backbone = resnet(name, **kwargs)
    encoder = Encoder(backbone, linear_head(backbone.output_shape[-1]))
    rng = np.random.default_rng(0)
    for layer in encoder.backbone.layers:
        if "bn" in layer.name:
            for weight in layer.weights:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return encoder


def expected_arrays(encoder, name):
    """By the names of Detectron2's `BasicStem`, `BasicBlock` and `BottleneckBlock`."""
    layers = {layer.name: layer for layer in encoder.backbone.layers}
    places = {"stem.conv1": ("conv1", "bn1")}
    for stage, depth in enumerate(RESNETS[name][1], 1):
        for block in range(depth):
            ours, theirs = f"layer{stage}_{block}", f"res{stage + 1}.{block}"
            for k in range(1, CONVOLUTIONS[name] + 1):
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


def read(path):
    """As Detectron2's `DetectionCheckpointer` does."""
    with open(path, "rb") as file:
        return pickle.load(file, encoding="latin1")


@pytest.mark.parametrize("name, shortcuts", [("resnet18", "345"), ("resnet50", "2345")])
def test_every_array_has_the_name_that_detectron2_gives_it(tmp_path, name, shortcuts):
    encoder = lived_in(name)
    content = read(convert.to_detectron2(encoder, tmp_path / "backbone.pkl"))
    assert content["matching_heuristics"] is True
    found, expected = content["model"], expected_arrays(encoder, name)
    assert set(found) == set(expected)
    for place in expected:
        assert (found[place].dtype, found[place].shape) == (expected[place].dtype, expected[place].shape), place
        np.testing.assert_array_equal(found[place], expected[place], err_msg=place)
    assert {f"res{stage}.0.shortcut.weight" for stage in shortcuts} == {x for x in found if "shortcut.weight" in x}


def test_arrays_can_be_written_to(tmp_path):
    content = read(convert.to_detectron2(lived_in("resnet18"), tmp_path / "backbone.pkl"))
    for name, array in content["model"].items():
        assert type(array) is np.ndarray and array.flags.writeable and array.flags.c_contiguous, name
        array[...] = 0


class Names(pickle.Unpickler):
    """Notes down all that a pickle asks for."""

    def find_class(self, module, name):
        self.asked.add(f"{module}.{name}")
        return super().find_class(module, name)


def test_the_file_asks_for_nothing_that_numpy_1_lacks(tmp_path):
    path = convert.to_detectron2(lived_in("resnet18"), tmp_path / "backbone.pkl")
    reader = Names(io.BytesIO(path.read_bytes()), encoding="latin1")
    reader.asked = set()
    reader.load()
    assert reader.asked == {"numpy.ndarray", "builtins.bytearray"}


def test_of_a_moco_it_is_the_query_encoder(tmp_path):
    model = MoCo(lived_in("resnet18"), queue_size=16)
    for variable in model.key_encoder.variables:
        variable.assign(variable * 0)
    found = read(convert.to_detectron2(model, tmp_path / "backbone.pkl"))["model"]
    np.testing.assert_array_equal(
        found["res2.0.conv1.norm.weight"], model.encoder.backbone.get_layer("layer1_0_bn1").gamma
    )


def test_the_head_does_not_matter(tmp_path):
    encoder = lived_in("resnet18")
    other = Encoder(encoder.backbone, simclr_head(encoder.feature_dim))
    found, expected = (read(convert.to_detectron2(x, tmp_path / f"{x.name}.pkl"))["model"] for x in (other, encoder))
    assert found.keys() == expected.keys()


@pytest.mark.parametrize(
    "name, kwargs",
    [
        ("resnet10", {}),
        ("resnet18", {"width": 32}),
        ("resnet18", {"stem": "cifar"}),
        ("resnet18", {"stem": "half"}),
        ("resnet18", {"input_shape": (None, None, 1)}),
    ],
    ids=str,
)
def test_networks_that_detectron2_lacks_are_refused(tmp_path, name, kwargs):
    with pytest.raises(ValueError, match=f"must be one of resnet18, .* Received: {name} that begins with"):
        convert.to_detectron2(lived_in(name, **kwargs), tmp_path / "backbone.pkl")
    assert not any(tmp_path.iterdir())


def test_a_model_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be an Encoder.* Received: Functional. Build one"):
        convert.to_detectron2(resnet("resnet10", width=4), tmp_path / "backbone.pkl")


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must end in .pkl.* Received: .*backbone.pth. Rename it"):
        convert.to_detectron2(lived_in("resnet10", width=4), tmp_path / "backbone.pth")
