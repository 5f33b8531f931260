"""The memory bank: one vector for every image of the data set."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_moco import distribution
from keras_moco.checks.graph import require
from keras_moco.checks.ranges import check_number
from keras_moco.errors import UserError


@keras.saving.register_keras_serializable(package="keras_moco")
class FeatureBank(keras.layers.Layer):
    """A unit vector per training image, looked up by the image's index: the moving average of its embeddings.

    An image's vector moves only when the image is seen, once per epoch, so its age is up to an epoch
    (Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination"; MoCo, Fig. 2b). It
    starts as random unit vectors. Every replica holds all of it and writes the same rows.

    Args:
        size: positive int, the number of images; indices are below it.
        dim: positive int, length of a vector, `D`.
        momentum: float in `[0, 1]`, the share of the old vector in the new one. Defaults to `0.5` (the code of
            Wu et al., `lemniscate.pytorch`, `NCEAverage.py`; the MoCo paper does not say which value it used).
        seed: int, the seed of the initial vectors and of the samples. Defaults to `0`.
        **kwargs: keyword arguments of `keras.layers.Layer`. `dtype` defaults to float32 whatever the dtype policy.

    Attributes:
        features: `(size, dim)` float32 weight; row `i` belongs to the image of index `i`.

    Raises:
        ValueError: for a size, length or momentum out of its range; while training, if an index is not below `size`
            (not checked on TPU).

    Example:

    >>> bank = FeatureBank(size=3, dim=2, momentum=0.0)
    >>> bank.update([2], ops.convert_to_tensor([[0.6, 0.8]]))
    >>> [round(float(x), 1) for x in bank.look_up([2])[0]]
    [0.6, 0.8]
    """

    def __init__(self, size: int, dim: int, momentum: float = 0.5, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        for name, value in (("size", size), ("dim", dim)):
            if int(value) != value or value < 1:
                raise UserError(f"`{name}` must be a positive integer. Received: {name}={value}. Give 1 or more.")
        check_number("momentum", momentum, "in [0, 1]", "Wu et al. use 0.5.")
        self.size = int(size)
        self.dim = int(dim)
        self.momentum = momentum
        self.seed = seed
        self.features = self.add_weight(
            (self.size, self.dim),
            lambda shape, dtype=None: ops.normalize(keras.random.normal(shape, dtype=dtype, seed=seed), axis=-1),
            name="features",
            trainable=False,
            autocast=False,
            aggregation="none",  # every replica writes the same rows into its own copy
        )
        # XLA would omit the check of indices; with this, Keras does not choose XLA, as it otherwise does on a GPU.
        self.supports_jit = False
        self.built = True

    def look_up(self, indices: tf.Tensor) -> tf.Tensor:
        """Rows of images: `(n,)` indices to `(n, dim)` unit vectors."""
        return tf.gather(self.features.value, self._checked(indices))

    def draw(self, count: int, absent: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Rows of random images outside of `absent`, with replacement, identical on every replica: `(count, dim)`.

        Args:
            count: positive int, number of samples.
            absent: `(N,)` int, indices of the images to exclude, fewer than `size`.
            step: scalar integer tensor, the training step, on which the sample depends.
        """
        return tf.gather(self.features.value, self.draw_indices(count, absent, step))

    def draw_indices(self, count: int, absent: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """The indices of `draw`: `(count,)` int64."""
        absent = ops.sort(ops.cast(absent, "int64"))
        places = ops.arange(absent.shape[0], dtype="int64")
        # Only the first of equal indices counts; the others move past the end, where they have no effect.
        repeated = ops.concatenate([ops.zeros((1,), "bool"), absent[1:] == absent[:-1]])
        absent = ops.sort(ops.where(repeated, self.size + places, absent))
        # The r-th of the other images is r plus the number of absent ones up to there: those whose own place among
        # the others, `absent[j] - j`, is not beyond r.
        others = distribution.random_rows(count, self.size - absent.shape[0], self.seed, step)
        before = ops.searchsorted(absent - places, others, side="right")
        return others + ops.cast(before, "int64")

    def update(self, indices: tf.Tensor, features: tf.Tensor) -> None:
        """Moves rows towards new embeddings of their images: `unit(momentum * old + (1 - momentum) * new)`.

        Args:
            indices: `(N,)` int, the global batch; for an index that occurs twice either vector may count.
            features: `(N, dim)` unit vectors.
        """
        indices = self._checked(indices)
        old = tf.gather(self.features.value, indices)
        new = ops.normalize(self.momentum * old + (1 - self.momentum) * ops.cast(features, "float32"), axis=-1)
        # In place: a bank of ImageNet has 656 MB, and a step touches a few hundred rows of it.
        self.features.value.scatter_update(tf.IndexedSlices(new, indices))

    def _checked(self, indices):
        indices = ops.cast(indices, "int64")
        wrong = (indices < 0) | (indices >= self.size)
        check = require(
            ~ops.any(wrong),
            f"`index` of an image must be at least 0 and less than the size of the bank, {self.size}.",
            indices[ops.argmax(ops.cast(wrong, "int32"))],
            "Make `bank_size` the number of training images, and count them from 0.",
        )
        with tf.control_dependencies([check]):
            return tf.identity(indices)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "size": self.size,
            "dim": self.dim,
            "momentum": self.momentum,
            "seed": self.seed,
        }
