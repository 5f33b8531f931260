"""Everything that crosses replicas lives here; on one replica every function works the same, without traffic."""

import tensorflow as tf


def _auto():
    return _mirrored() if len(tf.config.list_logical_devices("GPU")) > 1 else _one()


def _one():
    return tf.distribute.get_strategy()


def _mirrored():
    return tf.distribute.MirroredStrategy()


STRATEGIES = {"auto": _auto, "one": _one, "mirrored": _mirrored}


def make_strategy(name="auto"):
    """The devices to train on.

    Args:
        name: `"one"`: a single device; `"mirrored"`: all GPUs of this machine in step; `"auto"`: `"mirrored"` where
            there are several GPUs, else `"one"`.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in STRATEGIES:
        raise ValueError(f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: {name!r}. Choose one of them.")
    return STRATEGIES[name]()


def describe(strategy):
    """One line on the devices of a strategy, for people."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    replicas = strategy.num_replicas_in_sync
    return f"one {kind}" if replicas == 1 else f"{replicas} {kind}s, {type(strategy).__name__}"


def num_replicas():
    """Replicas that train in step under the current `tf.distribute` strategy; 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def all_gather(tensor):
    """Concatenates each replica's `(n, ...)` tensor in replica order to the global `(R n, ...)`, on every replica.

    Differentiable; float16, float32 and integers only (`tf.distribute` refuses bfloat16).
    """
    if num_replicas() == 1:
        return tensor
    # The identity gives the tensor a device, which one that comes straight from an iterator lacks.
    return tf.distribute.get_replica_context().all_gather(tf.identity(tensor), axis=0)


def local_slice(tensor):
    """The rows of a global `(R n, ...)` tensor that belong to this replica, `(n, ...)`."""
    replicas = num_replicas()
    if replicas == 1:
        return tensor
    local = tensor.shape[0] // replicas
    replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
    return tensor[replica * local : (replica + 1) * local]


def permutation(size, seed, step):
    """A random order of `size` rows that every replica computes alike from `seed` and `step`.

    Args:
        size: int, rows of the global batch.
        seed: int.
        step: scalar integer tensor, the training step, so that a resumed run shuffles as the undisturbed one.

    Returns:
        `(size,)` int32.
    """
    seeds = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    # Sorting random numbers instead of `stateless_shuffle`, which XLA does not have.
    return tf.argsort(tf.random.stateless_uniform([size], seed=seeds))


def shuffle(images, order):
    """This replica's share of the global batch in shuffled order (shuffled BatchNorm, MoCo sec. 3.3).

    Args:
        images: `(n, ...)`, this replica's rows.
        order: `(R n,)` int, from `permutation`.

    Returns:
        `(n, ...)`: rows of the global batch, from any replica.
    """
    return tf.gather(all_gather(images), local_slice(order))


def unshuffle(keys, order):
    """Undoes `shuffle` on what was computed from its rows.

    Args:
        keys: `(n, D)`, this replica's share, in shuffled order.
        order: the order given to `shuffle`.

    Returns:
        `(R n, D)`: all rows of the global batch, in its own order, on every replica.
    """
    return tf.gather(all_gather(keys), tf.argsort(order))
