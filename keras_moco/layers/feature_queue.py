"""The dictionary of MoCo: a ring of the newest keys."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_moco.errors import UserError


@keras.saving.register_keras_serializable(package="keras_moco")
class FeatureQueue(keras.layers.Layer):
    """A ring of `size` unit vectors in which new keys replace the oldest.

    It starts full of random unit vectors, as in the official code (`moco/builder.py`), so in the first steps negatives
    are noise: accuracy is high at once, then falls while real keys arrive, and the loss rises before it falls.
    Keys are written at `(pointer + arange(n)) mod size`, so `n` need not divide `size`.

    Args:
        size: positive int, `K` in the paper.
        dim: positive int, length of a key, `D`.
        seed: int, the seed of the initial vectors. Defaults to `0`.
        **kwargs: keyword arguments of `keras.layers.Layer`. `dtype` defaults to float32 whatever the dtype policy.

    Attributes:
        features: `(size, dim)` weight, the keys in storage order.

    Example:

    >>> queue = FeatureQueue(size=3, dim=2)
    >>> queue.enqueue(ops.convert_to_tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> int(queue.pointer), round(float(queue.fill), 2)
    (2, 0.67)
    """

    def __init__(self, size: int, dim: int, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        for name, value in (("size", size), ("dim", dim)):
            if int(value) != value or value < 1:
                raise UserError(f"`{name}` must be a positive integer. Received: {name}={value}. Give 1 or more.")
        self.size = int(size)
        self.dim = int(dim)
        self.seed = seed
        # Every replica writes the same gathered keys into its own copy: `aggregation="none"` keeps that a local write,
        # where any other value would add traffic or, for "sum", multiply the keys.
        state = {"trainable": False, "autocast": False, "aggregation": "none"}
        self.features = self.add_weight((self.size, self.dim), self._random_unit_vectors, name="features", **state)
        # The number of keys ever written, from which both pointer and fill follow.
        self.count = self.add_weight((), "zeros", dtype="int64", name="count", **state)
        self.built = True

    def _random_unit_vectors(self, shape, dtype=None):
        return ops.normalize(keras.random.normal(shape, dtype=dtype, seed=self.seed), axis=-1)

    @property
    def pointer(self) -> tf.Tensor:
        """The row that the next key is written to: scalar int64 in `[0, size)`."""
        return self.count % self.size

    @property
    def fill(self) -> tf.Tensor:
        """The share of real keys: scalar float32 in `[0, 1]`."""
        return ops.minimum(ops.cast(self.count, "float32") / self.size, 1.0)

    def enqueue(self, keys: tf.Tensor) -> None:
        """Replaces the oldest keys.

        Args:
            keys: `(n, dim)` unit vectors with `n <= size`, `n` known when the graph is built.

        Raises:
            ValueError: if there are more keys than rows.
        """
        n = keys.shape[0]
        check_room(self.size, n)
        rows = (self.pointer + ops.arange(n, dtype="int64")) % self.size
        # In place, however long the queue is; TensorFlow copies such a variable when it is read (docs/performance.md).
        self.features.value.scatter_update(tf.IndexedSlices(ops.cast(keys, self.features.dtype), rows))
        self.count.assign(self.count + n)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "dim": self.dim, "seed": self.seed}


def check_room(size, keys):
    """Raises `ValueError` if a queue of that size cannot take the number of keys that one step enqueues."""
    if keys > size:
        raise UserError(
            "`queue_size` must be at least the number of keys that one step enqueues, or keys are overwritten "
            f"before they are used. Received: queue_size={size}, keys per step={keys}. "
            "Raise `queue_size` or lower the batch size."
        )
