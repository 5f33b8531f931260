"""Image augmentation: the random views that MoCo contrasts, batched, as pure functions of random numbers."""

from keras_moco.augment.band_brightness import RandomBandBrightness
from keras_moco.augment.band_drop import RandomBandDrop
from keras_moco.augment.base import Augmentation
from keras_moco.augment.blur import RandomGaussianBlur
from keras_moco.augment.central import central_view
from keras_moco.augment.color_jitter import RandomColorJitter
from keras_moco.augment.compose import Compose, two_views
from keras_moco.augment.crop import RandomResizedCrop
from keras_moco.augment.flip import RandomHorizontalFlip
from keras_moco.augment.fused import Fused
from keras_moco.augment.grayscale import RandomGrayscale
from keras_moco.augment.noise import RandomNoise
from keras_moco.augment.recipes import (
    AUGMENTATIONS,
    get_augmentation,
    moco_cifar,
    moco_medical,
    moco_multispectral,
    moco_v1,
    moco_v2,
    simclr,
    simclr_cifar,
    supervised,
)
from keras_moco.augment.right_angle import RandomRightAngle
from keras_moco.augment.rotation import RandomRotation

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Compose",
    "Fused",
    "RandomBandBrightness",
    "RandomBandDrop",
    "RandomColorJitter",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomNoise",
    "RandomResizedCrop",
    "RandomRightAngle",
    "RandomRotation",
    "central_view",
    "get_augmentation",
    "moco_cifar",
    "moco_medical",
    "moco_multispectral",
    "moco_v1",
    "moco_v2",
    "simclr",
    "simclr_cifar",
    "supervised",
    "two_views",
]
