"""Contrastive logits: pure functions from unit vectors to `(logits, labels)`."""

from typing import Any, NamedTuple

import keras
from keras import ops

__all__ = ["in_batch", "info_nce", "nt_xent"]


def info_nce(queries: Any, keys: Any, negatives: Any, temperature: float) -> tuple[Any, Any]:
    """Logits of InfoNCE: each query against its own key and K shared negatives.

    The loss is the (1 + K)-way softmax cross-entropy of these logits with the label 0, `-log(exp(q.k+ / T) /
    sum_i exp(q.k_i / T))` (MoCo, eq. 1 and Algorithm 1). When all similarities are equal it is exactly `log(1 + K)`.

    Args:
        queries: `(n, D)` unit vectors, float32.
        keys: `(n, D)` unit vectors; row `i` is the positive of query `i`.
        negatives: `(K, D)` unit vectors, the queue before this batch.
        temperature: positive float, `T` in the paper. It divides the positive too.

    Returns:
        `(logits, labels)`: `(n, 1 + K)` float32 with the positive in column 0, and `(n,)` int32 zeros.

    Example:

    >>> import keras, numpy as np
    >>> same = np.ones((2, 4), "float32") / 2
    >>> logits, labels = info_nce(same, same, same, temperature=0.07)
    >>> loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    >>> bool(np.allclose(loss, np.log(1 + 2)))
    True
    """
    positive = ops.sum(queries * keys, axis=-1, keepdims=True)  # (n, 1)
    negative = ops.matmul(queries, ops.transpose(negatives))  # (n, K)
    logits = ops.concatenate([positive, negative], axis=-1) / temperature
    labels = ops.zeros((ops.shape(queries)[0],), dtype="int32")
    return logits, labels


def in_batch(queries: Any, keys: Any, own: Any, temperature: float) -> tuple[Any, Any]:
    """Logits of InfoNCE within a batch: each query against its own key and the N - 1 keys of other images.

    The end-to-end mechanism of MoCo's Fig. 2a, where gradient flows into the keys. When all similarities are equal, the
    loss is exactly `log(N)`.

    Args:
        queries: `(n, D)` unit vectors, float32.
        keys: `(N, D)` unit vectors of the global batch.
        own: `(n,)` int, the row of each query's own key.
        temperature: positive float.

    Returns:
        `(logits, labels)`: `(n, N)` float32, and `(n,)`, which is `own`.

    Example:

    >>> vectors = np.eye(3, dtype="float32")
    >>> logits, labels = in_batch(vectors, vectors, np.arange(3), temperature=0.5)
    >>> np.array(logits)[0].tolist(), labels.tolist()
    ([2.0, 0.0, 0.0], [0, 1, 2])
    """
    return ops.matmul(queries, ops.transpose(keys)) / temperature, own


def nt_xent(queries: Any, keys: Any, siblings: Any, own: Any, temperature: float) -> tuple[Any, Any]:
    """Logits of NT-Xent: each query against its own key and the 2 N - 2 views of the other images (SimCLR, eq. 1).

    When all similarities are equal, the loss is exactly `log(2 N - 1)`.

    Args:
        queries: `(n, D)` unit vectors, float32: views of one kind.
        keys: `(N, D)` unit vectors, the views of the other kind in the global batch.
        siblings: `(N, D)` unit vectors, the views of the queries' own kind, themselves included.
        own: `(n,)` int, the row of each query in `siblings`, and of its key in `keys`.
        temperature: positive float, tau in the paper.

    Returns:
        `(logits, labels)`: `(n, 2 N - 1)` float32, first the keys, then the siblings without the query itself; and
        `(n,)`, which is `own`.

    Example:

    >>> vectors = np.eye(3, dtype="float32")
    >>> logits, labels = nt_xent(vectors, vectors, vectors, np.arange(3), temperature=0.5)
    >>> np.array(logits)[1].tolist(), labels.tolist()
    ([0.0, 2.0, 0.0, 0.0, 0.0], [0, 1, 2])
    """
    others = ops.arange(siblings.shape[0] - 1)[None]  # (1, N - 1)
    others = others + ops.cast(others >= ops.cast(own, others.dtype)[:, None], others.dtype)  # (n, N - 1), without own
    among_siblings = ops.take_along_axis(ops.matmul(queries, ops.transpose(siblings)), others, axis=-1)
    logits = ops.concatenate([ops.matmul(queries, ops.transpose(keys)), among_siblings], axis=-1)
    return logits / temperature, own


class Contrast(NamedTuple):
    """One look-up of queries in a dictionary.

    Attributes:
        name: str, the name in the logs.
        queries: `(n, D)` unit vectors.
        logits: `(n, candidates)`, similarities divided by the temperature.
        labels: `(n,)` int, the column of each query's positive.
    """

    name: str
    queries: Any
    logits: Any
    labels: Any

    @property
    def loss(self) -> Any:
        """Mean cross-entropy of the queries: scalar."""
        return ops.mean(keras.losses.sparse_categorical_crossentropy(self.labels, self.logits, from_logits=True))
