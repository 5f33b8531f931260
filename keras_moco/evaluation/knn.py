"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., 2018)."""

from typing import NamedTuple

import numpy as np

from keras_moco.errors import UserError
from keras_moco.evaluation.accuracy import accuracy_of
from keras_moco.evaluation.features import Features
from keras_moco.evaluation.neighbours import NeighbourSearch, check_k, nearest_neighbours

# Queries whose votes are counted at once.
_BALLOTS = 1024


# Neighbours that vote in the authors' CIFAR-10 demo, and in Wu et al. 2018.
USUAL_K = 200


class Voters(NamedTuple):
    """The `k` nearest neighbours of `n` queries, nearest first.

    Attributes:
        similarity: float32 array `(n, k)`, cosine similarities.
        labels: int array `(n, k)`, their classes.
    """

    similarity: np.ndarray
    labels: np.ndarray


def nearest_voters(bank, queries, num_classes, k=200, chunk_size=256):
    """The neighbours that vote, `nearest_neighbours` with their labels.

    Of the bank only labels are kept, so that blocks may stream past: `FeatureExtractor.blocks(dataset)`.

    Args:
        bank: `Features` that vote, usually of the training images, or iterable of blocks of them.
        queries: `Features` to classify, usually of the test images.
        num_classes: int.
        k: int, number of neighbours.
        chunk_size: int, queries compared at once. Defaults to `256`, as `nearest_neighbours`.

    Returns:
        `Voters(similarity, labels)`.

    Raises:
        ValueError: for shapes that do not fit together, `k` above the size of the bank, labels out of range, or
            features that are not finite.
    """
    search = VoterSearch(queries, num_classes, k, chunk_size)
    held = isinstance(bank, Features)
    check_k(k, len(bank.features) if held else None)
    for block in [bank] if held else bank:
        search.add(block)
    return search.found()


class VoterSearch:
    """`nearest_voters` in a bank that is handed over block by block: several searches share one pass over it.

    Args:
        queries, num_classes, k, chunk_size: as of `nearest_voters`.

    Raises:
        ValueError: as `nearest_voters`.
    """

    def __init__(self, queries, num_classes, k=200, chunk_size=256):
        _check_labels("query_labels", np.asarray(queries.labels), len(queries.features), num_classes)
        if not len(queries.labels):
            raise UserError("`query_features` must hold at least one row. Received: none. Check the test data.")
        self._search = NeighbourSearch(queries.features, k, chunk_size)
        self._num_classes = num_classes
        self._labels = []

    def add(self, block):
        """Goes on with the next `Features` of the bank."""
        labels = np.asarray(block.labels)
        _check_labels("bank_labels", labels, len(block.features), self._num_classes)
        self._labels.append(labels)
        self._search.add(block.features)

    def found(self):
        """The `Voters` among all rows so far."""
        found = self._search.found()
        return Voters(found.similarity, np.concatenate(self._labels)[found.rows])


def usual_k(labels):
    """How many neighbours vote where nobody says: 200, of small sets fewer.

    At most a tenth of the images, and fewer than the smallest class has: with more, others outvote it even where all
    of its images are the nearest.

    Args:
        labels: int array `(n,)` of the images that vote; -1 where there is none.

    Returns:
        int, at least 1.

    Example:

    >>> usual_k(np.arange(60_000) % 10), usual_k(np.arange(1437) % 10), usual_k([0] * 90 + [1] * 4)
    (200, 142, 3)
    """
    labels = np.asarray(labels)
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    return int(max(1, min(USUAL_K, len(labels) // 10, counts.min(initial=USUAL_K + 1) - 1)))


def told_usual_k(k):
    """A line that says how many vote in place of the usual number, and why."""
    return (
        f"note: --knn_k was not given; {k} neighbours vote, at most a tenth of the training images and fewer than the "
        f"smallest class has, in place of the authors' {USUAL_K}"
    )


def knn_vote(similarity, labels, num_classes, temperature=0.1):
    """The weighted vote of neighbours.

    A neighbour votes for its class with weight `exp(similarity / temperature)` (Wu et al. 2018, sec. 3.4; the official
    MoCo CIFAR demo). The votes of one query are divided by their sum, which changes no ranking and keeps them finite
    at any temperature.

    Args:
        similarity: `(n, k)` cosine similarities, best first.
        labels: `(n, k)` integers in `[0, num_classes)`, the classes of the neighbours.
        num_classes: int.
        temperature: float > 0. Defaults to `0.1` (Wu et al. use 0.07, the official CIFAR demo 0.1).

    Returns:
        float32 array `(n, num_classes)`: the share of the vote of each class; rows sum to 1.

    Raises:
        ValueError: for a temperature that is not positive.

    Example:

    >>> knn_vote(np.array([[0.9, 0.9, 0.9, 0.9]]), np.array([[2, 0, 2, 2]]), num_classes=3).tolist()
    [[0.25, 0.0, 0.75]]
    """
    _check_temperature(temperature)
    votes = np.empty((len(similarity), num_classes), "float32")
    for start in range(0, len(votes), _BALLOTS):
        part = slice(start, start + _BALLOTS)
        # Subtracting the best similarity of a row divides its weights by a constant and keeps exp from overflowing.
        weights = np.exp((similarity[part] - similarity[part, :1]) / temperature)
        ballots = labels[part] + num_classes * np.arange(len(weights))[:, None]
        counted = np.bincount(ballots.ravel(), weights.ravel(), minlength=len(weights) * num_classes)
        counted = counted.reshape(-1, num_classes)
        votes[part] = counted / counted.sum(axis=1, keepdims=True)
    return votes


def knn_predict(bank_features, bank_labels, query_features, num_classes, k=200, temperature=0.1, chunk_size=256):
    """Weighted k-nearest-neighbour vote by cosine similarity.

    `knn_vote` of the `nearest_neighbours`, which states how much memory it takes and how ties are broken.

    Args:
        bank_features: `(m, F)` features that vote. They need not be normalised.
        bank_labels: `(m,)` integers in `[0, num_classes)`.
        query_features: `(n, F)` features to classify.
        num_classes: int.
        k: int, number of neighbours, at most `m`. Defaults to `200` (Wu et al. 2018; official CIFAR demo).
        temperature: float > 0. Defaults to `0.1` (Wu et al. use 0.07, the official CIFAR demo 0.1).
        chunk_size: int, queries compared at once. Defaults to `256`, as `nearest_neighbours`.

    Returns:
        float32 array `(n, num_classes)`: the share of the vote of each class; rows sum to 1.

    Raises:
        ValueError: for shapes that do not fit together, `k` above the size of the bank, labels out of range,
            a temperature that is not positive, or features that are not finite.

    Example:

    >>> bank = np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0]])
    >>> knn_predict(bank, [0, 0, 1], [[5.0, 0.2]], num_classes=2, k=2).tolist()
    [[1.0, 0.0]]
    """
    bank, labels = np.asarray(bank_features), np.asarray(bank_labels)
    _check_labels("bank_labels", labels, len(bank), num_classes)
    _check_temperature(temperature)
    found = nearest_neighbours(bank, query_features, k, chunk_size)
    return knn_vote(found.similarity, labels[found.rows], num_classes, temperature)


def knn_accuracies(bank, queries, num_classes, ks=(200,), temperatures=(0.1,), chunk_size=256):
    """Top-1 and top-5 accuracy of the weighted vote for several `k` and temperatures, from one search.

    Args:
        bank, queries, num_classes: as in `nearest_voters`.
        ks: ints, numbers of neighbours. Defaults to `(200,)` (Wu et al. 2018; official CIFAR demo).
        temperatures: floats > 0. Defaults to `(0.1,)` (official CIFAR demo).
        chunk_size: int, queries compared at once. Defaults to `256`, as `nearest_neighbours`.

    Returns:
        dict `{(k, temperature): Accuracy(top1, top5)}`, in percent. Classes with equal votes rank by class number;
        with five classes or fewer, top-5 is 100.

    Raises:
        ValueError: as `knn_predict`, and for query labels that do not fit.

    Example:

    >>> bank = Features(np.eye(3), np.array([0, 1, 1]), np.arange(3))
    >>> queries = Features(np.array([[1.0, 0.0, 0.9]]), np.array([1]), np.arange(1))
    >>> knn_accuracies(bank, queries, num_classes=2, ks=(1, 3))[3, 0.1]
    Accuracy(top1=0.0, top5=100.0)
    """
    for k in ks:
        check_k(k, len(bank.features) if isinstance(bank, Features) else None)
    for temperature in temperatures:
        _check_temperature(temperature)
    voters = nearest_voters(bank, queries, num_classes, max(ks), chunk_size)
    accuracies = {}
    for k in ks:
        nearest = voters.similarity[:, :k], voters.labels[:, :k]
        for temperature in temperatures:
            accuracies[k, temperature] = accuracy_of(knn_vote(*nearest, num_classes, temperature), queries.labels)
    return accuracies


def knn_accuracy(
    bank_features,
    bank_labels,
    query_features,
    query_labels,
    num_classes,
    k=200,
    temperature=0.1,
    chunk_size=256,
):
    """Top-1 and top-5 accuracy of `knn_predict`, in percent; `knn_accuracies` of one `k` and temperature.

    Args:
        bank_features: `(m, F)` features that vote, usually of the training images.
        bank_labels: `(m,)` integers in `[0, num_classes)`.
        query_features: `(n, F)` features to classify, usually of the test images.
        query_labels: `(n,)` integers in `[0, num_classes)`.
        num_classes: int.
        k: int, number of neighbours. Defaults to `200` (Wu et al. 2018; official CIFAR demo).
        temperature: float > 0. Defaults to `0.1` (official CIFAR demo).
        chunk_size: int, queries compared at once. Defaults to `256`, as `nearest_neighbours`.

    Returns:
        `Accuracy(top1, top5)` in percent. Classes with equal votes rank by class number; with five classes
        or fewer, top-5 is 100.

    Raises:
        ValueError: as `knn_predict`, and for query labels that do not fit.

    Example:

    >>> bank = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> knn_accuracy(bank, [0, 1], [[2.0, 0.1], [3.0, 0.1]], [0, 1], num_classes=2, k=1)
    Accuracy(top1=50.0, top5=100.0)
    """
    bank = Features(np.asarray(bank_features), bank_labels, index=None)
    queries = Features(np.asarray(query_features), query_labels, index=None)
    return knn_accuracies(bank, queries, num_classes, (k,), (temperature,), chunk_size)[k, temperature]


def _check_temperature(temperature):
    if not temperature > 0:
        raise UserError(f"`temperature` must be positive. Received: temperature={temperature}. The usual value is 0.1.")


def _check_labels(name, labels, rows, num_classes):
    if labels.shape != (rows,):
        raise UserError(
            f"`{name}` must hold one label per feature. "
            f"Received: {name} of shape {labels.shape} for {rows} features. "
            "Take labels and features from the same extraction."
        )
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise UserError(
            f"`{name}` must lie in [0, num_classes). Received: labels from {labels.min()} to {labels.max()}, "
            f"num_classes={num_classes}. Label -1 marks unlabelled data, which cannot be evaluated."
        )
