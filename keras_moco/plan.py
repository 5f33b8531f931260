"""What follows from a configuration and its data, worked out and checked before any work starts."""

import math
from dataclasses import dataclass

from keras_moco import batch_norm, schedules
from keras_moco.config import Config


@dataclass(frozen=True)
class Plan:
    """The derived facts of a run.

    Args:
        config: `Config`.
        train_examples: int, images in the training split.
        channels: int, of the images.
        replicas: int, devices that train in step.

    Raises:
        ValueError: if the numbers do not fit each other; the message says which and what to do.

    Example:

    >>> plan = Plan(Config(queue_size=512, batch_size=128), train_examples=1437, channels=1, replicas=1)
    >>> plan.steps_per_epoch, round(plan.chance_loss, 3)
    (11, 6.24)
    """

    config: Config
    train_examples: int
    channels: int
    replicas: int

    def __post_init__(self):
        config, examples, batch = self.config, self.train_examples, self.config.batch_size
        if batch > examples:
            raise ValueError(
                "`batch_size` must not exceed the number of training images. "
                f"Received: batch_size={batch}, {examples} images in {config.dataset}. Lower --batch_size."
            )
        if config.queue_size > examples:
            raise ValueError(
                "`queue_size` must not exceed the number of training images, or an image meets itself as a negative. "
                f"Received: queue_size={config.queue_size}, {examples} images in {config.dataset}. Lower --queue_size."
            )
        if config.queue_size < self.keys_per_step:
            raise ValueError(
                "`queue_size` must be at least the number of keys that one step enqueues, or keys are overwritten "
                f"before they are used. Received: queue_size={config.queue_size}, keys per step={self.keys_per_step}. "
                "Raise --queue_size or lower --batch_size."
            )
        self.batch_norm.check(self.replicas)
        splits = self.batch_norm.splits
        if batch % (self.replicas * splits):
            raise ValueError(
                "`batch_size` must be divisible by the replicas, and each replica's share by the groups of its "
                f"BatchNorm. Received: batch_size={batch}, {self.replicas} replica(s), {splits} group(s). "
                "Change --batch_size, --replicas or --bn_splits."
            )

    @classmethod
    def of(cls, config, source, replicas):
        """The plan for images of `source`, a `keras_moco.data.Source`.

        Raises:
            ValueError: also if the images have other channels than configured.
        """
        channels = source.image_shape[-1]
        if config.channels not in (None, channels):
            raise ValueError(
                "`channels` must be what the images have. "
                f"Received: channels={config.channels}, {config.dataset} with {channels}. Correct or omit --channels."
            )
        return cls(config, source.num_examples, channels, replicas)

    @property
    def keys_per_step(self):
        """int: keys that enter the queue in one step."""
        return self.config.batch_size * (2 if self.config.symmetric else 1)

    @property
    def batch_norm(self):
        """`BatchNorm`: in whose company each image is normalised on these replicas."""
        return batch_norm.resolve(self.config.bn_mode, self.config.bn_splits, self.replicas)

    @property
    def steps_per_epoch(self):
        """int: full batches in an epoch; the rest of the images is left to the next epoch's order."""
        return self.train_examples // self.config.batch_size

    @property
    def total_steps(self):
        """int: steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def chance_loss(self):
        """float: the loss when all similarities are equal, `ln(1 + K)`, per direction."""
        return math.log(1 + self.config.queue_size) * (2 if self.config.symmetric else 1)

    def learning_rate(self):
        """The learning rate as a schedule over steps."""
        config = self.config
        return schedules.learning_rate(
            config.schedule,
            config.learning_rate,
            config.epochs,
            self.steps_per_epoch,
            per_step=config.schedule_per_step,
            warmup_epochs=config.warmup_epochs,
        )

    def describe(self):
        """The plan in a few lines of text, for people."""
        config, rate = self.config, self.learning_rate()
        marks = [round(self.total_steps * quarter / 4) for quarter in range(4)] + [self.total_steps - 1]
        rates = ", ".join(f"{float(rate(step)):.4g} (step {step})" for step in marks)
        share = config.queue_size / self.train_examples
        mebibytes = config.queue_size * config.embedding_dim * 4 / 2**20  # float32
        lines = [
            f"data: {config.dataset}, {self.train_examples:,} training images of {self.channels} channel(s), "
            f"views of {config.image_size} x {config.image_size} by {config.augment}",
            f"steps: {self.steps_per_epoch:,} per epoch of {config.batch_size} images on {self.replicas} replica(s), "
            f"{self.total_steps:,} in {config.epochs} epochs",
            f"BatchNorm: {self.batch_norm.describe()}",
            f"learning rate: {rates}",
            f"queue: {config.queue_size:,} keys of {config.embedding_dim}, {mebibytes:.2f} MiB, "
            f"{share:.0%} of the training images",
            f"loss: chance is {self.chance_loss:.2f}; it starts lower, and rises while real keys fill the queue",
        ]
        if share > 0.2:
            lines.append(
                "note: above 20 % the queue holds many views of the query's own image; consider a smaller --queue_size"
            )
        if self.batch_norm.note:
            lines.append(f"note: {self.batch_norm.note}")
        return "\n".join(lines)
