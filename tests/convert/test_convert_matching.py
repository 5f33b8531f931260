"""All tensors without a weight and all weights without a tensor are listed, and the model does not change."""

import contextlib

import numpy as np
import pytest
import safetensors.numpy

from keras_moco.convert import encoder_from_pytorch, from_pytorch, load_pytorch, to_pytorch
from tests.convert.small_moco import KEY, POINTER, QUERY, QUEUE, refused, unmatched, without

# Pattern of the tensors that are removed from the file, tensors that are added, and the lines that are expected.
OF_AN_ENCODER = [
    (None, {"extra": (2, 3), "scalar": ()}, ["- extra (2, 3)", "- scalar ()"]),
    ("0.conv2|fc.bias", {}, ["+ layer1.0.conv2.weight (4, 4, 3, 3)", "+ fc.bias (8)"]),
    (None, {"bn1.bias": (4, 1)}, ["- bn1.bias (4, 1)", "+ bn1.bias (4)"]),
    (
        "fc",
        {"fc.0.bias": (4,), "fc.0.weight": (4, 4)},
        ["- fc.0.bias (4)", "- fc.0.weight (4, 4)", "+ fc.weight (8, 4)", "+ fc.bias (8)"],
    ),
]
OF_A_MOCO = [
    (None, {"module.queue2": (8, 20)}, ["- queue2 (8, 20)"]),
    (KEY + "fc.bias", {}, ["+ encoder_k.fc.bias (8)"]),
    ("queue$", {}, ["+ queue (8, 20)"]),
    (None, {QUEUE: (8, 12)}, ["- queue (8, 12)", "+ queue (8, 20)"]),
]


def test_everything_unmatched_is_listed(state_dict, checkpoint, write, model):
    for target, tensors, cases in ((model.encoder, state_dict, OF_AN_ENCODER), (model, checkpoint, OF_A_MOCO)):
        for removed, added, listed in cases:
            path = write({**(without(tensors, removed) if removed else tensors), **added})
            with refused(path, "allow_partial", unchanged=[model]) as error:
                load_pytorch(target, path)
            assert unmatched(error.value) == listed


def test_a_missing_head_or_queue_is_compared_with_the_published_one(state_dict, checkpoint, write):
    head = ["+ fc.weight (128, 4)", "+ fc.bias (128)"]
    for convert, tensors, listed in (
        (encoder_from_pytorch, without(state_dict, "fc"), head),
        (encoder_from_pytorch, {**state_dict, "fc.weight": ()}, ["- fc.bias (8)", "- fc.weight ()", *head]),
        (from_pytorch, {**checkpoint, QUEUE: ()}, ["- queue ()", "+ queue (8, 4096)"]),
    ):
        path = write(tensors)
        with refused(path) as error:
            convert(path)
        assert unmatched(error.value) == listed


@contextlib.contextmanager
def warned(path, *listed):
    """Expects one `UserWarning` that points to this file; NumPy warns developers about Keras, too."""
    with pytest.warns(UserWarning) as caught:
        yield
    [warning] = [warning for warning in caught if issubclass(warning.category, UserWarning)]
    assert str(path) in str(warning.message) and unmatched(warning.message) == [*listed]
    assert warning.filename == __file__


def test_allow_partial_converts_the_rest(checkpoint, state_dict, write, spare, tmp_path):
    path = write({**checkpoint, "module.extra": (2,)})
    with warned(path, "- extra (2)"):
        model = from_pytorch(path, allow_partial=True)
    with warned(path, "- extra (2)"):
        load_pytorch(spare, path, allow_partial=True)
    for each in (model, spare):
        np.testing.assert_array_equal(each.queue.features, checkpoint[QUEUE].T)
    backbone = without(state_dict, "fc|tracked")
    path = write(backbone)
    with warned(path, "+ fc.weight (128, 4)", "+ fc.bias (128)"):
        encoder = encoder_from_pytorch(path, allow_partial=True)
    again = safetensors.numpy.load_file(to_pytorch(encoder, tmp_path / "again.safetensors"))
    assert again.keys() - state_dict.keys() == set() and again["fc.weight"].shape == (128, 4)
    for name in backbone:
        np.testing.assert_array_equal(again[name], backbone[name], err_msg=name)


def test_two_tensors_of_one_weight_are_refused(state_dict, checkpoint, write, model):
    path = write({**state_dict, "module.bn1.bias": state_dict["bn1.bias"] + 1})
    with refused(f"{path} with bn1.bias twice", unchanged=[model]):
        load_pytorch(model.encoder, path)
    more = {name.removeprefix("module."): checkpoint[name] for name in (QUERY + "bn1.running_var", POINTER)}
    path = write({**checkpoint, **more})
    with refused(f"{path} with encoder_q.bn1.running_var, queue_ptr twice", unchanged=[model]):
        load_pytorch(model, path)
