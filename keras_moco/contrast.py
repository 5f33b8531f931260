"""Contrastive logits: pure functions from unit vectors to `(logits, labels)`."""

from keras import ops


def info_nce(queries, keys, negatives, temperature):
    """Logits of InfoNCE: each query against its own key and K shared negatives.

    The loss is the (1 + K)-way softmax cross-entropy of these logits with the label 0, `-log(exp(q.k+ / T) /
    sum_i exp(q.k_i / T))` (MoCo, eq. 1 and Algorithm 1). When all similarities are equal it is exactly `log(1 + K)`.

    Args:
        queries: `(n, D)` unit vectors, float32.
        keys: `(n, D)` unit vectors; row `i` is the positive of query `i`.
        negatives: `(K, D)` unit vectors, the queue as it stood before this batch.
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
