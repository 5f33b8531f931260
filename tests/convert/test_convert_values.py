"""Numbers, counters and optimizers of a file are converted exactly, or refused before the model changes."""

import keras
import numpy as np
import pytest
import safetensors.numpy

from keras_moco import SGD
from keras_moco.convert import from_pytorch, load_pytorch, to_pytorch
from keras_moco.methods import MoCo
from tests.convert.small_moco import KEY, POINTER, QUERY, make_encoder, refused, without


def test_values_that_do_not_fit_are_refused(checkpoint, write, model):
    for value in (
        np.float64(0.1),
        np.float64(1e300),
        np.float64(1e-60),
        np.int64(2**24 + 1),
        np.uint64(2**64 - 1),
        np.complex64(1),
        np.bool_(True),
    ):
        tensor = np.zeros(8, value.dtype)
        tensor[5] = value
        path = write({**checkpoint, KEY + "fc.bias": tensor})  # one of the last: those before it must not be assigned
        with refused(f"{path} with encoder_k.fc.bias of {value.dtype}.", unchanged=[model]) as error:
            load_pytorch(model, path)
        assert ("set_dtype_policy('float64')" in str(error.value)) == (value.dtype == "float64")


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "int64"])
def test_values_that_fit_are_converted_exactly(dtype, checkpoint, write, spare, tmp_path):
    floats = without(checkpoint, f"tracked|{POINTER}")
    if dtype.startswith("float"):
        tensors = {name: tensor.astype(dtype) for name, tensor in floats.items()}
        tensors[QUERY + "fc.bias"] = np.array([np.nan, np.inf, -np.inf, -0.0, 1, 2, 3, 4], dtype)
    else:
        tensors = {name: (100 * tensor).astype(dtype) for name, tensor in floats.items()}
    load_pytorch(spare, write({**checkpoint, **tensors}))
    again = safetensors.numpy.load_file(to_pytorch(spare, tmp_path / "again.safetensors"))
    assert sorted(again) == sorted(checkpoint)
    for name, tensor in tensors.items():
        assert again[name].dtype == "float32" and again[name].tobytes() == tensor.astype("float32").tobytes(), name


def test_a_bfloat16_model_comes_back_to_the_bit(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    ours = MoCo(make_encoder(), queue_size=20)
    assert ours.encoder.head.get_layer("fc").kernel.dtype == "bfloat16"
    path = to_pytorch(ours, tmp_path / "moco.safetensors")
    theirs = from_pytorch(path)
    for _ in range(2):
        for old, new in zip(ours.weights, theirs.weights, strict=True):
            assert old.dtype == new.dtype
            if not old.path.endswith("queue/count"):  # all keys of a file count as real ones
                assert np.array(old).tobytes() == np.array(new).tobytes(), old.path
            new.assign(new * 0)
        load_pytorch(theirs, path)


def test_the_largest_counter_is_used(checkpoint, write, spare, tmp_path):
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


def test_a_file_to_resume_from_must_hold_the_optimizer_state(checkpoint, write, model):
    counters = {name: np.array(5) for name in checkpoint if name.endswith("num_batches_tracked")}
    path = write({**checkpoint, **counters})
    ours = MoCo(model.encoder, queue_size=20)
    ours.compile(optimizer=SGD())
    ours.optimizer.build(ours.trainable_variables)
    with refused(f"{path} without it", "allow_partial", unchanged=[ours]):
        load_pytorch(ours, path)
    load_pytorch(ours, path, allow_partial=True)
    assert ours.steps_done == int(ours.optimizer.iterations) == 5


def test_other_optimizers_and_wrong_steps_are_refused(checkpoint, write, model):
    path = write(checkpoint)
    for optimizer, name in ((keras.optimizers.SGD(), "SGD"), ("sgd", "str")):
        with refused("keras_moco.SGD", f"Received: {name}."):
            from_pytorch(path, optimizer=optimizer)
    for steps in (-1, 2.0, "3"):
        with refused(f"steps={steps!r}.", unchanged=[model]):
            load_pytorch(model, path, steps=steps)
