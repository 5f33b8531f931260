"""Published architectures and hyperparameters by name, without weights."""

from dataclasses import dataclass, replace
from typing import Any

from keras_moco.errors import UserError
from keras_moco.methods import MoCo
from keras_moco.networks import HEADS, IMAGENET_MEAN, IMAGENET_STD, Encoder, resnet

__all__ = ["PRESETS", "Preset", "get_preset", "moco"]

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Preset:
    """The architecture of an encoder, and the hyperparameters of MoCo.

    Attributes:
        backbone: str, a name in `keras_moco.networks.RESNETS`.
        stem: str, a name in `keras_moco.networks.STEMS`.
        head: str, a name in `keras_moco.networks.HEADS`.
        embedding_dim: int, the length `D` of embeddings.
        mean, std: one number per channel, for images scaled to 0..1.
        queue_size: int, the number `K` of keys.
        momentum: float, the momentum `m` of the key encoder.
        temperature: float, `T`.
        symmetric: bool, whether second views are queries too.
    """

    backbone: str
    stem: str = "imagenet"
    head: str = "linear"
    embedding_dim: int = 128
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    queue_size: int = 65536
    momentum: float = 0.999
    temperature: float = 0.07
    symmetric: bool = False


# The paper's sec. 4 and official `main_moco.py`; the same with `--mlp --moco-t 0.2` (Chen et al. 2020); the authors'
# CIFAR-10 demo (branch `colab-notebook` of their repository).
_MOCO_V1 = Preset("resnet50")
_MOCO_V2 = replace(_MOCO_V1, head="mlp", temperature=0.2)
_DEMO = Preset(
    "resnet18", stem="cifar", mean=CIFAR10_MEAN, std=CIFAR10_STD, queue_size=4096, momentum=0.99, temperature=0.1
)

PRESETS = {
    **{
        f"moco_{version}_resnet{depth}_imagenet": replace(preset, backbone=f"resnet{depth}")
        for version, preset in (("v1", _MOCO_V1), ("v2", _MOCO_V2))
        for depth in (18, 34, 50, 101, 152)
    },
    "moco_v1_resnet18_cifar10": _DEMO,
    "moco_v1_symmetric_resnet18_cifar10": replace(_DEMO, symmetric=True),
}


def get_preset(name: str) -> Preset:
    """The `Preset` of that name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in PRESETS:
        raise UserError(f"`preset` must be one of {', '.join(PRESETS)}. Received: {name!r}. Choose one of them.")
    return PRESETS[name]


def moco(name: str, input_shape: tuple[int | None, ...] = (None, None, 3), **settings: Any) -> MoCo:
    """A `MoCo` of published architecture and hyperparameters, with random weights, not compiled.

    `keras_moco.convert.from_pytorch` reads the authors' weights.

    Args:
        name: a name of `PRESETS`: `"moco_v1_resnet50_imagenet"`, `"moco_v2_resnet50_imagenet"` (both also with
            `resnet18`, `34`, `101`, `152`), `"moco_v1_resnet18_cifar10"`, `"moco_v1_symmetric_resnet18_cifar10"`.
        input_shape: `(height, width, channels)`; height and width may be `None`.
        **settings: arguments of `MoCo`, which override the preset's.

    Raises:
        ValueError: for an unknown name.

    Example:

    >>> model = moco("moco_v1_resnet18_cifar10", queue_size=512)
    >>> model.encoder.feature_dim, model.encoder.embedding_dim, model.queue.size, model.temperature
    (512, 128, 512, 0.1)
    """
    preset = get_preset(name)
    backbone = resnet(preset.backbone, stem=preset.stem, input_shape=input_shape)
    head = HEADS[preset.head](backbone.output_shape[-1], preset.embedding_dim)
    encoder = Encoder(backbone, head, mean=preset.mean, std=preset.std, name="encoder")
    numbers = {name: getattr(preset, name) for name in ("queue_size", "momentum", "temperature", "symmetric")}
    return MoCo(encoder, **{**numbers, **settings})


def closest(stem: str, head: str) -> Preset:
    """The `Preset` with which an encoder of that stem and head was most likely trained.

    >>> closest("imagenet", "mlp").temperature, closest("cifar", "linear").temperature
    (0.2, 0.1)
    """
    order = sorted(PRESETS.values(), key=lambda preset: (preset.stem != stem, preset.head != head, preset.symmetric))
    return order[0]
