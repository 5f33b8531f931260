"""Features of a whole data set: the first step of every evaluation."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_moco.checks.graph import plain_failures
from keras_moco.errors import UserError
from keras_moco.evaluation.batches import named, named_batches

LEVELS = ("embedding", "backbone")
IMAGE_SETTINGS = ("dataset", "test_fraction", "image_size", "batch_size")  # used by every evaluation that reads images


def check_level(level):
    """Raises `ValueError` unless `level` is one of `LEVELS`."""
    if level not in LEVELS:
        raise UserError(f"`features` must be one of {', '.join(LEVELS)}. Received: {level!r}. Choose one of them.")


def at_level(encoder: Any, level: str) -> Callable[..., Any]:
    """The function from images to an encoder's features at one level.

    Args:
        encoder: `Encoder`.
        level: `"embedding"`, unit vectors after the head, `(n, D)`; or `"backbone"`, pooled features, `(n, F)`.

    Returns:
        A function of images `(n, H, W, C)`, in inference mode.

    Raises:
        ValueError: for any other level.
    """
    check_level(level)
    return encoder.features if level == "backbone" else encoder


def at_levels(encoder: Any, levels: Sequence[str]) -> Callable[..., dict[str, Any]]:
    """The function from images to an encoder's features at several levels, from one pass of its backbone.

    Args:
        encoder: `Encoder`.
        levels: names of levels, as for `at_level`.

    Returns:
        A function of images `(n, H, W, C)`, in inference mode, to a dict of each level to its features.

    Raises:
        ValueError: for any other level.
    """
    for level in levels:
        check_level(level)

    def embed(images):
        features = encoder.features(images)
        found = {"backbone": features}
        if "embedding" in levels:
            found["embedding"] = encoder.normalize(encoder.head(features, training=False))
        return {level: found[level] for level in levels}

    return embed


class Features(NamedTuple):
    """Features of `n` images, with their labels and stable indices, in the order of the data set.

    Attributes:
        features: float32 array `(n, F)`.
        labels: int32 array `(n,)`; `-1` for images without a label.
        index: int64 array `(n,)`, the position of the image in its source; `None` if the data set has no index.
    """

    features: np.ndarray
    labels: np.ndarray
    index: np.ndarray | None  # type: ignore[assignment]  # a tuple has a method of that name


class FeatureExtractor(keras.Model):
    """Runs a callable over data sets as one compiled graph.

    It is a `keras.Model` only for `predict`, which compiles one step, accepts a smaller last batch without tracing
    again, and works under a distribution strategy. Keep one extractor when the same features are needed again after
    more training (`KnnMonitor` does): the graph reads the current weights and is traced once.

    Args:
        embed: callable, images `(n, H, W, C)` to features `(n, F)`, in inference mode, such as the bound method
            `encoder.features`. Or to a dict of several features, such as `at_levels` returns; then every `Features`
            below is a dict of `Features` with the same keys.

    Example:

    >>> extractor = FeatureExtractor(lambda images: keras.ops.mean(images, axis=(1, 2)))
    >>> images = np.full((5, 4, 4, 3), 7.0, "float32")
    >>> batches = [{"image": images, "label": np.arange(5), "index": np.arange(5)}]
    >>> extractor.extract(batches).features.shape
    (5, 3)
    """

    def __init__(self, embed: Callable[..., Any]) -> None:
        # float32 whatever the global policy: a float16 wrapper would round the images before they are embedded.
        super().__init__(name="feature_extractor", dtype="float32")
        self.embed = embed

    def call(self, batch: Any) -> dict[str, Any]:
        entries = named(batch)
        return {"features": self.embed(entries.pop("image")), **entries}

    def blocks(self, dataset: Any, rows: int = 8192) -> Iterator[Any]:
        """Embeds a data set block by block, so that it may be larger than memory.

        Args:
            dataset: `tf.data.Dataset`, `keras.utils.PyDataset` or other iterable of batches, `{"image": (b, H, W, C),
                "label": (b,), "index": (b,)}` of which only `"image"` is required, or `(image, label)`, as in Keras;
                or whole arrays in one of these forms. Images have values in 0..255; the last batch may be smaller.
            rows: int, number of images of a block, rounded down to whole batches, at least one.

        Yields:
            `Features` of one block after the other.

        Raises:
            ValueError: if `embed` returns anything but `(n, F)`; if batches have another form, or the images of the
                first batch have other values.
        """
        batches = iter(named_batches(dataset))
        for first in batches:
            count = max(1, rows // len(first["image"]))
            yield self._embed((batch,) for batch in chain([first], islice(batches, count - 1)))

    def extract(self, dataset: Any) -> Any:
        """Embeds a finite data set at once; for a moment the features are in memory twice.

        Args:
            dataset: as for `blocks`.

        Returns:
            `Features`.

        Raises:
            ValueError: as for `blocks`.
        """
        dataset = named_batches(dataset)
        if hasattr(dataset, "element_spec"):  # which Keras reads faster than single batches
            return self._embed(dataset)
        return self._embed((batch,) for batch in dataset)  # Keras asks for (inputs,) tuples

    def _embed(self, dataset):
        with warnings.catch_warnings():
            # Keras warns for every data set of unknown length; here it is meant to be read to its end.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            with plain_failures():
                found = self.predict(dataset, verbose=0)
        features = found["features"]
        count = len(next(iter(features.values())) if isinstance(features, dict) else features)
        labels = _classes(np.asarray(found.get("label", np.full(count, -1))))
        index = np.asarray(found["index"], "int64") if "index" in found else None
        if isinstance(features, dict):
            return {name: Features(_vectors(each), labels, index) for name, each in features.items()}
        return Features(_vectors(features), labels, index)


def _classes(labels):
    """The labels as int32, once they are known to fit."""
    if len(labels) and not np.iinfo("int32").min <= labels.min() <= labels.max() <= np.iinfo("int32").max:
        raise UserError(
            "Labels must be classes counted from 0, or -1 for images without a label. "
            f"Received: labels from {labels.min()} to {labels.max()}. Number the classes."
        )
    return labels.astype("int32")


def _vectors(features):
    features = np.asarray(features, "float32")
    if features.ndim != 2:
        raise UserError(
            "`embed` must return one feature vector per image, shape (n, F). "
            f"Received: features of shape {features.shape}. Pool over height and width first, "
            "as `encoder.features` does."
        )
    return features


def extract_features(embed: Callable[..., Any], dataset: Any) -> Any:
    """Embeds a finite data set once, as one compiled graph.

    Args:
        embed: callable, images `(n, H, W, C)` to features `(n, F)`, in inference mode, such as
            `encoder.features`.
        dataset: batches of images, with labels or without, such as `keras_moco.data.evaluation_dataset(...)`; see
            `FeatureExtractor.blocks`.

    Returns:
        `Features(features, labels, index)`: NumPy arrays float32 `(n, F)`, int32 `(n,)`, int64 `(n,)`; labels are -1
        and the index is `None` if the data set has none.

    Raises:
        ValueError: as `FeatureExtractor.blocks`.

    Example:

    >>> batches = [{"image": np.ones((2, 8, 8, 1)), "label": np.array([3, 4]), "index": np.array([0, 1])}]
    >>> extract_features(lambda images: keras.ops.mean(images, axis=(1, 2)), batches).labels.tolist()
    [3, 4]
    """
    return FeatureExtractor(embed).extract(dataset)
