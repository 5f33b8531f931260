"""Names and axes that our weights have in PyTorch: those of torchvision's ResNet and of the official MoCo."""

import re
from typing import NamedTuple

import keras
import numpy as np

from keras_moco.errors import UserError

# Names of a layer's weights in Keras and in PyTorch.
NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Keras's axes in PyTorch's order, by rank: convolutions are (h, w, in, out) in Keras and (out, in, h, w) in PyTorch.
AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
COUNTER = "num_batches_tracked"
# Layers of `linear_head` and `mlp_head`, and their names in the official `moco/builder.py`.
HEADS = {"fc": "fc", "fc1": "fc.0", "fc2": "fc.2"}
# The authors' CIFAR-10 demo puts the layers of torchvision's network into one sequence.
DEMO = {"0": "conv1", "1": "bn1", "3": "layer1", "4": "layer2", "5": "layer3", "6": "layer4", "9": "fc"}


class Slot(NamedTuple):
    """One weight and its tensor in PyTorch.

    Attributes:
        name: str, the name of the tensor.
        variable: `keras.Variable`, the weight.
        axes: tuple of ints, the weight's axes in PyTorch's order.
    """

    name: str
    variable: keras.Variable
    axes: tuple

    @property
    def shape(self):
        """Shape of the tensor in PyTorch."""
        return tuple(self.variable.shape[axis] for axis in self.axes)

    def to_torch(self):
        value = np.array(self.variable)
        value = value.astype("float32") if value.dtype.name == "bfloat16" else value  # which NumPy lacks
        return np.ascontiguousarray(value.transpose(self.axes))

    def from_torch(self, tensor):
        return tensor.transpose(np.argsort(self.axes))


def slots(encoder, prefix="", head=True):
    """The weights of an encoder in torchvision's order.

    Args:
        encoder: `Encoder` of a `keras_moco.networks.resnet` and a linear or MLP head.
        prefix: str, put before each name.
        head: bool. Include the weights of the head.

    Returns:
        list of `Slot`.

    Raises:
        ValueError: if the encoder has other layers, whose names in PyTorch are not known.
    """
    body = [(_place(layer.name), layer) for layer in encoder.backbone.layers if layer.weights]
    head = encoder.head.layers if head else []
    head = [(HEADS.get(layer.name), layer) for layer in head if layer.weights]
    unknown = [layer.name for place, layer in [*body, *head] if place is None]
    if unknown:
        raise UserError(
            "The encoder must be a ResNet of keras_moco.networks with a linear or MLP head, whose layers PyTorch's "
            f"ResNet has too. Received: layer {', '.join(unknown)}. Convert other encoders by other tools."
        )
    ordered = [(name, layer) for (_, name), layer in sorted(body, key=lambda pair: pair[0])]
    return [
        Slot(f"{prefix}{name}.{NAMES[variable.name]}", variable, AXES[len(variable.shape)])
        for name, layer in [*ordered, *head]
        for variable in layer.weights
    ]


def _place(layer):
    """The rank of a ResNet's layer in torchvision's order, and its name there; `None` for other layers.

    The shortcut of a block comes last there.
    """
    match = re.fullmatch(r"(?:layer(\d)_(\d+)_)?(?:(conv|bn)(\d)|downsample_(conv|bn))", layer)
    if match is None:
        return None
    stage, block, kind, number, shortcut = match.groups()
    order = (int(stage or 0), int(block or 0), int(number or 9), "bn" in (kind, shortcut))
    inside = f"layer{stage}.{block}." if stage else ""
    return order, inside + (f"{kind}{number}" if kind else f"downsample.{int(shortcut == 'bn')}")


def state_dict(encoder, steps, prefix="", head=True):
    """The tensors of an encoder in the order of torchvision's model: a dict of names to arrays.

    Args:
        encoder, prefix, head: as in `slots`.
        steps: int, the value of BatchNorm's counters.
    """
    tensors = {}
    for slot in slots(encoder, prefix, head):
        tensors[slot.name] = slot.to_torch()
        layer, _, kind = slot.name.rpartition(".")
        if kind == "running_var":
            tensors[f"{layer}.{COUNTER}"] = np.array(steps, "int64")
    return tensors


def canonical(name):
    """The name of a tensor without the prefixes of wrappers, and with torchvision's layers in place of the demo's.

    >>> canonical("module.encoder_q.layer1.0.bn1.bias"), canonical("encoder_k.net.9.weight")
    ('encoder_q.layer1.0.bn1.bias', 'encoder_k.fc.weight')
    """
    name = re.sub(r"^((module|_orig_mod)\.)+", "", name)
    return re.sub(
        r"^(encoder_[qk])\.net\.(\d+)(?=\.)", lambda match: f"{match[1]}.{DEMO.get(match[2], match[2])}", name
    )
