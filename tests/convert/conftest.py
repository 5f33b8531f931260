"""A tiny MoCo, and tensors in the authors' layout that fit it."""

import numpy as np
import pytest
import safetensors.numpy

from keras_moco.convert import to_pytorch
from keras_moco.methods import MoCo
from tests.convert.small_moco import POINTER, QUERY, make_encoder


@pytest.fixture(scope="module")
def model():
    return MoCo(make_encoder(), queue_size=20)


@pytest.fixture(scope="module")
def spare():
    """Another model, whose weights may be overwritten."""
    return MoCo(make_encoder(), queue_size=20)


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    """Tensors that fit `model`, and all differ from its own."""
    path = to_pytorch(model, tmp_path_factory.mktemp("checkpoint") / "moco.safetensors")
    rng = np.random.default_rng(0)
    tensors = safetensors.numpy.load_file(path)
    floats = {name: np.float32(rng.uniform(size=t.shape)) for name, t in tensors.items() if t.dtype == "float32"}
    return {**tensors, **floats, POINTER: np.array([3])}


@pytest.fixture(scope="module")
def state_dict(checkpoint):
    """Tensors that fit `model.encoder`."""
    return {name.removeprefix(QUERY): tensor for name, tensor in checkpoint.items() if name.startswith(QUERY)}


@pytest.fixture
def write(tmp_path):
    """Function that writes a dict of tensors, or of shapes for zeros, to a file, and returns its path."""

    def write(tensors, **notes):
        path = tmp_path / "tensors.safetensors"
        arrays = {name: np.zeros(t, "float32") if isinstance(t, tuple) else t for name, t in tensors.items()}
        safetensors.numpy.save_file(arrays, path, metadata=notes or None)
        return path

    return write
