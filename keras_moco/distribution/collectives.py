"""What replicas exchange in a training step; on one replica every function works the same, without traffic."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_moco.distribution.strategies import num_replicas

# Types that collectives refuse, and a type they accept that holds the same values exactly.
_CARRIERS = {tf.uint8: tf.float16, tf.bool: tf.float16, tf.bfloat16: tf.float32, tf.uint32: tf.int64}


def all_gather(tensor: tf.Tensor) -> tf.Tensor:
    """Concatenates each replica's `(n, ...)` tensor in replica order to the global `(R n, ...)`, on every replica.

    Differentiable: the gradient of a replica's part is the sum over all replicas.
    """
    if num_replicas() == 1:
        return tensor
    tensor = tf.convert_to_tensor(tensor)
    carrier = _CARRIERS.get(tensor.dtype, tensor.dtype)
    # The identity gives the tensor a device, which a tensor straight from an iterator lacks.
    everything = tf.distribute.get_replica_context().all_gather(tf.identity(tf.cast(tensor, carrier)), axis=0)
    n, *shape = tensor.shape
    everything.set_shape([n and n * num_replicas(), *shape])  # which `all_gather` loses
    # The gradient of gathered rows is sparse, which `all_gather` cannot transfer; that of a reshaped tensor is dense.
    return tf.cast(tf.reshape(everything, tf.shape(everything)), tensor.dtype)


def local_slice(tensor: tf.Tensor) -> tf.Tensor:
    """The rows of a global `(R n, ...)` tensor that belong to this replica, `(n, ...)`."""
    replicas = num_replicas()
    if replicas == 1:
        return tensor
    local = tensor.shape[0] // replicas
    replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
    return tensor[replica * local : (replica + 1) * local]


def permutation(size: int, seed: int, step: tf.Tensor) -> tf.Tensor:
    """A random order of `size` rows, identical on every replica, with XLA and without: `(size,)` int32.

    Args:
        size: int, number of rows.
        seed: int, the seed of the order.
        step: scalar integer tensor, the training step, so that a resumed run shuffles as an uninterrupted one.
    """
    # Sorting random numbers instead of `stateless_shuffle`, which XLA does not have; and not those of
    # `tf.random.stateless_uniform`, which differ with XLA.
    return tf.argsort(_random_bits((size,), seed, step))


def random_rows(count: int, size: int, seed: int, step: tf.Tensor) -> tf.Tensor:
    """Row numbers sampled uniformly and with replacement, identical on every replica: `(count,)` int64 in `[0, size)`.

    Args:
        count: int, number of samples.
        size: positive int below 2^31, number of rows.
        seed, step: int, and scalar integer tensor, as for `permutation`.
    """
    # 64 bits, so that no remainder is more likely than another by more than 2^-32.
    high, low = tf.unstack(tf.cast(tf.bitcast(_random_bits((2, count), seed, step), tf.uint32), tf.int64))
    return (high % size * (2**32 % size) + low) % size


def _random_bits(shape, seed, step):
    """Uniformly random bits: int32 tensor."""
    key = tf.bitcast(tf.constant([seed], tf.int64), tf.uint64)
    # Philox counts its numbers in the low word; with the step in the high word, no two steps share any.
    counter = tf.bitcast(tf.stack([tf.zeros((), tf.int64), tf.cast(step, tf.int64)]), tf.uint64)
    philox = 1
    return tf.raw_ops.StatelessRandomUniformFullIntV2(shape=shape, key=key, counter=counter, alg=philox, dtype=tf.int32)


def shuffle(images: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """This replica's share `(n, ...)` of the global batch in an order from `permutation` (MoCo, sec. 3.3)."""
    return tf.gather(all_gather(images), local_slice(order))


def unshuffle(keys: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Undoes `shuffle` for the keys `(n, D)` of its rows: `(R n, D)`, the keys of the global batch on every replica."""
    return tf.gather(all_gather(keys), tf.argsort(order))


def mean(tensor: tf.Tensor) -> tf.Tensor:
    """The mean over replicas of a float tensor, identical to the bit on all of them."""
    if num_replicas() == 1:
        return tensor
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tensor)


def average(variables: Sequence[Any]) -> None:
    """Replaces float variables that differ between replicas by their mean over replicas, in one transfer."""
    if num_replicas() == 1 or not variables:
        return
    flat = tf.concat([tf.reshape(tf.convert_to_tensor(variable), [-1]) for variable in variables], axis=0)
    parts = tf.split(mean(flat), [math.prod(variable.shape) for variable in variables])
    for variable, part in zip(variables, parts, strict=True):
        variable.assign(tf.reshape(part, variable.shape))


def all_finite(tensors: Sequence[tf.Tensor | tf.IndexedSlices | None]) -> tf.Tensor:
    """Whether a list of float tensors, `tf.IndexedSlices` or `None` is finite on all replicas: a bool tensor."""
    values = [tf.convert_to_tensor(getattr(tensor, "values", tensor)) for tensor in tensors if tensor is not None]
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])
    if num_replicas() == 1:
        return finite
    total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(finite, tf.float32))
    return total == num_replicas()


def share_overflow(gradients: list[tf.Tensor | tf.IndexedSlices | None]) -> list[tf.Tensor | tf.IndexedSlices | None]:
    """Makes gradients infinite on every replica if those of any replica are not finite.

    Keras's `LossScaleOptimizer` checks the first replica's gradients only, so an overflow on another one would turn all
    weights into NaN.
    """
    if num_replicas() == 1:
        return gradients
    finite = all_finite(gradients)
    return [g if g is None else tf.where(finite, g, tf.constant(math.inf, g.dtype)) for g in gradients]


def run_if(condition: tf.Tensor, function: Callable[..., Any], *args: Any) -> None:
    """Calls `function(*args)` on every replica if a condition holds, or on none.

    Args:
        condition: scalar bool tensor, identical on each replica.
        function: called for its effect; may itself use collectives.
        *args: tensors in any structure.
    """

    def nothing():
        return tf.constant(False)

    def on_one_replica():
        function(*args)
        return tf.constant(True)

    if num_replicas() == 1:
        tf.cond(condition, on_one_replica, nothing)
        return

    # Collectives leave the context of a replica, which is impossible inside a branch: so the branch is outside.
    def across(strategy, condition, args):
        def on_all_replicas():
            strategy.extended.call_for_each_replica(function, args=args)
            return tf.constant(True)

        tf.cond(strategy.experimental_local_results(condition)[0], on_all_replicas, nothing)

    tf.distribute.get_replica_context().merge_call(across, args=(condition, args))
