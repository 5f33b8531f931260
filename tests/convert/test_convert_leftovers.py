"""Tensors without a weight and weights without a tensor are listed, all of them; nothing has changed then."""

import contextlib

import numpy as np
import pytest
import safetensors.numpy

from keras_moco.convert import encoder_from_pytorch, from_pytorch, load_pytorch, to_pytorch
from tests.convert.small_moco import KEY, POINTER, QUERY, QUEUE, left_over, refused, without

MLP = {"fc.0.bias": (4,), "fc.0.weight": (4, 4), "fc.2.bias": (8,), "fc.2.weight": (8, 4)}
# What is left out of the file, what is put in, and what is listed.
OF_AN_ENCODER = {
    "more tensors": (None, {"extra": (2, 3), "scalar": ()}, ["- extra (2, 3)", "- scalar ()"]),
    "fewer tensors": ("0.conv2|fc.bias", {}, ["+ layer1.0.conv2.weight (4, 4, 3, 3)", "+ fc.bias (8)"]),
    "another shape": (None, {"bn1.bias": (4, 1)}, ["- bn1.bias (4, 1)", "+ bn1.bias (4)"]),
    "another head": (
        "fc",
        MLP,
        [f"- {name} ({', '.join(map(str, shape))})" for name, shape in MLP.items()]
        + ["+ fc.weight (8, 4)", "+ fc.bias (8)"],
    ),
}
OF_A_MOCO = {
    "more tensors": (None, {"module.queue2": (8, 20)}, ["- queue2 (8, 20)"]),
    "fewer tensors": (KEY + "fc.bias", {}, ["+ encoder_k.fc.bias (8)"]),
    "no queue": ("queue$", {}, ["+ queue (8, 20)"]),
    "a shorter queue": (None, {QUEUE: (8, 12)}, ["- queue (8, 12)", "+ queue (8, 20)"]),
    "a wider queue": (None, {QUEUE: (16, 20)}, ["- queue (16, 20)", "+ queue (8, 20)"]),
    "a scalar": (None, {QUEUE: ()}, ["- queue ()", "+ queue (8, 20)"]),
}


def changed(tensors, left_out, put_in):
    return {**(without(tensors, left_out) if left_out else tensors), **put_in}


@pytest.mark.parametrize("left_out, put_in, listed", OF_AN_ENCODER.values(), ids=OF_AN_ENCODER)
def test_encoder(left_out, put_in, listed, state_dict, write, model):
    path = write(changed(state_dict, left_out, put_in))
    with refused(path, "allow_partial", unchanged=[model]) as error:
        load_pytorch(model.encoder, path)
    assert left_over(error.value) == listed


@pytest.mark.parametrize("left_out, put_in, listed", OF_A_MOCO.values(), ids=OF_A_MOCO)
def test_moco(left_out, put_in, listed, checkpoint, write, model):
    path = write(changed(checkpoint, left_out, put_in))
    with refused(path, "allow_partial", unchanged=[model]) as error:
        load_pytorch(model, path)
    assert left_over(error.value) == listed


def test_new_model_gets_the_head_and_the_queue_that_are_published(state_dict, checkpoint, write):
    head = ["fc.weight (128, 4)", "fc.bias (128)"]
    both = [f"+ encoder_{letter}.{weight}" for letter in "qk" for weight in head]
    for convert, tensors, listed in (
        (encoder_from_pytorch, without(state_dict, "fc"), [f"+ {weight}" for weight in head]),
        (
            encoder_from_pytorch,
            {**state_dict, "fc.weight": ()},
            ["- fc.bias (8)", "- fc.weight ()", *(f"+ {weight}" for weight in head)],
        ),
        (from_pytorch, without(checkpoint, "fc"), ["- queue (8, 20)", *both, "+ queue (128, 20)"]),
        (from_pytorch, {**checkpoint, QUEUE: ()}, ["- queue ()", "+ queue (8, 4096)"]),
    ):
        path = write(tensors)
        with refused(path) as error:
            convert(path)
        assert left_over(error.value) == listed


@contextlib.contextmanager
def warned(path, *listed):
    """One warning for users, which points to this file; NumPy has its own about Keras for developers."""
    with pytest.warns(UserWarning) as caught:
        yield
    [warning] = [warning for warning in caught if issubclass(warning.category, UserWarning)]
    assert str(path) in str(warning.message) and left_over(warning.message) == [*listed]
    assert warning.filename == __file__


def test_allow_partial_keeps_a_new_head(state_dict, write, tmp_path):
    backbone = without(state_dict, "fc|tracked")
    path = write(backbone)
    with warned(path, "+ fc.weight (128, 4)", "+ fc.bias (128)"):
        encoder = encoder_from_pytorch(path, allow_partial=True)
    again = safetensors.numpy.load_file(to_pytorch(encoder, tmp_path / "again.safetensors"))
    assert again.pop("fc.weight").shape == (128, 4) and again.pop("fc.bias").shape == (128,)
    assert sorted(without(again, "tracked")) == sorted(backbone)
    for name in backbone:
        np.testing.assert_array_equal(again[name], backbone[name], err_msg=name)


def test_allow_partial_converts_the_rest(checkpoint, state_dict, write, spare):
    path = write({**checkpoint, "module.extra": (2,)})
    with warned(path, "- extra (2)"):
        model = from_pytorch(path, allow_partial=True)
    with warned(path, "- extra (2)"):
        load_pytorch(spare, path, allow_partial=True)
    for each in (model, spare):
        np.testing.assert_array_equal(each.queue.features, checkpoint[QUEUE].T)
    path = write({**state_dict, "fc.bias": state_dict["fc.bias"] + 1, "extra": (2,)})
    with warned(path, "- extra (2)"):
        load_pytorch(spare.encoder, path, allow_partial=True)
    np.testing.assert_array_equal(spare.encoder.head.get_layer("fc").bias, state_dict["fc.bias"] + 1)


def test_two_tensors_of_one_weight(state_dict, checkpoint, write, model):
    path = write({**state_dict, "module.bn1.bias": state_dict["bn1.bias"] + 1})
    with refused(f"{path} with bn1.bias twice", unchanged=[model]):
        load_pytorch(model.encoder, path)
    more = {name.removeprefix("module."): checkpoint[name] for name in (QUERY + "bn1.running_var", POINTER)}
    path = write({**checkpoint, **more})
    with refused(f"{path} with encoder_q.bn1.running_var, queue_ptr twice", unchanged=[model]):
        load_pytorch(model, path)
