"""Models without a place in PyTorch's layout are refused, and files are written atomically."""

import os
import sys

import keras
import pytest
import safetensors.numpy
from keras import layers

from keras_moco.convert import encoder_from_pytorch, from_pytorch, load_pytorch, to_detectron2, to_pytorch
from keras_moco.methods import MoCo, SimCLR
from keras_moco.networks import Encoder, linear_head, simclr_head
from tests.convert.small_moco import make_encoder, refused


def encoder_of(*backbone):
    backbone = keras.Sequential([keras.Input((8, 8, 3)), *backbone])
    return Encoder(backbone, linear_head(backbone.output_shape[-1], 8))


def test_other_models_and_layers_are_refused_by_name(tmp_path, model, checkpoint, state_dict, write):
    body = encoder_of(layers.Conv2D(4, 3, name="mine"), layers.BatchNormalization())
    for other, tensors, found in (
        (SimCLR(model.encoder), checkpoint, "SimCLR."),
        (keras.Sequential([keras.Input((2,)), layers.Dense(2)]), checkpoint, "Sequential."),
        (body, state_dict, "layer mine, batch_normalization."),
        (make_encoder(head=simclr_head), state_dict, "layer bn1, bn2, fc3, bn3."),
    ):
        path = write(tensors)
        for convert in (load_pytorch, to_pytorch):
            with refused(f"Received: {found}", unchanged=[other]):
                convert(other, path if convert is load_pytorch else tmp_path / "new.pth")
    with refused("Received: layer mine, batch_normalization."):
        to_detectron2(body, tmp_path / "new.pkl")
    assert os.listdir(tmp_path) == [path.name]


def test_a_layer_named_like_a_resnets_is_refused(tmp_path):
    encoder = encoder_of(layers.Conv2D(4, 5, name="conv1"))
    path = to_pytorch(MoCo(encoder, queue_size=20), tmp_path / "new.safetensors")
    with refused(f"{path} with 4 tensors such as conv1.bias, conv1.weight, fc.bias."):
        from_pytorch(path)
    with refused("the model with 2 tensors such as conv1.weight, conv1.bias."):
        to_detectron2(encoder, tmp_path / "backbone.pkl")
    with refused():
        to_pytorch(MoCo(encoder_of(layers.BatchNormalization(name="bn1")), queue_size=20), tmp_path / "bn1.safetensors")
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "write, name", [(to_pytorch, "moco.safetensors"), (to_pytorch, "moco.pth"), (to_detectron2, "moco.pkl")]
)
def test_the_path_of_the_file_is_checked(write, name, model, tmp_path):
    path = tmp_path / name
    with refused(tmp_path / "new" / name, f"Create {tmp_path / 'new'} first"):
        write(model.encoder, tmp_path / "new" / name)
    assert not os.listdir(tmp_path)
    path.write_bytes(b"mine")
    with refused(f"{path}, which exists", "--overwrite"):
        write(model.encoder, path)
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == [name]
    path.unlink()
    path.mkdir()
    for overwrite in (False, True):
        with refused(f"{path}, a folder"):
            write(model.encoder, path, overwrite=overwrite)
    assert not os.listdir(path)


def test_a_failed_write_keeps_the_old_file(model, tmp_path, monkeypatch):
    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    path = tmp_path / "moco.safetensors"
    path.write_bytes(b"mine")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="^disk full$"):
        patched.setattr(safetensors.numpy, "save_file", half)
        to_pytorch(model, path, overwrite=True)
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == [path.name]
    assert to_pytorch(model, path, overwrite=True) == path
    assert from_pytorch(path).queue.size == 20 and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("package, suffix", [("torch", ".pth"), ("safetensors", ".safetensors")])
def test_a_missing_package_is_named_with_its_extra(package, suffix, model, tmp_path, monkeypatch):
    path = tmp_path / f"moco{suffix}"
    path.write_bytes(b"mine")
    # `None` is what makes Python say that there is no such package.
    for name in (package, f"{package}.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    for convert in (from_pytorch, encoder_from_pytorch, lambda path: to_pytorch(model, path, overwrite=True)):
        with refused(package, 'pip install "keras_moco[torch]"', error=ImportError):
            convert(path)
    assert path.read_bytes() == b"mine"
