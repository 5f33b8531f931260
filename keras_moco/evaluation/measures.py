"""Measures without labels: how close are two views of an image, and how evenly do images fill the sphere?"""

from typing import NamedTuple

import numpy as np

from keras_moco.augment import moco_v2
from keras_moco.data import pretrain_dataset
from keras_moco.data.subset import in_file_order
from keras_moco.errors import UserError
from keras_moco.evaluation.features import IMAGE_SETTINGS, FeatureExtractor
from keras_moco.runs.build import build_augmentation

SETTINGS = (*IMAGE_SETTINGS, "split", "features", "seed")
MEASURED_IMAGES = 2048
_CHUNK = 256  # rows compared with all later ones at once: 50 MB of distances for 25,000 rows


def run(target):
    """`evaluate.py measures`: of augmented views of the first images, which need no labels."""
    source, size, seed = target.images, target.image_size, target.config.seed
    augmentation = build_augmentation(target.recipe) if target.recipe else moco_v2(size)
    batch, views = min(target.config.batch_size, source.num_examples), ("query", "key")
    pairs = pretrain_dataset(in_file_order(source), augmentation, batch, seed, entries=views)
    pairs = list(pairs.take(min(source.num_examples, MEASURED_IMAGES) // batch))
    extractor = FeatureExtractor(target.features_by_level)
    first, second = (extractor.extract([{"image": pair[view]} for pair in pairs]) for view in views)
    for level in target.levels:
        found = representation_measures(first[level].features, second[level].features)._asdict()
        print(f"{level}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        metrics = {name: round(value, 4) for name, value in found.items()}
        target.output.record(**{f"measures_{source.split}_{level}": metrics})


class RepresentationMeasures(NamedTuple):
    """The result of `representation_measures`.

    Attributes:
        alignment: float in [0, 4]; 0 if both views of every image have identical features.
        uniformity: float in [-8, 0]; 0 if all images have identical features.
        feature_std: float in [0, 1]; 0 if all images have identical features.
        effective_rank: float, from 1, if the features of all images have the same direction, to the smaller of the
            number of images and the number of features.
    """

    alignment: float
    uniformity: float
    feature_std: float
    effective_rank: float


def alignment(first: np.ndarray, second: np.ndarray, alpha: float = 2) -> float:
    """The distance between two views of an image: the mean of `|x - y|^alpha` over positive pairs `(x, y)`.

    Features are normalised first (Wang & Isola 2020, sec. 4.1); with `alpha=2` it is 2 minus twice the mean cosine
    similarity.

    Args:
        first: `(n, D)` features of one view of `n` images. They need not be normalised; zeros stay zeros.
        second: `(n, D)` features of the other views, in the same order.
        alpha: positive float. Defaults to `2` (the paper's choice).

    Returns:
        float in `[0, 2^alpha]`; lower means more similar.

    Raises:
        ValueError: unless both are finite matrices of the same shape with at least two rows, and `alpha` is positive.

    Example:

    >>> alignment([[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, -1.0]])
    2.0
    """
    first, second = _pair(first, second)
    _check_positive("alpha", alpha)
    distance = np.linalg.norm(_unit(first) - _unit(second), axis=1)  # (n,)
    return float(np.mean(distance**alpha))


def uniformity(features: np.ndarray, t: float = 2) -> float:
    """How evenly images cover the sphere: `log` of the mean of `exp(-t |x_i - x_j|^2)` over all pairs `i < j`.

    Features are normalised first (Wang & Isola 2020, sec. 4.1). Memory is about `4 * 8 * 256 * n` bytes beside copies
    of the features in float64: 200 MB for 25,000 rows.

    Args:
        features: `(n, D)` features of `n` images. They need not be normalised; zeros stay zeros.
        t: positive float. Defaults to `2` (the paper's choice).

    Returns:
        float in `[-4 t, 0]`; lower means more even.

    Raises:
        ValueError: unless `features` is a finite matrix with at least two rows, and `t` is positive.

    Example:

    >>> uniformity([[1.0, 0.0], [-5.0, 0.0]])
    -8.0
    """
    features = _matrix("features", features)
    _check_positive("t", t)
    unit = _unit(features)
    lengths = np.sum(unit**2, axis=1)  # (n,), 1 except for rows of zeros
    sums = []
    for start in range(0, len(unit) - 1, _CHUNK):
        rows, later = slice(start, start + _CHUNK), slice(start + 1, None)
        squared = lengths[rows, None] + lengths[later] - 2 * unit[rows] @ unit[later].T  # (c, n - start - 1)
        exponents = -t * np.maximum(squared, 0)
        exponents[np.tril_indices(len(exponents), -1)] = -np.inf  # each pair once
        sums.append(_log_of_sum(exponents))
    pairs = len(unit) * (len(unit) - 1) / 2
    return float(_log_of_sum(np.array(sums)) - np.log(pairs))


def feature_std(features: np.ndarray) -> float:
    """The standard deviation of normalised features, averaged over the `D` features, times the square root of `D`.

    The training metric of that name (`keras_moco.methods.ContrastiveModel`), over all images instead of a batch: 1 if
    embeddings cover the sphere, 0 if all are identical.

    Args:
        features: `(n, D)` features of `n` images. They need not be normalised; zeros stay zeros.

    Returns:
        float in `[0, 1]`.

    Raises:
        ValueError: unless `features` is a finite matrix with at least two rows.

    Example:

    >>> round(feature_std([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 6)
    1.0
    """
    unit = _unit(_matrix("features", features))
    return float(np.mean(np.std(unit, axis=0)) * unit.shape[1] ** 0.5)


def effective_rank(features: np.ndarray, epsilon: float = 1e-7) -> float:
    """The number of dimensions that the features use: RankMe (Garrido et al. 2023, eq. 1 and 2).

    `exp(-sum_k p_k log p_k)` with `p_k = s_k / sum_j s_j + epsilon`, of the `min(n, D)` singular values `s`. As in the
    paper, features are neither centred, so a mean that all images share counts as one dimension, nor normalised: the
    paper takes the output of the head, and the embeddings of this package are unit vectors. `epsilon` is added after
    the division, so the `p_k` sum up to a little more than 1, and the result may exceed its bounds by a factor of about
    `1 + epsilon * min(n, D) * log(1 / epsilon)`.

    Args:
        features: `(n, D)` features of `n` images; `n` should exceed `D` (the paper takes 25,600 images).
        epsilon: positive float. Defaults to `1e-7` (the paper's choice, for float32).

    Returns:
        float, from 1 to `min(n, D)`; 1 if all features are zero.

    Raises:
        ValueError: unless `features` is a finite matrix with at least two rows, and `epsilon` is positive.

    Example:

    >>> round(effective_rank(np.eye(4)), 3), round(effective_rank(np.ones((4, 4))), 3)
    (4.0, 1.0)
    """
    features = _matrix("features", features)
    _check_positive("epsilon", epsilon)
    values = np.linalg.svd(features, compute_uv=False)  # (min(n, D),)
    share = values / max(values.sum(), np.finfo("float64").tiny) + epsilon
    return float(np.exp(-np.sum(share * np.log(share))))


def similarities(first, second):
    """Cosine similarities between two views of an image, and between views of different images.

    Args:
        first: `(n, D)` features of one view of `n` images. They need not be normalised; zeros stay zeros.
        second: `(n, D)` features of the other views, in the same order.

    Returns:
        `(positive, negative)`: float64 `(n,)`, and `(n * (n - 1),)` between each first view and the second views of all
        other images.

    Raises:
        ValueError: unless both are finite matrices of the same shape with at least two rows.

    Example:

    >>> positive, negative = similarities([[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [2.0, 0.0]])
    >>> positive.tolist(), negative.tolist()
    ([1.0, 0.0], [1.0, 0.0])
    """
    first, second = _pair(first, second)
    cosines = _unit(first) @ _unit(second).T  # (n, n)
    return np.diagonal(cosines).copy(), cosines[~np.eye(len(cosines), dtype=bool)]


def representation_measures(first: np.ndarray, second: np.ndarray) -> RepresentationMeasures:
    """All measures of the features of two views: alignment of both, the others of the first view alone.

    Args:
        first: `(n, D)` features of one view of `n` images, usually embeddings.
        second: `(n, D)` features of the other views, in the same order.

    Returns:
        `RepresentationMeasures(alignment, uniformity, feature_std, effective_rank)`. Features are normalised for the
        first three, not for the rank.

    Raises:
        ValueError: unless both are finite matrices of the same shape with at least two rows.

    Example:

    >>> views = np.eye(3)
    >>> representation_measures(views, views).alignment
    0.0
    """
    return RepresentationMeasures(
        alignment(first, second), uniformity(first), feature_std(first), effective_rank(first)
    )


def _log_of_sum(exponents):
    # The largest term is taken out, or all would vanish for a large `t`.
    largest = exponents.max()
    return largest + np.log(np.sum(np.exp(exponents - largest)))


def _unit(features):
    # Rows are scaled by their largest entry first, so that squaring neither overflows nor vanishes.
    features = features / np.maximum(np.abs(features).max(axis=1, keepdims=True), np.finfo("float64").tiny)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1)


def _matrix(name, features):
    """Checked features in float64."""
    features = np.asarray(features, "float64")
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise UserError(
            f"`{name}` must be a matrix (n, D) of at least two rows. Received: shape {features.shape}. "
            "Give one row of features per image."
        )
    if not np.isfinite(features).all():
        raise UserError(
            f"`{name}` must be finite. Received: NaN or infinite features. "
            "The training has probably diverged; lower the learning rate."
        )
    return features


def _pair(first, second):
    first, second = _matrix("first", first), _matrix("second", second)
    if first.shape != second.shape:
        raise UserError(
            "`first` and `second` must have the same shape, (n, D). "
            f"Received: shapes {first.shape} and {second.shape}. Take both views of the images from the same encoder."
        )
    return first, second


def _check_positive(name, value):
    if not value > 0:
        raise UserError(f"`{name}` must be positive. Received: {name}={value}. Omit it for the paper's value.")
