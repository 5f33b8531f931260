"""Numbers, counters and optimizers of a file: taken exactly, or refused before anything has changed."""

import keras
import numpy as np
import pytest
import safetensors.numpy

from keras_moco import SGD
from keras_moco.convert import from_pytorch, load_pytorch, to_pytorch
from keras_moco.models import MoCo
from tests.convert.small_moco import KEY, POINTER, QUERY, make_encoder, refused, without

LOSSES = {
    "a digit": np.float64(0.1),
    "too large": np.float64(1e300),
    "too small": np.float64(1e-60),
    "an integer": np.int64(2**24 + 1),
    "the largest of all": np.uint64(2**64 - 1),
    "complex": np.complex64(1),
    "bool": np.bool_(True),
}


@pytest.mark.parametrize("value", LOSSES.values(), ids=LOSSES)
def test_values_that_do_not_fit_are_refused(value, checkpoint, write, model):
    tensor = np.zeros(8, value.dtype)
    tensor[5] = value
    path = write({**checkpoint, KEY + "fc.bias": tensor})  # one of the last: those before it must not be assigned
    with refused(f"{path} with encoder_k.fc.bias of {value.dtype}.", unchanged=[model]) as error:
        load_pytorch(model, path)
    assert ("set_dtype_policy('float64')" in str(error.value)) == (value.dtype == "float64")


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "int64"])
def test_values_that_fit_are_taken_exactly(dtype, checkpoint, write, spare, tmp_path):
    rng = np.random.default_rng(1)

    def convert(tensor):
        if tensor.dtype != "float32":
            return tensor
        return (tensor if dtype.startswith("float") else rng.integers(0, 100, tensor.shape)).astype(dtype)

    tensors = {name: convert(tensor) for name, tensor in checkpoint.items()}
    load_pytorch(spare, write(tensors))
    again = safetensors.numpy.load_file(to_pytorch(spare, tmp_path / "again.safetensors"))
    assert sorted(again) == sorted(tensors)
    for name, tensor in without(tensors, f"tracked|{POINTER}").items():
        assert tensor.dtype == dtype and again[name].dtype == "float32"
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_not_finite_values_are_kept(checkpoint, write, spare):
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1, 2, 3, 4])
    load_pytorch(spare, write({**checkpoint, QUERY + "fc.bias": values}))
    bias = np.array(spare.encoder.head.get_layer("fc").bias)
    assert bias.tobytes() == values.astype("float32").tobytes()


def test_bfloat16_model_comes_back(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    ours = MoCo(make_encoder(), queue_size=20)
    assert ours.encoder.head.get_layer("fc").kernel.dtype == "bfloat16"
    path = to_pytorch(ours, tmp_path / "moco.safetensors")
    theirs = from_pytorch(path)

    def expect_ours():
        for old, new in zip(ours.weights, theirs.weights, strict=True):
            assert old.dtype == new.dtype
            if not old.path.endswith("queue/count"):  # all keys of a file count as real ones
                assert np.array(old).tobytes() == np.array(new).tobytes(), old.path

    expect_ours()
    for weight in theirs.weights:
        weight.assign(weight * 0)
    load_pytorch(theirs, path)
    expect_ours()


def test_largest_counter_is_taken(checkpoint, write, spare, tmp_path):
    counters = {name: np.array(3) for name in checkpoint if name.endswith("num_batches_tracked")}
    path = write({**checkpoint, **counters, KEY + "bn1.num_batches_tracked": np.array(8)})
    symmetric = MoCo(spare.encoder, queue_size=20, symmetric=True)
    for model, steps in ((spare, 8), (symmetric, 4), (None, 8)):
        with pytest.warns(UserWarning, match="from 3 to 8"):
            if model:
                load_pytorch(model, path)
            else:
                model = from_pytorch(path)
        assert model.steps_done == steps
    assert from_pytorch(to_pytorch(symmetric, tmp_path / "symmetric.safetensors")).steps_done == 4


@pytest.mark.parametrize("steps", [-1, 2.0, "3"])
def test_steps_must_be_a_count(steps, checkpoint, write, model):
    with refused(f"steps={steps!r}.", unchanged=[model]):
        load_pytorch(model, write(checkpoint), steps=steps)


def test_to_resume_a_file_must_have_the_state_of_the_optimizer(checkpoint, write, model):
    counters = {name: np.array(5) for name in checkpoint if name.endswith("num_batches_tracked")}
    path = write({**checkpoint, **counters})
    ours = MoCo(model.encoder, queue_size=20)
    ours.compile(optimizer=SGD())
    ours.optimizer.build(ours.trainable_variables)
    with refused(f"{path} without one", "allow_partial", unchanged=[ours]):
        load_pytorch(ours, path)
    load_pytorch(ours, path, allow_partial=True)
    assert ours.steps_done == int(ours.optimizer.iterations) == 5


def test_only_our_sgd_takes_the_state_of_a_file(checkpoint, write):
    for optimizer, name in ((keras.optimizers.SGD(), "SGD"), ("sgd", "str")):
        with refused("keras_moco.SGD", f"Received: {name}."):
            from_pytorch(write(checkpoint), optimizer=optimizer)
