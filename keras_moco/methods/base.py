"""What a method adds to a run."""

import abc
import math

from keras_moco.errors import UserError
from keras_moco.networks import shuffle_bn


class Method(abc.ABC):
    """What a method adds to a run; `plan` is a `keras_moco.runs.plan.Plan` throughout.

    Attributes:
        settings: names of the fields of `Config` that it uses and not all methods do, besides those whose declaration
            names it (`used_by`): for methods outside of this package.
    """

    settings: tuple[str, ...] = ()

    def batch_norm(self, config, replicas):
        """The `BatchNorm` of the encoder."""
        return shuffle_bn.resolve(config.bn_mode, config.bn_splits, replicas)

    def settled(self, config, train_examples):
        """Settings that follow from so many training images where `config` does not give them: a dict."""
        return {}

    def check(self, plan):  # noqa: B027
        """Raises `ValueError` if the numbers of a plan do not fit each other."""

    @abc.abstractmethod
    def chance_loss(self, plan):
        """float: the loss when all similarities are equal."""

    @abc.abstractmethod
    def describe(self, plan):
        """The dictionary and what else there is to know, in lines of text for people: a list."""

    @abc.abstractmethod
    def build(self, plan, encoder):
        """The model."""


class InBatch(Method):
    """What is common to methods whose negatives are the other images of the batch."""

    def check(self, plan):
        if plan.config.batch_size < 2:
            raise UserError(
                "`batch_size` must be at least 2, since the other images of a batch are the negatives. "
                f"Received: batch_size={plan.config.batch_size}. Raise --batch_size."
            )

    def chance_loss(self, plan):
        return math.log(1 + self.num_negatives(plan.config))

    def describe(self, plan):
        return [
            f"negatives: {self.num_negatives(plan.config):,}, of the other images in the batch, with gradient",
            f"loss: chance is {plan.chance_loss:.2f}",
        ]

    @abc.abstractmethod
    def num_negatives(self, config):
        """int."""


def size(vectors, config):
    """How large so many embeddings are, in words."""
    mebibytes = vectors * config.embedding_dim * 4 / 2**20  # float32
    return f"{config.embedding_dim}, {mebibytes:.2f} MiB"
