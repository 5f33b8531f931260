"""How long and narrow an image may be before random crops of it no longer differ."""

import bisect

import numpy as np

from keras_moco.augment.crop import RandomResizedCrop

RANDOM = 512  # crops that are compared
SIDE = 1000  # pixels of the shorter side
RATIOS = np.geomspace(1, 50, 400)


def narrow_from(crop: RandomResizedCrop, share: float = 0.5) -> float:
    """The ratio of the longer to the shorter side from which a share of all random crops is one and the same box.

    No box of the wanted area and aspect fits into a very long image. After ten tries the largest central box is taken,
    so that two views of the image are identical but for their colours, and its ends are never seen.

    Args:
        crop: `RandomResizedCrop`.
        share: float in (0, 1]. Defaults to `0.5`.

    Returns:
        float, at most 50. With `share=1` it is close to (and below) `high / low`, where `high` is the widest aspect and
        `low` the smallest area.

    Example:

    >>> 3.9 < narrow_from(RandomResizedCrop(224)) < narrow_from(RandomResizedCrop(224), share=1) < 6.67
    True
    """
    random = np.random.default_rng(0).random((RANDOM, crop.num_draws), "float32")

    def commonest(ratio):
        boxes = np.stack([part.numpy() for part in crop.boxes(random, SIDE, round(SIDE * ratio))])
        return np.unique(boxes, axis=1, return_counts=True)[1].max() / RANDOM

    place = bisect.bisect_left(RATIOS, share, key=commonest)
    return float(RATIOS[min(place, len(RATIOS) - 1)])
