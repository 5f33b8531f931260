"""What a method adds to a run."""

import abc

from keras_moco import batch_norm


class Method(abc.ABC):
    """What a method adds to a run; `plan` is a `keras_moco.plan.Plan` throughout.

    Attributes:
        settings: names of the fields of `Config` that mean something to this method and not to all.
    """

    settings: tuple[str, ...] = ()

    def batch_norm(self, config, replicas):
        """The `BatchNorm` of the encoder."""
        return batch_norm.resolve(config.bn_mode, config.bn_splits, replicas)

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


def size(vectors, config):
    """How large so many embeddings are, in words."""
    mebibytes = vectors * config.embedding_dim * 4 / 2**20  # float32
    return f"{config.embedding_dim}, {mebibytes:.2f} MiB"
