"""The network that tensors belong to, read from their names and shapes."""

import re
from typing import NamedTuple

from keras_moco.errors import UserError
from keras_moco.networks import HEADS, RESNETS, Encoder, resnet

# First layers of each head, in the official `moco/builder.py`.
HEAD_TENSORS = {"linear": "fc.weight", "mlp": "fc.2.weight"}
# Kernel width of the first convolution; a 3x3 of stride 2, our stem "half", looks alike.
STEM_OF_KERNEL = {7: "imagenet", 3: "cifar"}


class Architecture(NamedTuple):
    """What an encoder is built from.

    Attributes:
        backbone: str, a name of `keras_moco.networks.RESNETS`.
        width: int, the number of filters of the first convolution.
        stem: str, a name of `keras_moco.networks.STEMS`.
        channels: int, the number of channels of the images.
        head: str, `"linear"` or `"mlp"`; `None` without a head.
        embedding_dim: int; `None` without a head.
    """

    backbone: str
    width: int
    stem: str
    channels: int
    head: str | None
    embedding_dim: int | None

    def build(self, mean, std, name="encoder"):
        """An `Encoder` with random weights, for images of any size; in place of a missing head, that of MoCo v1."""
        shape = (None, None, self.channels)
        backbone = resnet(self.backbone, self.width, self.stem, input_shape=shape)
        head = HEADS[self.head or "linear"](backbone.output_shape[-1], self.embedding_dim or 128)
        return Encoder(backbone, head, mean=mean, std=std, name=name)

    def describe(self):
        """One line for messages."""
        head = f"{self.head} head of {self.embedding_dim}" if self.head else "no head"
        return f"{self.backbone} of width {self.width}, {self.stem} stem, {head}"


def architecture_of(tensors, path, stem=None):
    """The `Architecture` of the tensors of a torchvision ResNet.

    Args:
        tensors: dict of torchvision's names to arrays.
        path: path of their file, for the message.
        stem: str, the stem. Defaults to `None`: the one that the first kernel indicates.

    Raises:
        ValueError: if they are not of a ResNet of a known depth.
    """
    depths, bottleneck = _depths(tensors), "layer1.0.conv3.weight" in tensors
    known = {(depth, "bottleneck" in block.__name__): name for name, (block, depth) in RESNETS.items()}
    first = tensors.get("conv1.weight")
    kernel = None if first is None or first.ndim != 4 else first.shape[-1]
    if (depths, bottleneck) not in known or kernel not in STEM_OF_KERNEL:
        raise UserError(
            f"The tensors must be those of torchvision's {', '.join(RESNETS)}, with a first kernel of 7x7 or 3x3. "
            f"Received: {path} with {_summary(tensors, depths, bottleneck, kernel)}. Only these can be converted."
        )
    heads = [head for head, name in HEAD_TENSORS.items() if name in tensors]
    return Architecture(
        backbone=known[depths, bottleneck],
        width=first.shape[0],
        stem=stem or STEM_OF_KERNEL[kernel],
        channels=first.shape[1],
        head=heads[0] if heads else None,
        embedding_dim=next(iter(tensors[HEAD_TENSORS[heads[0]]].shape), None) if heads else None,
    )


def _depths(tensors):
    """The number of blocks of each stage, counted by their first convolutions."""
    stages = [
        match[1] for match in (re.fullmatch(r"layer(\d+)\.\d+\.conv1\.weight", name) for name in tensors) if match
    ]
    return tuple(stages.count(stage) for stage in sorted(set(stages)))


def _summary(tensors, depths, bottleneck, kernel):
    if not depths or kernel is None:
        return f"{len(tensors)} tensors such as {', '.join(list(tensors)[:3])}"
    blocks = "bottleneck" if bottleneck else "basic"
    return f"{'-'.join(map(str, depths))} {blocks} blocks and a first kernel of {kernel}x{kernel}"


def expected_by(preset, found):
    """The `Architecture` of a preset, with the image channels of the one in `found`."""
    return Architecture(preset.backbone, 64, preset.stem, found.channels, preset.head, preset.embedding_dim)
