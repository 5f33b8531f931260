"""What a method adds to a run."""

import abc
import math
from typing import Any

from keras_moco.config import Config
from keras_moco.errors import UserError
from keras_moco.methods.contrastive_model import ContrastiveModel
from keras_moco.networks import shuffle_bn
from keras_moco.networks.encoder import Encoder


class Method(abc.ABC):
    """What a method adds to a run; `plan` is a `keras_moco.runs.plan.Plan` throughout.

    Attributes:
        model: class of the model.
        arguments: dict, the arguments of the model's constructor and the fields of `Config` that give their values.
        settings: names of the fields of `Config` that it uses and not all methods do, besides those whose declaration
            names it (`used_by`): for methods outside of this package.
    """

    model: type
    arguments: dict[str, str] = {"temperature": "temperature"}
    settings: tuple[str, ...] = ()

    def batch_norm(self, config: Config, replicas: int) -> shuffle_bn.BatchGrouping:
        """The `BatchGrouping` of the encoder's BatchNorm layers."""
        return shuffle_bn.resolve(config.bn_mode, config.bn_splits, replicas)

    def settled(self, config: Config, train_examples: int) -> dict[str, Any]:
        """Settings that follow from the number of training images where `config` does not give them: a dict."""
        return {}

    def check(self, plan: Any) -> None:  # noqa: B027
        """Raises `ValueError` if the numbers of a plan do not fit each other."""

    @abc.abstractmethod
    def chance_loss(self, plan: Any) -> float:
        """The loss when all similarities are equal: float."""

    @abc.abstractmethod
    def describe(self, plan: Any) -> list[str]:
        """The dictionary and whatever else is worth knowing, as lines of text for people: a list."""

    def build(self, plan: Any, encoder: Encoder, **more: Any) -> ContrastiveModel:
        """The model; `more` are further arguments of its constructor."""
        given = {argument: getattr(plan.config, name) for argument, name in self.arguments.items()}
        return self.model(encoder, **given, **more)


class InBatch(Method):
    """A method whose negatives are the other images of the batch."""

    def check(self, plan: Any) -> None:
        check_others(plan.config.batch_size)

    def chance_loss(self, plan: Any) -> float:
        return math.log(1 + self.num_negatives(plan.config))

    def describe(self, plan: Any) -> list[str]:
        return [
            f"negatives: {self.num_negatives(plan.config):,}, of the other images in the batch",
            f"loss: {plan.chance_loss:.2f} at chance level",
        ]

    @abc.abstractmethod
    def num_negatives(self, config: Config) -> int:
        """The number of negatives of a query: int."""


def check_others(images):
    """Raises `ValueError` if a global batch of that number of images holds no negatives."""
    if images < 2:
        raise UserError(
            "The global batch must hold two images or more, since the others are the negatives. "
            f"Received: batch_size={images}. Raise it."
        )


def size(vectors, config):
    """The length of embeddings and the memory that a number of them takes, in words."""
    mebibytes = vectors * config.embedding_dim * 4 / 2**20  # float32
    return f"{config.embedding_dim}, {mebibytes:.2f} MiB"
