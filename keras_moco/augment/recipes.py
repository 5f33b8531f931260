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

from keras_moco.augment.band_brightness import RandomBandBrightness
from keras_moco.augment.band_drop import RandomBandDrop
from keras_moco.augment.bands import BANDS
from keras_moco.augment.base import Range
from keras_moco.augment.blur import RandomGaussianBlur
from keras_moco.augment.color_jitter import RandomColorJitter
from keras_moco.augment.compose import Compose
from keras_moco.augment.crop import RandomResizedCrop
from keras_moco.augment.flip import RandomHorizontalFlip
from keras_moco.augment.fused import Fused
from keras_moco.augment.grayscale import RandomGrayscale
from keras_moco.augment.noise import RandomNoise
from keras_moco.augment.right_angle import RandomRightAngle
from keras_moco.augment.rotation import RandomRotation
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


def moco_medical(image_size: int, crop_scale: Range = (0.5, 1.0), exact: bool = False, **kwargs: Any) -> Compose:
    """For X-ray, CT, MR and the like, of any number of channels: crop, flip, rotation, grey levels, blur, noise.

    At 224 pixels. The rotation of up to 10 degrees and the flip are MoCo-CXR's (Sowrirajan et al. 2021; official
    `image_transform.py`, `--rotate 10`), which has nothing else. Brightness and contrast (.4 at rate 0.8) and the blur
    (rate 0.5) are MoCo v2's, without its colours. Our choice: crops of at least half of the area, since what a smaller
    one loses may be the finding, and noise of up to 10 of 255 grey levels at rate 0.5. The flip mirrors left and right:
    compose your own layers where the side matters.

    Arguments are those of every recipe (`keras_moco.augment.recipes`).
    """
    layers = [
        RandomResizedCrop(image_size, scale=crop_scale),
        RandomHorizontalFlip(rate=0.5),
        RandomRotation(degrees=10.0),
        RandomColorJitter(0.4, 0.4, 0.0, 0.0, rate=0.8),
        RandomGaussianBlur(sigma=(0.1, 2.0), rate=0.5),
        RandomNoise(sigma=(0.0, 10.0), rate=0.5),
    ]
    return _recipe(layers, exact, **kwargs)


def moco_multispectral(
    image_size: int, crop_scale: Range = (0.2, 1.0), bands: int = BANDS, exact: bool = False, **kwargs: Any
) -> Compose:
    """For images from above, of any number of bands: crop, right angles, brightness of each band, dropped bands, blur.

    At 224 pixels. After the MoCo of SSL4EO-S12 (Wang et al. 2023; official `pretrain_moco_v2_s2c.py`): its crop, its
    brightness (.4 at rate 0.8), its blur and its rate of images with dropped bands (0.5). Our choice: the eight
    symmetries of a square instead of a mirror image, a factor of its own for each band, every band dropped with
    probability 0.25, and neither contrast nor grayscale.

    Args:
        image_size, crop_scale, exact, **kwargs: arguments of every recipe (`keras_moco.augment.recipes`).
        bands: int. The most channels that an image may have. Defaults to `32` (our choice).
    """
    layers = [
        RandomResizedCrop(image_size, scale=crop_scale),
        RandomRightAngle(),
        RandomBandBrightness(0.4, rate=0.8, bands=bands),
        RandomBandDrop(band_rate=0.25, rate=0.5, bands=bands),
        RandomGaussianBlur(sigma=(0.1, 2.0), rate=0.5),
    ]
    return _recipe(layers, exact, **kwargs)


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
    "moco_medical": moco_medical,
    "moco_multispectral": moco_multispectral,
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
