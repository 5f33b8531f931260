"""Settings that fit a set of images, for those who give none: views, network, recipe and batches."""

import itertools
from typing import Any, NamedTuple

import numpy as np

from keras_moco.config import Config
from keras_moco.config.training import AUTO
from keras_moco.data.source import Source
from keras_moco.errors import UserError

VIEWS = (32, 64, 96, 128, 224)  # pixels, of the recipes in configs
SMALLEST_VIEW = 16  # as in configs/quickstart.cfg, whose images have 8 pixels
STEMS = {40: "cifar", 96: "half"}  # up to which size of the views; the table of docs/your_own_images.md
SMALLEST_BATCH = 8  # of one replica, with 8 groups of BatchNorm
MANY = 200_000  # images; from here on the networks and the momentum of ImageNet fit
SAMPLE = 64  # images that are decoded where no file says its size

# The authors' settings for small images (the CIFAR-10 demo), and for all others (MoCo v2).
SMALL = {
    "augment": "moco_cifar",
    "head": "linear",
    "temperature": 0.1,
    "base_learning_rate": 0.06,
    "weight_decay": 5e-4,
}
LARGE = {"augment": "moco_v2", "head": "mlp", "temperature": 0.2}


class Images(NamedTuple):
    """What the settings follow from.

    Attributes:
        number: int, how many there are.
        sizes: int array `(n, 2)`, the heights and widths of some of them.
        channels: int.
        deep: bool, whether they have more than 8 bits.
    """

    number: int
    sizes: np.ndarray
    channels: int
    deep: bool = False


def images_of(source: Source) -> Images:
    """What the settings follow from: of files from the headers of a sample, of others from their pixels."""
    decoding = source.decoding
    return Images(
        source.num_examples, _sizes(source), source.image_shape[-1], decoding is not None and decoding.dtype != "uint8"
    )


def _sizes(source):
    if source.sample:
        return np.array([[each.facts.height, each.facts.width] for each in source.sample().seen]).reshape(-1, 2)
    if None not in source.image_shape[:2]:
        return np.array([source.image_shape[:2]])
    some = itertools.islice(source.examples(seed=0).as_numpy_iterator(), SAMPLE)
    return np.array([example["image"].shape[:2] for example in some])


def fitted_settings(images: Images, accelerator: bool, replicas: int = 1, image_size: int | None = None) -> dict:
    """Settings of `Config` for a run on these images; those that are not named keep their defaults.

    - `image_size`: the largest of 32, 64, 96, 128 and 224 that is not above the median of the shorter sides; of smaller
      images these, in whole fours, at least 16. `stem`: by that size.
    - `augment`: `moco_multispectral` for other than one or three channels, `moco_medical` for gray images of more than
      8 bits; otherwise that of the CIFAR-10 demo for views of up to 40 pixels, and that of MoCo v2 for larger ones.
      `head`, `temperature`, and for small views the learning rate and weight decay, are those of these two.
    - `backbone`: `resnet10` on a CPU, of half the width for views of up to 40 pixels (as in configs/fashion_mnist.cfg);
      on an accelerator `resnet18`, from 200,000 images on `resnet50`.
    - `batch_size`: 256, or where that is more than a fifth of the images, the largest power of two that is not, at
      least 8. `key_momentum`: 0.99, from 200,000 images on 0.999.
    - `image_mean`, `image_std`: measured. `schedule`: cosine.

    Args:
        images: `Images`.
        accelerator: bool, whether there is a GPU or TPU.
        replicas: int, the number of devices that train in step, by which a batch is divisible. Defaults to `1`.
        image_size: int, the size of the views if it is given. Defaults to `None`.

    Returns:
        dict of settings by name.

    Raises:
        ValueError: if the size of no image is known, since none can be read.

    Example:

    >>> found = fitted_settings(Images(30_000, np.array([[375, 500]]), 3), accelerator=False)
    >>> found["image_size"], found["augment"], found["backbone"], found["batch_size"]
    (224, 'moco_v2', 'resnet10', 256)
    """
    if not len(images.sizes):
        raise UserError("The size of some images must be known. Received: none that can be read. Repair them.")
    views = {"image_size": image_size, "stem": _stem(image_size)} if image_size else views_for(images.sizes)
    small = views["stem"] == STEMS[40]
    recipe = dict(SMALL if small else LARGE)
    if images.channels not in (1, 3):
        recipe["augment"] = "moco_multispectral"
    elif images.channels == 1 and images.deep:
        recipe["augment"] = "moco_medical"
    network: dict[str, Any] = {"backbone": "resnet18" if images.number < MANY else "resnet50"}
    if not accelerator:
        width = Config.backbone_width // (2 if small else 1)
        network = {"backbone": "resnet10", "backbone_width": width}
    batch = batch_size_for(images.number)
    return {
        **views,
        **recipe,
        **network,
        "key_momentum": 0.99 if images.number < MANY else Config.key_momentum,
        "batch_size": batch - batch % replicas or batch,
        "schedule": "cosine",
        "image_mean": AUTO,
        "image_std": AUTO,
    }


def views_for(sizes: np.ndarray) -> dict:
    """The settings `image_size` and `stem` that fit images of these heights and widths `(n, 2)`; empty for none."""
    if not len(sizes):
        return {}
    side = int(np.median(sizes.min(axis=1)))
    small = max(SMALLEST_VIEW, side // 4 * 4)
    size = max((each for each in VIEWS if each <= side), default=small)
    return {"image_size": size, "stem": _stem(size)}


def _stem(size):
    return next((stem for most, stem in STEMS.items() if size <= most), "imagenet")


def batch_size_for(count: int) -> int:
    """The setting `batch_size` for a number of images."""
    most = max(SMALLEST_BATCH, min(Config.batch_size, count // 5))
    return 2 ** (most.bit_length() - 1)
