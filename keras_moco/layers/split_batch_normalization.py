"""BatchNorm over parts of the batch: several devices imitated on one."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_moco")
class SplitBatchNormalization(keras.layers.BatchNormalization):
    """BatchNorm whose statistics come from `splits` interleaved groups of the batch, as on as many devices.

    With one set of statistics for the whole batch, query and key encoder share a signature of their batch by which
    a pair gives itself away (MoCo, sec. 3.3, shuffling BN). On one device the authors' CIFAR-10 demo splits the
    batch instead: example `i` is normalised with the examples `j = i mod splits`, and keys are shuffled first.

    In training mode each group is normalised by its own mean and variance; scale and offset are shared; the moving
    statistics follow the average of the groups' (the demo averages the groups' moving statistics, which is the
    same). In inference mode, and with `splits=1`, it is `keras.layers.BatchNormalization`.

    Args:
        splits: positive int that divides the batch of a replica.
        momentum: float, of the moving statistics in Keras's sense. Defaults to `0.9` (PyTorch's `momentum=0.1`).
        epsilon: float. Defaults to `1e-5` (PyTorch's).
        **kwargs: of `keras.layers.BatchNormalization`; `axis` must be the last one, masks are not supported.

    Call arguments:
        inputs: `(n, ..., C)`, `n` divisible by `splits` in training mode.
        training: bool.

    Raises:
        ValueError: if `splits` is not a positive integer, or does not divide the batch.
    """

    def __init__(self, splits=1, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        if int(splits) != splits or splits < 1:
            raise ValueError(f"`splits` must be a positive integer. Received: splits={splits}. Use 1 for no split.")
        self.splits = int(splits)

    def call(self, inputs, training=None, mask=None):
        # A frozen BatchNorm is in inference mode, as Keras's own.
        if self.splits == 1 or not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        n = inputs.shape[0]
        if n is not None and n % self.splits:
            raise ValueError(
                "`splits` must divide the batch of each replica. "
                f"Received: splits={self.splits}, batch={n}. Change `bn_splits` or the batch size."
            )
        shape = ops.shape(inputs)
        return ops.reshape(self._normalize_groups(ops.reshape(inputs, (-1, self.splits, *shape[1:]))), shape)

    def _normalize_groups(self, groups):
        """`(n / S, S, ..., C)`: axis 1 is the group, since example `i` lies at `[i // S, i % S]`."""
        axes = [0, *range(2, len(groups.shape) - 1)]
        # Squares of half-precision activations overflow or vanish: statistics are taken in float32.
        wide = ops.cast(groups, "float32")
        mean, variance = ops.moments(wide, axes=axes, keepdims=True)  # (1, S, ..., C)
        scale = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            scale = scale * ops.cast(self.gamma, "float32")
        offset = -mean * scale
        if self.center:
            offset = offset + ops.cast(self.beta, "float32")
        self._follow(self.moving_mean, mean)
        self._follow(self.moving_variance, variance)
        return ops.cast(wide * scale + offset, self.compute_dtype)

    def _follow(self, moving, groups):
        average = ops.mean(ops.reshape(groups, (self.splits, -1)), axis=0)
        moving.assign(moving * self.momentum + ops.cast(average, moving.dtype) * (1.0 - self.momentum))

    def get_config(self):
        return {**super().get_config(), "splits": self.splits}
