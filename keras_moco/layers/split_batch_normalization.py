"""BatchNorm over parts of the batch, which imitates several devices on one."""

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_moco.errors import UserError
from keras_moco.layers.nested import nested_layers

_block = threading.local()  # every replica traces its step in a thread of its own


@contextlib.contextmanager
def split_batch(splits: int, synchronized: bool = False) -> Iterator[None]:
    """In this block, BatchNorm layers in training mode normalise each of `splits` groups of their batch separately.

    It applies to `SplitBatchNormalization` and to Keras's own layers in a model that `splittable` prepared. Outside of
    the block every layer works as usual, so a backbone that a method has trained can be used like any other.

    Args:
        splits: positive int that divides the batch of a replica.
        synchronized: bool, whether the batch of all replicas is one group instead. Defaults to `False`.

    Example:

    >>> from keras_moco.layers import SplitBatchNormalization
    >>> layer, images = SplitBatchNormalization(), ops.convert_to_tensor([[0.0], [2.0], [10.0], [14.0]])
    >>> with split_batch(2):  # the first and third, the second and fourth
    ...     layer(images, training=True).numpy().round(1).ravel().tolist()
    [-1.0, -1.0, 1.0, 1.0]
    """
    before = _here()
    _block.grouping = (splits, synchronized)
    try:
        yield
    finally:
        _block.grouping = before


def _here():
    """Groups and synchronization of the innermost `split_batch` block, or `None`."""
    return getattr(_block, "grouping", None)


@keras.saving.register_keras_serializable(package="keras_moco")
class SplitBatchNormalization(keras.layers.BatchNormalization):
    """BatchNorm whose statistics come from `splits` interleaved groups of the batch, as on as many devices.

    With one set of statistics for the whole batch, query and key share a signature of their batch that reveals the
    pair (MoCo, sec. 3.3, shuffling BN). On one device the authors' CIFAR-10 demo splits the batch instead: example `i`
    is normalised with the examples `j = i mod splits`, and keys are shuffled first.

    In training mode each group is normalised by its own mean and variance; scale and offset are shared; the moving
    statistics follow the mean of the groups' (the demo averages the groups' moving statistics, which is equivalent).
    The moving variance follows the unbiased estimate, as in PyTorch, where Keras's own layer follows the biased one. In
    inference mode, and with `synchronized=True`, it is `keras.layers.BatchNormalization`, with the same weights.

    Args:
        splits: positive int that divides the batch of a replica. Defaults to `1`, one group.
        momentum: float, that of the moving statistics in Keras's sense. Defaults to `0.9` (PyTorch's `momentum=0.1`).
        epsilon: float, added to the variance. Defaults to `1e-5` (PyTorch's).
        **kwargs: keyword arguments of `keras.layers.BatchNormalization`, except for `axis` (the last one).

    Attributes:
        splits, synchronized: the arguments. Those of a `split_batch` block, as in the steps of a method, override them.

    Call arguments:
        inputs: `(n, ..., C)`, `n` divisible by `splits` in training mode.
        training: bool.

    Raises:
        ValueError: if `splits` is not a positive integer or does not divide the batch, or is above 1 with
            `synchronized=True`.
    """

    def __init__(self, splits: int = 1, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs: Any) -> None:
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
                f"Received: splits={splits}, synchronized=True. Use one or the other."
            )
        self.splits = int(splits)

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        splits, synchronized = _here() or (self.splits, self.synchronized)
        # A frozen BatchNorm layer is in inference mode, as Keras's own.
        if not (training and self.trainable) or synchronized:
            return super().call(inputs, training=training)
        return _normalize_groups(self, inputs, splits)

    def _moments(self, inputs, mask):
        return _moments(self, inputs, mask)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "splits": self.splits}


def splittable(model: keras.layers.Layer) -> keras.layers.Layer:
    """Lets Keras's own BatchNorm layers of a model split their batch in `split_batch` blocks, and only there.

    Returns the same `keras.Layer` or `keras.Model`. Class and weights of its layers do not change: it trains, saves and
    loads as before.

    Example:

    >>> model = splittable(keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()]))
    >>> with split_batch(2):
    ...     groups = model(ops.convert_to_tensor([[0.0], [2.0], [10.0], [14.0]]), training=True)
    >>> groups.numpy().round(1).ravel().tolist()
    [-1.0, -1.0, 1.0, 1.0]
    """
    for layer in nested_layers(model):
        if type(layer) is keras.layers.BatchNormalization and not getattr(layer, "renorm", False):
            _let_split(layer)
    return model


def can_split(layer):
    """Whether `split_batch` blocks apply to a BatchNorm layer."""
    return isinstance(layer, SplitBatchNormalization) or "call" in vars(layer)  # by `_let_split`


def _let_split(layer):
    def call(inputs, training=None, mask=None):
        splits, synchronized = _here() or (None, None)
        if splits is None or synchronized or mask is not None or not (training and layer.trainable):
            return type(layer).call(layer, inputs, training=training, mask=mask)
        return ops.cast(_normalize_groups(layer, inputs, splits), layer.compute_dtype)

    layer.call = call
    layer._moments = lambda inputs, mask: _moments(layer, inputs, mask)


def _moments(layer, inputs, mask):
    """Mean and variance of a batch as Keras computes them, over all replicas where the block synchronizes them."""
    _, synchronized = _here() or (None, layer.synchronized)
    if mask is None:
        return ops.moments(inputs, axes=layer._reduction_axes, synchronized=synchronized)
    return keras.layers.BatchNormalization._moments(layer, inputs, mask)


def _normalize_groups(layer, inputs, splits):
    """`layer` applied to `inputs` `(n, ..., C)`, example `i` normalised with the examples `j = i mod splits`."""
    n = inputs.shape[0]
    if n is not None and n % splits:
        raise UserError(
            "`splits` must divide the batch of each replica. "
            f"Received: splits={splits}, batch={n}. Change `bn_splits` or the batch size."
        )
    values = math.prod(length or 2 for axis, length in enumerate(inputs.shape) if axis != layer.axis % inputs.ndim)
    if n is not None and values == splits:
        raise UserError(
            "Every group of BatchNorm must hold two values per channel or more, or all are normalised to 0. "
            f"Received: splits={splits}, batch={n} in {layer.name!r}. Lower `bn_splits` or raise the batch size."
        )
    inputs = ops.moveaxis(inputs, layer.axis, -1) if layer.axis not in (-1, inputs.ndim - 1) else inputs
    scale, offset = _affine(layer)
    old = ops.convert_to_tensor(layer.moving_mean), ops.convert_to_tensor(layer.moving_variance)
    groups = [_normalize(layer, group, scale, offset, *old) for group in _groups(inputs, splits)]
    outputs, means, variances = zip(*groups, strict=True)
    layer.moving_mean.assign(tf.add_n(means) / splits)
    layer.moving_variance.assign(tf.add_n(variances) / splits)
    outputs = ops.reshape(ops.stack(outputs, axis=1), ops.shape(inputs))
    return ops.moveaxis(outputs, -1, layer.axis) if layer.axis not in (-1, inputs.ndim - 1) else outputs


def _groups(inputs, splits):
    """The groups, `S` tensors `(n / S, positions, 1, C)`: example `i` is row `i // S` of group `i % S`."""
    shape = ops.shape(inputs)
    positions = 1
    for length in shape[1:-1]:
        positions = positions * length
    return ops.unstack(ops.reshape(inputs, (-1, splits, positions, 1, shape[-1])), axis=1)


def _affine(layer):
    """Scale and offset of all groups, `(C,)` each."""
    channels, dtype = layer.moving_mean.shape, layer.moving_mean.dtype
    scale = ops.cast(layer.gamma, dtype) if layer.scale else ops.ones(channels, dtype)
    offset = ops.cast(layer.beta, dtype) if layer.center else ops.zeros(channels, dtype)
    return scale, offset


def _normalize(layer, group, scale, offset, mean, variance):
    """One group by its own statistics: outputs, and the moving mean and (unbiased) variance that follow them."""
    if group.dtype == tf.float64:
        return _normalize_float64(layer, group, scale, offset, mean, variance)
    # The fused kernel: on large feature maps 1.7 times as fast as Keras's composed operations on the whole batch,
    # and 3.4 times as fast as those with broadcast groups (benchmarks/split_batch_normalization.py, on a CPU).
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=group,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=layer.epsilon,
        exponential_avg_factor=1.0 - layer.momentum,
        is_training=True,
    )
    return outputs, mean, variance


def _normalize_float64(layer, group, scale, offset, mean, variance):
    """The same, composed: the fused kernel has no float64."""
    new_mean, new_variance = ops.moments(group, axes=(0, 1, 2))
    outputs = ops.batch_normalization(group, new_mean, new_variance, -1, offset, scale, layer.epsilon)
    n = ops.cast(ops.size(group) // group.shape[-1], group.dtype)
    mean = mean * layer.momentum + new_mean * (1.0 - layer.momentum)
    variance = variance * layer.momentum + new_variance * n / (n - 1) * (1.0 - layer.momentum)
    return outputs, mean, variance
