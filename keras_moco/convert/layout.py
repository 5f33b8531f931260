"""Which weight of ours is which tensor of PyTorch's: torchvision's names, the official model's, and their axes."""

import re
from typing import NamedTuple

import keras
import numpy as np

from keras_moco.errors import UserError

# The names of a layer's weights, and those in PyTorch.
NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Our axes in PyTorch's order, by their number: convolutions are (h, w, in, out) here and (out, in, h, w) there.
AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
COUNTER = "num_batches_tracked"
# Layers of `linear_head` and `mlp_head`, and of the official `moco/builder.py`.
HEADS = {"fc": "fc", "fc1": "fc.0", "fc2": "fc.2"}
# The authors' CIFAR-10 demo puts the layers of torchvision's network into one sequence.
DEMO = {"0": "conv1", "1": "bn1", "3": "layer1", "4": "layer2", "5": "layer3", "6": "layer4", "9": "fc"}


class Slot(NamedTuple):
    """One weight and where it is found in PyTorch.

    Attributes:
        name: str, of the tensor.
        variable: `keras.Variable`.
        axes: our axes in PyTorch's order.
    """

    name: str
    variable: keras.Variable
    axes: tuple

    @property
    def shape(self):
        """Of the tensor in PyTorch."""
        return tuple(self.variable.shape[axis] for axis in self.axes)

    def to_torch(self):
        value = np.array(self.variable)
        value = value.astype("float32") if value.dtype.name == "bfloat16" else value  # which NumPy's users lack
        return np.ascontiguousarray(value.transpose(self.axes))

    def from_torch(self, tensor):
        return tensor.transpose(np.argsort(self.axes))


def slots(encoder, prefix="", head=True):
    """The weights of an encoder in torchvision's order.

    Args:
        encoder: `Encoder` of a `keras_moco.networks.resnet` and a linear or MLP head.
        prefix: str before each name.
        head: bool. With the head's.

    Returns:
        list of `Slot`.

    Raises:
        ValueError: if the encoder is another one, of which PyTorch's names are not known.
    """
    body = [(_place(layer.name), layer) for layer in encoder.backbone.layers if layer.weights]
    head = encoder.head.layers if head else []
    head = [(HEADS.get(layer.name), layer) for layer in head if layer.weights]
    unknown = [layer.name for place, layer in [*body, *head] if place is None]
    if unknown:
        raise UserError(
            "The encoder must be a ResNet of keras_moco.networks with a linear or MLP head, whose layers PyTorch's "
            f"ResNet has too. Received: layer {', '.join(unknown)}. Convert other encoders by tools of their own."
        )
    ordered = [(name, layer) for (_, name), layer in sorted(body, key=lambda pair: pair[0])]
    return [
        Slot(f"{prefix}{name}.{NAMES[variable.name]}", variable, AXES[len(variable.shape)])
        for name, layer in [*ordered, *head]
        for variable in layer.weights
    ]


def _place(layer):
    """The place of a layer of a ResNet in torchvision's order, and its name there; `None` for other layers.

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
    """The tensors of an encoder as torchvision's model lists them: a dict of names to arrays.

    Args:
        encoder: `Encoder`, as for `slots`.
        steps: int, what BatchNorm's counters say.
        prefix: str before each name.
        head: bool. With the head's.
    """
    tensors = {}
    for slot in slots(encoder, prefix, head):
        tensors[slot.name] = slot.to_torch()
        layer, _, kind = slot.name.rpartition(".")
        if kind == "running_var":
            tensors[f"{layer}.{COUNTER}"] = np.array(steps, "int64")
    return tensors


def canonical(name):
    """The name of a tensor without what wrappers put before it, and with torchvision's layers in place of the demo's.

    >>> canonical("module.encoder_q.layer1.0.bn1.bias"), canonical("encoder_k.net.9.weight")
    ('encoder_q.layer1.0.bn1.bias', 'encoder_k.fc.weight')
    """
    name = re.sub(r"^((module|_orig_mod)\.)+", "", name)
    return re.sub(
        r"^(encoder_[qk])\.net\.(\d+)(?=\.)", lambda match: f"{match[1]}.{DEMO.get(match[2], match[2])}", name
    )
