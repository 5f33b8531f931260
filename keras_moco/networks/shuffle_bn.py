"""Which examples share BatchNorm statistics (ShuffleBN), to prevent information leakage within the batch.

With one set of statistics for a whole batch, a query and its own key carry the same signature, by which the encoder
finds pairs without looking at the images (MoCo, sec. 3.3, "Shuffling BN"; Fig. A.1 shows what it costs).
"""

import abc
from contextlib import AbstractContextManager
from typing import Any

import keras
from keras import ops

from keras_moco import distribution
from keras_moco.errors import UserError
from keras_moco.layers.nested import nested_layers
from keras_moco.layers.split_batch_normalization import can_split, split_batch

__all__ = ["BN_MODES", "BatchGrouping", "BatchNorm", "Plain", "Shuffle", "Split"]


class BatchGrouping(abc.ABC):
    """How BatchNorm layers group a batch in training, and how keys come into other groups than their queries.

    Attributes:
        splits: int, groups within the batch of a replica.
        synchronized: bool, whether replicas share their statistics.
    """

    splits = 1
    synchronized = False

    @abc.abstractmethod
    def shuffle(self, images: Any, seed: int, step: Any) -> tuple[Any, Any]:
        """Shuffles images into the groups in which they are encoded.

        Args:
            images: `(n, ...)`, this replica's rows of the global batch.
            seed, step: int, and scalar integer tensor, the training step, which give the order.

        Returns:
            `(images, order)`: `(n, ...)` images to encode, and the order for `unshuffle`.
        """

    @abc.abstractmethod
    def unshuffle(self, keys: Any, order: Any) -> Any:
        """Restores the order of encoded keys: `(n, D)` to all rows of the global batch, `(N, D)`, on every replica."""

    @abc.abstractmethod
    def describe(self) -> str:
        """A short description of the groups: str."""

    def check(self, replicas: int) -> None:  # noqa: B027
        """Raises `ValueError` if this grouping cannot work on that number of replicas."""

    def grouping(self) -> AbstractContextManager[None]:
        """A `with` block in which all BatchNorm layers group the batch in this way."""
        return split_batch(self.splits, self.synchronized)

    def check_layers(self, encoder: keras.layers.Layer) -> None:
        """Raises `ValueError` if the batch is to be split and a BatchNorm layer of an encoder cannot do it."""
        for layer in batch_norm_layers(encoder):
            if self.splits > 1 and not can_split(layer):
                raise UserError(
                    "Every BatchNorm layer must be able to split its batch on one replica. Received: "
                    f"{layer.name!r} of class {type(layer).__name__}. Use `keras.layers.BatchNormalization` without "
                    "renorm, or give `bn_mode='plain'`."
                )


BatchNorm = BatchGrouping  # its former name


class Split(BatchGrouping):
    """Groups within each replica's batch, and keys shuffled within it (the authors' CIFAR-10 demo)."""

    def __init__(self, splits: int) -> None:
        if int(splits) != splits or splits < 1:
            raise UserError(
                f"`bn_splits` must be a positive integer. Received: bn_splits={splits}. The CIFAR-10 demo uses 8."
            )
        self.splits = int(splits)

    def shuffle(self, images: Any, seed: int, step: Any) -> tuple[Any, Any]:
        order = distribution.permutation(images.shape[0], seed, step)
        return ops.take(images, order, axis=0), order

    def unshuffle(self, keys: Any, order: Any) -> Any:
        return distribution.all_gather(ops.take(keys, ops.argsort(order), axis=0))

    def describe(self) -> str:
        return f"split, {self.splits} groups in each replica's batch, keys shuffled within it"


class Shuffle(BatchGrouping):
    """Each replica's batch is a group, and keys are shuffled across replicas (MoCo, sec. 3.3)."""

    def shuffle(self, images: Any, seed: int, step: Any) -> tuple[Any, Any]:
        self.check(distribution.num_replicas())
        order = distribution.permutation(images.shape[0] * distribution.num_replicas(), seed, step)
        return distribution.shuffle(images, order), order

    def unshuffle(self, keys: Any, order: Any) -> Any:
        return distribution.unshuffle(keys, order)

    def describe(self) -> str:
        return "shuffle, a group per replica, keys shuffled across replicas"

    def check(self, replicas: int) -> None:
        if replicas == 1:
            raise UserError(
                "`bn_mode='shuffle'` must have two replicas or more: on one, shuffling does not change the group. "
                "Received: 1 replica. Use bn_mode='split', which imitates replicas on one, or several devices."
            )


class Plain(BatchGrouping):
    """Query and key are normalised by the statistics of one group: for comparison, and without BatchNorm."""

    def __init__(self, synchronized: bool = False) -> None:
        self.synchronized = synchronized

    def shuffle(self, images: Any, seed: int, step: Any) -> tuple[Any, Any]:
        return images, None

    def unshuffle(self, keys: Any, order: Any) -> Any:
        return distribution.all_gather(keys)

    def describe(self) -> str:
        group = "sync, one group over all replicas" if self.synchronized else "plain, a group per replica"
        return f"{group}, nothing shuffled"


# Functions of the number of splits, which "split" alone uses.
BN_MODES = {
    "split": Split,
    "shuffle": lambda splits: Shuffle(),
    "sync": lambda splits: Plain(synchronized=True),
    "plain": lambda splits: Plain(),
}


def resolve(mode: str, splits: int, replicas: int, encoder: keras.layers.Layer | None = None) -> BatchGrouping:
    """The `BatchGrouping` of a mode.

    Args:
        mode: `"split"`: groups within each replica's batch; `"shuffle"`: each replica's batch is a group, keys are
            shuffled across replicas; `"sync"`: the global batch is one group; `"plain"`: each replica's batch is a
            group, nothing is shuffled; `"auto"`: `"split"` on one replica (the authors' CIFAR-10 demo), `"shuffle"` on
            several (the paper); but `"plain"` for an encoder without BatchNorm layers, or on one replica with layers
            that cannot split their batch.
        splits: int, number of groups of `"split"` on each replica.
        replicas: int, number of replicas.
        encoder: the `Encoder`, or any layer, that `"auto"` looks at. Defaults to `None`: one that can be split.

    Raises:
        ValueError: for an unknown mode, or if `splits` is not a positive integer.

    Example:

    >>> resolve("auto", splits=8, replicas=1).splits, resolve("auto", splits=8, replicas=2).splits
    (8, 1)
    """
    if mode == "auto":
        mode = "split" if replicas == 1 else "shuffle"
        layers = None if encoder is None else batch_norm_layers(encoder)
        if layers is not None and (not layers or mode == "split" and not all(map(can_split, layers))):
            mode = "plain"
    if mode not in BN_MODES:
        raise UserError(
            f"`bn_mode` must be one of auto, {', '.join(BN_MODES)}. Received: {mode!r}. Choose one of them."
        )
    return BN_MODES[mode](splits)


def batch_norm_layers(model: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """All BatchNorm layers of a model, however deep: a list."""
    return [layer for layer in nested_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]


def synchronize_layers(encoder, synchronized):
    """Sets `synchronized` on the BatchNorm layers of an encoder that do not follow a `split_batch` block."""
    for layer in batch_norm_layers(encoder):
        if not can_split(layer):
            layer.synchronized = synchronized


def moving_statistics(model: keras.layers.Layer) -> list[keras.Variable]:
    """Moving mean and variance of all BatchNorm layers of a model: a list of variables."""
    return [statistic for layer in batch_norm_layers(model) for statistic in (layer.moving_mean, layer.moving_variance)]
