"""The neighbours that vote: a search for the nearest rows of a reference set, with their labels."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from keras_moco.errors import UserError
from keras_moco.evaluation.features import Features
from keras_moco.evaluation.labelled import check_labels
from keras_moco.evaluation.neighbours import NeighbourSearch, check_k


class Voters(NamedTuple):
    """The `k` nearest neighbours of `n` queries, nearest first.

    Attributes:
        similarity: float32 array `(n, k)`, cosine similarities.
        labels: int array `(n, k)`, the classes of the neighbours.
    """

    similarity: np.ndarray
    labels: np.ndarray


def nearest_voters(
    bank: Features | Iterable[Features], queries: Features, num_classes: int, k: int = 200, chunk_size: int = 256
) -> Voters:
    """The neighbours that vote: `nearest_neighbours` with their labels.

    Only the labels of the reference set are kept, so it may be streamed: `FeatureExtractor.blocks(dataset)`.

    Args:
        bank: `Features` of the reference set, usually the training images, or an iterable of blocks of them.
        queries: `Features` to classify, usually of the test images.
        num_classes: int.
        k: int, number of neighbours.
        chunk_size: int, number of queries compared at once. Defaults to `256`, as for `nearest_neighbours`.

    Returns:
        `Voters(similarity, labels)`.

    Raises:
        ValueError: for shapes that do not fit together, `k` above the size of the reference set, labels out of range,
            or features that are not finite.
    """
    whole = isinstance(bank, Features)
    check_k(k, len(bank.features) if whole else None)
    blocks = ({"all": block} for block in ([bank] if whole else bank))
    return voters_by_level(blocks, {"all": queries}, num_classes, k, chunk_size)["all"]


def voters_by_level(blocks, queries, num_classes, k, chunk_size=256):
    """The `Voters` at every level, from one pass over the reference set.

    Args:
        blocks: iterable of dicts of level to `Features`.
        queries: dict of level to `Features`.
        num_classes, k, chunk_size: as for `nearest_voters`.
    """
    for found in queries.values():
        check_labels("query_labels", found.labels, num_classes, (len(found.features),))
        if not len(found.labels):
            raise UserError("`query_features` must hold at least one row. Received: none. Check the test data.")
    searches = {level: NeighbourSearch(found.features, k, chunk_size) for level, found in queries.items()}
    labels = {level: [] for level in queries}
    for block in blocks:
        for level, search in searches.items():
            features, classes, _ = block[level]
            labels[level].append(check_labels("bank_labels", classes, num_classes, (len(features),)))
            search.add(features)
    found = {level: search.found() for level, search in searches.items()}
    return {level: Voters(near.similarity, np.concatenate(labels[level])[near.rows]) for level, near in found.items()}
