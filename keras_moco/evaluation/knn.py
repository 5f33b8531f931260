"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., 2018)."""

from typing import NamedTuple

import numpy as np
from keras import ops

# Bank rows compared at once. Large enough for the matrix product to run at full speed, small enough that a
# chunk of similarities stays near the processor's cache.
_BANK_CHUNK = 8192


class KnnAccuracy(NamedTuple):
    """Accuracy of the weighted vote, in percent."""

    top1: float
    top5: float


def knn_predict(bank_features, bank_labels, query_features, num_classes, k=200, temperature=0.1, chunk_size=1024):
    """Weighted k-nearest-neighbour vote by cosine similarity.

    The `k` bank rows most similar to a query vote for their class with weight `exp(similarity / temperature)`
    (Wu et al. 2018, sec. 3.4; the official MoCo CIFAR demo). The votes of one query are divided by their sum,
    which changes no ranking and keeps them finite at any temperature.

    Queries and bank are both compared in chunks with a running top `k`. Besides the arguments and the
    returned array, memory is at most about `4 * chunk_size * (8192 + 10 * k + 5 * num_classes) + 16 * 8192 *
    F` bytes (110 MB for the defaults, F = 512 and 10 classes), however large the bank and however many
    queries.

    A vector of zeros has similarity 0 to everything. Among equal similarities the row that comes first in the
    bank wins.

    Args:
        bank_features: `(m, F)` features that vote. They need not be normalised.
        bank_labels: `(m,)` integers in `[0, num_classes)`.
        query_features: `(n, F)` features to classify.
        num_classes: int.
        k: int, number of neighbours, at most `m`. Defaults to `200` (Wu et al. 2018; official CIFAR demo).
        temperature: float > 0. Defaults to `0.1` (Wu et al. use 0.07, the official CIFAR demo 0.1).
        chunk_size: int, queries compared at once.

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
    bank = np.asarray(bank_features)
    queries = np.asarray(query_features)
    labels = np.asarray(bank_labels)
    _check(bank, labels, queries, num_classes, k, temperature, chunk_size)
    votes = np.empty((len(queries), num_classes), "float32")
    for start in range(0, len(queries), chunk_size):
        rows = slice(start, start + chunk_size)
        similarity, neighbours = _nearest(bank, _unit(queries[rows]), k)  # (c, k), (c, k)
        # Subtracting the best similarity of a row divides its weights by a constant and keeps exp from
        # overflowing.
        weights = np.exp((similarity - similarity[:, :1]) / temperature)
        ballots = labels[neighbours] + num_classes * np.arange(len(weights))[:, None]
        counted = np.bincount(ballots.ravel(), weights.ravel(), minlength=len(weights) * num_classes)
        counted = counted.reshape(-1, num_classes)
        votes[rows] = counted / counted.sum(axis=1, keepdims=True)
    return votes


def knn_accuracy(
    bank_features,
    bank_labels,
    query_features,
    query_labels,
    num_classes,
    k=200,
    temperature=0.1,
    chunk_size=1024,
):
    """Top-1 and top-5 accuracy of `knn_predict`, in percent.

    Args:
        bank_features: `(m, F)` features that vote, usually of the training images.
        bank_labels: `(m,)` integers in `[0, num_classes)`.
        query_features: `(n, F)` features to classify, usually of the test images.
        query_labels: `(n,)` integers in `[0, num_classes)`.
        num_classes: int.
        k: int, number of neighbours. Defaults to `200` (Wu et al. 2018; official CIFAR demo).
        temperature: float > 0. Defaults to `0.1` (official CIFAR demo).
        chunk_size: int, queries compared at once.

    Returns:
        `KnnAccuracy(top1, top5)` in percent. Classes with equal votes rank by class number; with five classes
        or fewer, top-5 is 100.

    Raises:
        ValueError: as `knn_predict`, and for query labels that do not fit.

    Example:

    >>> bank = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> knn_accuracy(bank, [0, 1], [[2.0, 0.1], [3.0, 0.1]], [0, 1], num_classes=2, k=1)
    KnnAccuracy(top1=50.0, top5=100.0)
    """
    truth = np.asarray(query_labels)
    _check_labels("query_labels", truth, len(np.asarray(query_features)), num_classes)
    if not len(truth):
        raise ValueError("`query_features` must hold at least one row. Received: none. Check the test data.")
    votes = knn_predict(
        bank_features,
        bank_labels,
        query_features,
        num_classes,
        k=k,
        temperature=temperature,
        chunk_size=chunk_size,
    )
    ranked = np.argsort(-votes, axis=1, kind="stable")[:, :5]
    hits = ranked == truth[:, None]
    return KnnAccuracy(top1=100.0 * float(hits[:, 0].mean()), top5=100.0 * float(hits.any(axis=1).mean()))


def _unit(rows):
    rows = rows.astype("float32")
    # Rows are scaled by their largest entry first, so that squaring neither overflows nor vanishes.
    rows = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo("float32").tiny)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise ValueError(
            "Features must be finite. Received: NaN or infinite features. "
            "The training has probably diverged; lower the learning rate."
        )
    return rows / np.where(norms > 0, norms, 1)


def _nearest(bank, queries, k):
    """Similarities and bank rows of the `k` nearest, best first: two arrays `(c, k)`."""
    queries = ops.convert_to_tensor(queries)
    best = rows = None
    for start in range(0, len(bank), _BANK_CHUNK):
        chunk = _unit(bank[start : start + _BANK_CHUNK])
        similarity = ops.matmul(queries, ops.transpose(chunk))  # (c, chunk)
        found, position = ops.top_k(similarity, min(k, len(chunk)))
        position = ops.cast(position, "int32") + start
        if best is None:
            best, rows = found, position
            continue
        # Earlier rows stand first, and top_k prefers the earlier of two equals: chunking changes no tie.
        best = ops.concatenate([best, found], axis=1)
        best, kept = ops.top_k(best, min(k, best.shape[1]))
        rows = ops.take_along_axis(ops.concatenate([rows, position], axis=1), kept, axis=1)
    return ops.convert_to_numpy(best), ops.convert_to_numpy(rows)


def _check(bank, labels, queries, num_classes, k, temperature, chunk_size):
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise ValueError(
            "`bank_features` and `query_features` must be matrices of the same width, (m, F) and (n, F). "
            f"Received: shapes {bank.shape} and {queries.shape}. Take both from the same encoder."
        )
    if not 1 <= k <= len(bank):
        raise ValueError(
            f"`k` must be between 1 and the number of bank features. Received: k={k}, bank of {len(bank)}. "
            "Lower `k` or use a larger bank."
        )
    if not temperature > 0:
        raise ValueError(
            f"`temperature` must be positive. Received: temperature={temperature}. The usual value is 0.1."
        )
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1. Received: chunk_size={chunk_size}. Use e.g. 1024.")
    _check_labels("bank_labels", labels, len(bank), num_classes)


def _check_labels(name, labels, rows, num_classes):
    if labels.shape != (rows,):
        raise ValueError(
            f"`{name}` must hold one label per feature. "
            f"Received: {name} of shape {labels.shape} for {rows} features. "
            "Take labels and features from the same extraction."
        )
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(
            f"`{name}` must lie in [0, num_classes). Received: labels from {labels.min()} to {labels.max()}, "
            f"num_classes={num_classes}. Label -1 marks unlabelled data, which cannot be evaluated."
        )
