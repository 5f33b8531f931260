"""ResNet v1.5 with torchvision's weights in mind: same layers, padding, initialisation and BatchNorm constants."""

import keras
from keras import layers

from keras_moco.errors import UserError
from keras_moco.layers import SplitBatchNormalization

# Initialisation of torchvision's `resnet.py`: He et al. 2015, fan-out, not truncated.
HE_FAN_OUT = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"},
}


def _convolution(x, filters, kernel, stride, name):
    if stride > 1 and kernel > 1:
        # Keras's "same" pads a strided convolution at the end only; torchvision pads both sides alike.
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    padding = "same" if stride == 1 else "valid"
    return layers.Conv2D(filters, kernel, stride, padding, use_bias=False, kernel_initializer=HE_FAN_OUT, name=name)(x)


def _normalization(x, name):
    return SplitBatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def _shortcut(x, filters, stride, name):
    if stride == 1 and x.shape[-1] == filters:
        return x
    x = _convolution(x, filters, 1, stride, f"{name}_downsample_conv")
    return _normalization(x, f"{name}_downsample_bn")


def _basic_block(x, width, stride, name):
    """Two 3x3 convolutions, `width` channels out."""
    shortcut = _shortcut(x, width, stride, name)
    x = _convolution(x, width, 3, stride, f"{name}_conv1")
    x = layers.ReLU(name=f"{name}_relu1")(_normalization(x, f"{name}_bn1"))
    x = _convolution(x, width, 3, 1, f"{name}_conv2")
    x = _normalization(x, f"{name}_bn2")
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, shortcut]))


def _bottleneck_block(x, width, stride, name):
    """1x1, 3x3, 1x1 convolutions, `4 * width` channels out; the stride sits in the 3x3 ("v1.5")."""
    shortcut = _shortcut(x, 4 * width, stride, name)
    x = _convolution(x, width, 1, 1, f"{name}_conv1")
    x = layers.ReLU(name=f"{name}_relu1")(_normalization(x, f"{name}_bn1"))
    x = _convolution(x, width, 3, stride, f"{name}_conv2")
    x = layers.ReLU(name=f"{name}_relu2")(_normalization(x, f"{name}_bn2"))
    x = _convolution(x, 4 * width, 1, 1, f"{name}_conv3")
    x = _normalization(x, f"{name}_bn3")
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, shortcut]))


def _imagenet_stem(x, width):
    """7x7 stride 2, then 3x3 max-pooling stride 2: a quarter of the resolution."""
    x = _convolution(x, width, 7, 2, "conv1")
    x = layers.ReLU(name="relu1")(_normalization(x, "bn1"))
    # Zeros are as good as torchvision's minus infinity here: the input has passed a ReLU.
    return layers.MaxPooling2D(3, 2, name="maxpool")(layers.ZeroPadding2D(1, name="maxpool_pad")(x))


def _cifar_stem(x, width):
    """3x3 stride 1, no pooling: full resolution, as in the authors' CIFAR-10 demo."""
    x = _convolution(x, width, 3, 1, "conv1")
    return layers.ReLU(name="relu1")(_normalization(x, "bn1"))


def _half_stem(x, width):
    """3x3 stride 2, no pooling: half the resolution, at which four times the channels cost as much."""
    x = _convolution(x, width, 3, 2, "conv1")
    return layers.ReLU(name="relu1")(_normalization(x, "bn1"))


STEMS = {"imagenet": _imagenet_stem, "cifar": _cifar_stem, "half": _half_stem}

# name: (block, blocks per stage). 18 to 152 as He et al. 2016, Table 1; 10 is half of 18, for small images and CPUs.
RESNETS = {
    "resnet10": (_basic_block, (1, 1, 1, 1)),
    "resnet18": (_basic_block, (2, 2, 2, 2)),
    "resnet34": (_basic_block, (3, 4, 6, 3)),
    "resnet50": (_bottleneck_block, (3, 4, 6, 3)),
    "resnet101": (_bottleneck_block, (3, 4, 23, 3)),
    "resnet152": (_bottleneck_block, (3, 8, 36, 3)),
}


def resnet(
    name: str = "resnet50",
    width: int = 64,
    stem: str = "imagenet",
    input_shape: tuple[int | None, ...] = (None, None, 3),
) -> keras.Model:
    """A ResNet v1.5 without pooling and classifier, weight for weight torchvision's at `width=64`.

    Args:
        name: one of `RESNETS`: `"resnet10"`, `"resnet18"`, `"resnet34"`, `"resnet50"`, `"resnet101"`, `"resnet152"`.
        width: positive int, channels of the stem and of the first stage's 3x3 convolutions. Defaults to `64`.
        stem: `"imagenet"` (7x7 stride 2 and max-pooling), `"cifar"` (3x3 stride 1) or `"half"` (3x3 stride 2).
        input_shape: `(height, width, channels)`; height and width may be `None`, any number of channels.

    Returns:
        A functional `keras.Model` from `(n, H, W, channels)` to `(n, h, w, F)`; `F` is `8 * width` for basic blocks
        and `32 * width` for bottlenecks. Layers are named after torchvision's, `layer1_0_conv1` for
        `layer1.0.conv1`, and the last layer of a stage is `layer1`.

    Raises:
        ValueError: for an unknown `name` or `stem`.

    Example:

    >>> resnet("resnet18", width=8, stem="cifar", input_shape=(32, 32, 3)).output_shape
    (None, 4, 4, 64)
    """
    for label, value, known in (("name", name, RESNETS), ("stem", stem, STEMS)):
        if value not in known:
            raise UserError(f"`{label}` must be one of {', '.join(known)}. Received: {value!r}. Choose one of them.")
    block, depths = RESNETS[name]
    images = keras.Input(input_shape, name="images")
    x = STEMS[stem](images, width)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            x = block(x, width * 2**stage, stride, f"layer{stage + 1}_{index}")
        x = layers.Identity(name=f"layer{stage + 1}")(x)
    return keras.Model(images, x, name=name)
