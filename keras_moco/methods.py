"""The methods that a run can use: which settings are theirs, what must hold for them, and the model they make."""

import abc
import math

from keras_moco import batch_norm
from keras_moco.models import EndToEnd, MemoryBank, MoCo, SimCLR
from keras_moco.models.moco import SYNCHRONIZED_NOTE


class Method(abc.ABC):
    """What a method adds to a run; `plan` is a `keras_moco.plan.Plan` throughout.

    Attributes:
        settings: names of the fields of `Config` that mean something to this method and not to all.
    """

    settings = ()

    def batch_norm(self, config, replicas):
        """The `BatchNorm` of the encoder."""
        return batch_norm.resolve(config.bn_mode, config.bn_splits, replicas)

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


class MomentumContrast(Method):
    settings = ("queue_size", "key_momentum", "symmetric", "bn_mode", "bn_splits")

    def check(self, plan):
        config, examples = plan.config, plan.train_examples
        if config.queue_size > examples:
            raise ValueError(
                "`queue_size` must not exceed the number of training images, or an image meets itself as a negative. "
                f"Received: queue_size={config.queue_size}, {examples} images in {config.dataset}. Lower --queue_size."
            )
        keys = config.batch_size * self._directions(config)
        if config.queue_size < keys:
            raise ValueError(
                "`queue_size` must be at least the number of keys that one step enqueues, or keys are overwritten "
                f"before they are used. Received: queue_size={config.queue_size}, keys per step={keys}. "
                "Raise --queue_size or lower --batch_size."
            )

    def chance_loss(self, plan):
        return math.log(1 + plan.config.queue_size) * self._directions(plan.config)

    def describe(self, plan):
        config = plan.config
        share = config.queue_size / plan.train_examples
        lines = [
            f"queue: {config.queue_size:,} keys of {_size(config.queue_size, config)}, {share:.0%} of the training "
            "images",
            f"loss: chance is {plan.chance_loss:.2f}; it starts lower, and rises while real keys fill the queue",
        ]
        if share > 0.2:
            lines.append(
                "note: above 20 % the queue holds many views of the query's own image; consider a smaller --queue_size"
            )
        if plan.batch_norm.synchronized:
            lines.append(f"note: {SYNCHRONIZED_NOTE}")
        return lines

    def build(self, plan, encoder):
        config = plan.config
        return MoCo(
            encoder,
            queue_size=config.queue_size,
            momentum=config.key_momentum,
            temperature=config.temperature,
            symmetric=config.symmetric,
            bn_mode=config.bn_mode,
            bn_splits=config.bn_splits,
            seed=config.seed,
        )

    def _directions(self, config):
        return 2 if config.symmetric else 1


class InBatch(Method):
    """What is common to methods whose negatives are the other images of the batch."""

    def check(self, plan):
        if plan.config.batch_size < 2:
            raise ValueError(
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


class EndToEndContrast(InBatch):
    settings = ("separate_encoders", "bn_mode", "bn_splits")

    def num_negatives(self, config):
        return config.batch_size - 1

    def build(self, plan, encoder):
        config = plan.config
        return EndToEnd(
            encoder,
            temperature=config.temperature,
            shared=not config.separate_encoders,
            bn_mode=config.bn_mode,
            bn_splits=config.bn_splits,
            seed=config.seed,
        )


class SimpleContrast(InBatch):
    def batch_norm(self, config, replicas):
        return batch_norm.Plain(synchronized=True)

    def num_negatives(self, config):
        return 2 * config.batch_size - 2

    def build(self, plan, encoder):
        return SimCLR(encoder, temperature=plan.config.temperature)


class BankContrast(Method):
    settings = ("num_negatives", "bank_momentum")

    def batch_norm(self, config, replicas):
        return batch_norm.Plain()

    def check(self, plan):
        if plan.config.batch_size >= plan.train_examples:
            raise ValueError(
                "`batch_size` must be less than the number of training images, or there are no negatives. Received: "
                f"batch_size={plan.config.batch_size}, {plan.train_examples} images in {plan.config.dataset}. "
                "Lower --batch_size."
            )

    def chance_loss(self, plan):
        return math.log(1 + plan.config.num_negatives)

    def describe(self, plan):
        config, examples = plan.config, plan.train_examples
        return [
            f"bank: {examples:,} vectors of {_size(examples, config)}, of which {config.num_negatives:,} are drawn in "
            "each step",
            f"loss: chance is {plan.chance_loss:.2f}",
        ]

    def build(self, plan, encoder):
        config = plan.config
        return MemoryBank(
            encoder,
            bank_size=plan.train_examples,
            num_negatives=config.num_negatives,
            bank_momentum=config.bank_momentum,
            temperature=config.temperature,
            seed=config.seed,
        )


METHODS = {
    "moco": MomentumContrast(),
    "end_to_end": EndToEndContrast(),
    "memory_bank": BankContrast(),
    "simclr": SimpleContrast(),
}


def get_method(config):
    """The `Method` that a configuration names.

    Raises:
        ValueError: for an unknown name, or settings that only other methods have a use for.
    """
    if config.method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(METHODS)}. Received: {config.method!r}. Choose one of them."
        )
    method = METHODS[config.method]
    for name in config.changed():
        owners = [owner for owner, other in METHODS.items() if name in other.settings]
        if owners and config.method not in owners:
            raise ValueError(
                f"`{name}` must not be given with method={config.method}, which has no use for it. "
                f"Received: {name}={getattr(config, name)}. Leave out --{name}, or choose --method={owners[0]}."
            )
    return method


def _size(vectors, config):
    mebibytes = vectors * config.embedding_dim * 4 / 2**20  # float32
    return f"{config.embedding_dim}, {mebibytes:.2f} MiB"
