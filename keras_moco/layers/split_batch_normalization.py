"""BatchNorm over parts of the batch: several devices imitated on one."""

import keras
import tensorflow as tf
from keras import ops

from keras_moco.errors import UserError


@keras.saving.register_keras_serializable(package="keras_moco")
class SplitBatchNormalization(keras.layers.BatchNormalization):
    """BatchNorm whose statistics come from `splits` interleaved groups of the batch, as on as many devices.

    With one set of statistics for the whole batch, query and key encoder share a signature of their batch by which
    a pair gives itself away (MoCo, sec. 3.3, shuffling BN). On one device the authors' CIFAR-10 demo splits the
    batch instead: example `i` is normalised with the examples `j = i mod splits`, and keys are shuffled first.

    In training mode each group is normalised by its own mean and variance; scale and offset are shared; the moving
    statistics follow the average of the groups' (the demo averages the groups' moving statistics, which is the
    same). The moving variance follows the unbiased estimate, as in PyTorch, where Keras's own layer follows the
    biased one. In inference mode, and with `synchronized=True`, it is `keras.layers.BatchNormalization`; it exchanges
    weights with it always.

    Args:
        splits: positive int that divides the batch of a replica. Defaults to `1`, one group.
        momentum: float, of the moving statistics in Keras's sense. Defaults to `0.9` (PyTorch's `momentum=0.1`).
        epsilon: float. Defaults to `1e-5` (PyTorch's).
        **kwargs: of `keras.layers.BatchNormalization`, except for `axis` (the last one).

    Attributes:
        splits, synchronized: as given; a method may set them on the layers of its encoder (`keras_moco.batch_norm`).

    Call arguments:
        inputs: `(n, ..., C)`, `n` divisible by `splits` in training mode.
        training: bool.

    Raises:
        ValueError: if `splits` is not a positive integer, does not divide the batch, or meets `synchronized=True`.
    """

    def __init__(self, splits=1, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        if int(splits) != splits or splits < 1:
            raise UserError(f"`splits` must be a positive integer. Received: splits={splits}. Use 1 for no split.")
        if self.axis != -1:
            raise UserError(
                f"`axis` must be -1 in split BatchNorm. Received: axis={self.axis}. "
                "Use keras.layers.BatchNormalization."
            )
        if self.synchronized and splits > 1:
            raise UserError(
                "`splits` must be 1 where all replicas share their statistics. "
                f"Received: splits={splits}, synchronized=True. Choose one of both."
            )
        self.splits = int(splits)

    def call(self, inputs, training=None, mask=None):
        # A frozen BatchNorm is in inference mode, as Keras's own.
        if not (training and self.trainable) or self.synchronized:
            return super().call(inputs, training=training)
        n = inputs.shape[0]
        if n is not None and n % self.splits:
            raise UserError(
                "`splits` must divide the batch of each replica. "
                f"Received: splits={self.splits}, batch={n}. Change `bn_splits` or the batch size."
            )
        scale, offset = self._affine()
        old = ops.convert_to_tensor(self.moving_mean), ops.convert_to_tensor(self.moving_variance)
        groups = [self._normalize(group, scale, offset, *old) for group in self._groups(inputs)]
        outputs, means, variances = zip(*groups, strict=True)
        self.moving_mean.assign(tf.add_n(means) / self.splits)
        self.moving_variance.assign(tf.add_n(variances) / self.splits)
        return ops.reshape(ops.stack(outputs, axis=1), ops.shape(inputs))

    def _groups(self, inputs):
        """Example `i` lies at `[i // S, i % S]`: `S` tensors `(n / S, positions, 1, C)`."""
        shape = ops.shape(inputs)
        positions = 1
        for length in shape[1:-1]:
            positions = positions * length
        return ops.unstack(ops.reshape(inputs, (-1, self.splits, positions, 1, shape[-1])), axis=1)

    def _affine(self):
        """Scale and offset of all groups, `(C,)` each."""
        channels, dtype = self.moving_mean.shape, self.moving_mean.dtype
        scale = ops.cast(self.gamma, dtype) if self.scale else ops.ones(channels, dtype)
        offset = ops.cast(self.beta, dtype) if self.center else ops.zeros(channels, dtype)
        return scale, offset

    def _normalize(self, group, scale, offset, mean, variance):
        """One group by its own statistics: outputs, and the moving mean and (unbiased) variance that follow them."""
        if group.dtype == tf.float64:
            return self._normalize_float64(group, scale, offset, mean, variance)
        # The fused kernel: on large feature maps 1.7 times as fast as Keras's composed operations on the whole batch,
        # and 3.4 times as fast as those with broadcast groups (benchmarks/split_batch_normalization.py, on a CPU).
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=group,
            scale=scale,
            offset=offset,
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            exponential_avg_factor=1.0 - self.momentum,
            is_training=True,
        )
        return outputs, mean, variance

    def _normalize_float64(self, group, scale, offset, mean, variance):
        """The same, composed: the fused kernel has no float64."""
        new_mean, new_variance = ops.moments(group, axes=(0, 1, 2))
        outputs = ops.batch_normalization(group, new_mean, new_variance, -1, offset, scale, self.epsilon)
        n = ops.cast(ops.size(group) // group.shape[-1], group.dtype)
        mean = mean * self.momentum + new_mean * (1.0 - self.momentum)
        variance = variance * self.momentum + new_variance * n / (n - 1) * (1.0 - self.momentum)
        return outputs, mean, variance

    def get_config(self):
        return {**super().get_config(), "splits": self.splits}
