"""The augmentations of the published recipes, by name.

Every recipe is a function with these arguments:

    image_size: int. Side of the square views, pixels.
    crop_scale: (low, high). Range of the crop's area, as a fraction of the image's.
    exact: bool. Whether one operation follows the other (`Compose`) instead of `Fused`. Defaults to `False`.
    **kwargs: arguments of `Augmentation`, for example `seed`.

and returns a `Fused` layer, or a `Compose` of the same layers.
"""

from collections.abc import Callable
from typing import Any

from keras_moco.augment.base import Range
from keras_moco.augment.blur import RandomGaussianBlur
from keras_moco.augment.color_jitter import RandomColorJitter
from keras_moco.augment.compose import Compose
from keras_moco.augment.crop import RandomResizedCrop
from keras_moco.augment.flip import RandomHorizontalFlip
from keras_moco.augment.fused import Fused
from keras_moco.augment.grayscale import RandomGrayscale
from keras_moco.errors import UserError


def moco_v1(image_size: int, crop_scale: Range = (0.2, 1.0), exact: bool = False, **kwargs: Any) -> Compose:
    """MoCo v1 (sec. 3.3; official `main_moco.py`): crop, gray 0.2, jitter (.4, .4, .4, .4) always, flip.

    At 224 pixels. Arguments are those of every recipe (`keras_moco.augment.recipes`).

    Example:

    >>> from keras_moco.augment import moco_v1
    >>> [type(layer).__name__ for layer in moco_v1(224).layers]
    ['RandomResizedCrop', 'RandomGrayscale', 'RandomColorJitter', 'RandomHorizontalFlip']
    """
    layers = [
        RandomResizedCrop(image_size, scale=crop_scale),
        RandomGrayscale(rate=0.2),
        RandomColorJitter(0.4, 0.4, 0.4, 0.4),
        RandomHorizontalFlip(rate=0.5),
    ]
    return _recipe(layers, exact, **kwargs)


def moco_v2(image_size: int, crop_scale: Range = (0.2, 1.0), exact: bool = False, **kwargs: Any) -> Compose:
    """MoCo v2 ("aug+", sec. 3; official `main_moco.py --aug-plus`): milder hue at rate 0.8, and blur.

    At 224 pixels: crop, jitter (.4, .4, .4, .1) at rate 0.8, gray 0.2, blur at rate 0.5, flip. Arguments are those of
    every recipe (`keras_moco.augment.recipes`).
    """
    layers = [
        RandomResizedCrop(image_size, scale=crop_scale),
        RandomColorJitter(0.4, 0.4, 0.4, 0.1, rate=0.8),
        RandomGrayscale(rate=0.2),
        RandomGaussianBlur(sigma=(0.1, 2.0), rate=0.5),
        RandomHorizontalFlip(rate=0.5),
    ]
    return _recipe(layers, exact, **kwargs)


def moco_cifar(image_size: int, crop_scale: Range = (0.08, 1.0), exact: bool = False, **kwargs: Any) -> Compose:
    """The official CIFAR-10 demo: crop, flip, jitter (.4, .4, .4, .1) at rate 0.8, gray 0.2; no blur.

    At 32 pixels, with torchvision's range of crops. Arguments are those of every recipe (`keras_moco.augment.recipes`).
    """
    layers = [
        RandomResizedCrop(image_size, scale=crop_scale),
        RandomHorizontalFlip(rate=0.5),
        RandomColorJitter(0.4, 0.4, 0.4, 0.1, rate=0.8),
        RandomGrayscale(rate=0.2),
    ]
    return _recipe(layers, exact, **kwargs)


def simclr(
    image_size: int,
    crop_scale: Range = (0.08, 1.0),
    strength: float = 1.0,
    blur: bool = True,
    exact: bool = False,
    **kwargs: Any,
) -> Compose:
    """SimCLR (appendix A; official `data_util.py`): crop, flip, jitter at rate 0.8, gray 0.2, blur at rate 0.5.

    At 224 pixels. The jitter is `strength` times (.8, .8, .8, .2). Boxes, resizing and colour operations are
    torchvision's, as in the other recipes; the official TensorFlow code draws boxes by `sample_distorted_bounding_box`,
    resizes them bicubically, scales saturation in HSV, takes contrast from the mean of each channel, and cuts its blur
    off at a twentieth of the image.

    Args:
        image_size, crop_scale, exact, **kwargs: arguments of every recipe (`keras_moco.augment.recipes`).
        strength: non-negative float, strength of the jitter. Defaults to `1.0` (ImageNet; CIFAR-10 uses `0.5`,
            appendix B.9).
        blur: bool, whether to blur. Defaults to `True` (ImageNet; not on CIFAR-10).
    """
    layers = [
        RandomResizedCrop(image_size, scale=crop_scale),
        RandomHorizontalFlip(rate=0.5),
        RandomColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, rate=0.8),
        RandomGrayscale(rate=0.2),
    ]
    if blur:
        layers.append(RandomGaussianBlur(sigma=(0.1, 2.0), rate=0.5))
    return _recipe(layers, exact, **kwargs)


def simclr_cifar(image_size: int, crop_scale: Range = (0.08, 1.0), exact: bool = False, **kwargs: Any) -> Compose:
    """SimCLR on CIFAR-10 (appendix B.9; official `tf2/README.md`): `simclr` of strength 0.5 without blur.

    At 32 pixels. Arguments are those of every recipe (`keras_moco.augment.recipes`).
    """
    return simclr(image_size, crop_scale, strength=0.5, blur=False, exact=exact, **kwargs)


def supervised(image_size: int, crop_scale: Range = (0.08, 1.0), exact: bool = False, **kwargs: Any) -> Compose:
    """Training with labels, linear evaluation included (official `main_lincls.py`): crop and flip, no colours.

    At 224 pixels. Arguments are those of every recipe (`keras_moco.augment.recipes`).
    """
    return _recipe([RandomResizedCrop(image_size, scale=crop_scale), RandomHorizontalFlip(rate=0.5)], exact, **kwargs)


def _recipe(layers, exact, **kwargs):
    return Compose(layers, **kwargs) if exact else Fused(layers, **kwargs)


# Recipes for pre-training by their names, which are those of the flag `augment`.
AUGMENTATIONS: dict[str, Callable[..., Compose]] = {
    "moco_v1": moco_v1,
    "moco_v2": moco_v2,
    "moco_cifar": moco_cifar,
    "simclr": simclr,
    "simclr_cifar": simclr_cifar,
}


def get_augmentation(name: str) -> Callable[..., Compose]:
    """The recipe of that name.

    Args:
        name: str. A key of `AUGMENTATIONS`.

    Returns:
        A function `(image_size, crop_scale=..., exact=False, **kwargs)` to an `Augmentation`.

    Raises:
        ValueError: if there is no recipe of that name; the message lists the known ones.

    Example:

    >>> from keras_moco.augment import get_augmentation
    >>> get_augmentation("moco_v2")(image_size=64).num_draws
    32
    """
    if name not in AUGMENTATIONS:
        raise UserError(
            f"`augmentation` must be one of {', '.join(map(repr, AUGMENTATIONS))}. "
            f"Received: augmentation={name!r}. Choose one of these, or call a `Compose` of your own."
        )
    return AUGMENTATIONS[name]
