"""A small MoCo, and checks of refusals for tests of conversion."""

import contextlib
import re

import numpy as np
import pytest

import tests.tiny  # noqa: F401 (the backbone of that name)
from keras_moco.networks import Encoder, linear_head, resnet

QUERY, KEY, QUEUE, POINTER = "module.encoder_q.", "module.encoder_k.", "module.queue", "module.queue_ptr"


def make_encoder(name="tiny", head=linear_head, width=4, stem="cifar", channels=3):
    backbone = resnet(name, width, stem, input_shape=(None, None, channels))
    return Encoder(backbone, head(backbone.output_shape[-1], 8), mean=0.5, std=0.25)


def without(tensors, pattern):
    """The tensors whose name does not match the pattern."""
    return {name: tensor for name, tensor in tensors.items() if not re.search(pattern, name)}


def variables(model):
    """Weights, and variables of the optimizer if there is one."""
    optimizer = getattr(model, "optimizer", None)
    return [*model.weights, *(optimizer.variables if optimizer else [])]


@contextlib.contextmanager
def refused(*found, unchanged=(), error=ValueError):
    """Expects an error with all of `found` in its message, and unchanged bits in the models in `unchanged`."""
    before = [[np.array(variable).tobytes() for variable in variables(model)] for model in unchanged]
    with pytest.raises(error) as caught:
        yield caught
    for part in map(str, found):
        assert part in str(caught.value), f"{part!r} is not in: {caught.value}"
    assert [[np.array(variable).tobytes() for variable in variables(model)] for model in unchanged] == before


def unmatched(message):
    """The lines of a message that list unmatched tensors of the file after a -, weights of the model after a +."""
    return [line.strip() for line in str(message).splitlines() if re.match(r"  [-+] ", line)]
