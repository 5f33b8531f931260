"""What follows from a configuration and its data, derived and checked before any work starts."""

import dataclasses
from dataclasses import dataclass

from keras_moco.augment import get_augmentation
from keras_moco.config import Config
from keras_moco.config.settings import to_text
from keras_moco.config.training import AUTO
from keras_moco.data.value_range import text_of
from keras_moco.errors import UserError
from keras_moco.methods import Method, get_method
from keras_moco.networks import by_name
from keras_moco.optimizers import schedules


@dataclass(frozen=True)
class Plan:
    """The derived facts of a run.

    Args:
        config: `Config`. The attribute of that name also has the settings that follow from the data.
        train_examples: int, the number of images in the training split.
        channels: int, the channels of the images.
        replicas: int, the number of devices that train in step.

    Attributes:
        method: `Method`, what the configured method adds to a run.
        settled: dict of the settings that were not given and follow from the data.

    Raises:
        ValueError: if the numbers do not fit each other; the message says which and what to do.

    Example:

    >>> plan = Plan(Config(queue_size=512, batch_size=128), train_examples=1437, channels=1, replicas=1)
    >>> plan.steps_per_epoch, round(plan.chance_loss, 3)
    (11, 6.24)
    >>> Plan(Config(batch_size=128), train_examples=1437, channels=1, replicas=1).config.queue_size
    256
    """

    config: Config
    train_examples: int
    channels: int
    replicas: int
    method: Method = dataclasses.field(init=False, compare=False, repr=False)
    settled: dict = dataclasses.field(init=False, compare=False)

    def __post_init__(self):
        config, examples, batch = self.config, self.train_examples, self.config.batch_size
        if examples < 2:
            raise UserError(
                "There must be two training images or more, since each one is contrasted with others. "
                f"Received: {examples} in {config.dataset}. Add images."
            )
        if batch > examples:
            raise UserError(
                "`batch_size` must not exceed the number of training images. "
                f"Received: batch_size={batch}, {examples} images in {config.dataset}. Lower --batch_size."
            )
        object.__setattr__(self, "method", get_method(config))
        self._check_backbone()
        object.__setattr__(self, "settled", self.method.settled(config, examples))
        object.__setattr__(self, "config", dataclasses.replace(config, **self.settled))
        self.method.check(self)
        self.batch_norm.check(self.replicas)
        if not self._depends_on_layers:
            self.check_groups(self.batch_norm.splits)

    @property
    def _depends_on_layers(self):
        """bool: only the layers of the backbone, once they are built, decide the BatchNorm mode."""
        return self.config.bn_mode == "auto" and not by_name.is_ours(self.config.backbone)

    def _check_backbone(self):
        config = self.config
        if config.backbone_weights not in (None, by_name.RANDOM) and config.init_from:
            raise UserError(
                "`backbone_weights` must not be given with `init_from`, which has weights for the whole encoder. "
                f"Received: backbone_weights={config.backbone_weights}, init_from={config.init_from}. Omit one of them."
            )
        by_name.find(config.backbone, config.backbone_weights)
        for name in {"backbone_width", "stem"} & set(config.changed()) if not by_name.is_ours(config.backbone) else ():
            raise UserError(
                f"`{name}` must not be given with backbone={config.backbone}, which does not use it. "
                f"Received: {name}={getattr(config, name)}. Omit --{name}, or give it with one of "
                f"{', '.join(by_name.BACKBONES)}."
            )

    def check_groups(self, splits):
        """Raises `ValueError` unless replicas and BatchNorm groups divide the batch."""
        batch = self.config.batch_size
        if batch % (self.replicas * splits):
            raise UserError(
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
        config, channels = settled_by(config, source), source.image_shape[-1]
        if config.channels not in (None, channels):
            raise UserError(
                "`channels` must be what the images have. "
                f"Received: channels={config.channels}, {config.dataset} with {channels}. Correct or omit --channels."
            )
        return cls(config, source.num_examples, channels, replicas)

    @property
    def batch_norm(self):
        """`BatchNorm`: which images share BatchNorm statistics on these replicas."""
        return self.method.batch_norm(self.config, self.replicas)

    @property
    def steps_per_epoch(self):
        """int: full batches in an epoch; the remaining images are skipped, others in every epoch."""
        return self.train_examples // self.config.batch_size

    @property
    def total_steps(self):
        """int: the number of steps in the whole run."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def chance_loss(self):
        """float: the loss at chance level, where all similarities are equal."""
        return self.method.chance_loss(self)

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

    def _without_effect(self):
        """A note of the operations of the augmentation that do nothing to images of these channels, if any."""
        # With a seed of its own, so that none is taken from Python's `random`.
        augmentation = get_augmentation(self.config.augment)(self.config.image_size, seed=0)
        names = augmentation.without_effect(self.channels)
        return f" (without effect on {self.channels} channel(s): {', '.join(names)})" if names else ""

    def describe(self):
        """The plan in a few lines of text, for people."""
        config, rate = self.config, self.learning_rate()
        last = self.total_steps - 1
        marks = {min(last, round(self.total_steps * quarter / 4)) for quarter in range(4)} | {last}
        rates = ", ".join(f"{float(rate(step)):.4g} (step {step})" for step in sorted(marks))
        lines = [
            f"method: {config.method}",
            f"data: {config.dataset}, {self.train_examples:,} training images of {self.channels} channel(s), "
            f"views of {config.image_size} x {config.image_size} by {config.augment}{self._without_effect()}",
            f"scaling: mean {to_text(config.image_mean)}, std {to_text(config.image_std)} of images in 0..1",
            f"steps: {self.steps_per_epoch:,} per epoch of {config.batch_size} images on {self.replicas} replica(s), "
            f"{self.total_steps:,} in {config.epochs} epochs",
            f"BatchNorm: {self.batch_norm.describe()}"
            + (", where the layers of the backbone are made for it" if self._depends_on_layers else ""),
            f"learning rate: {rates}",
            *self.method.describe(self),
        ]
        return "\n".join(lines)


def settled_by(config, source):
    """The configuration with what follows from the images of a source: how all are decoded and scaled from now on."""
    found = {}
    if source.decoding:
        found = {"channels": source.decoding.channels, "value_range": text_of(source.decoding.limits)}
    if AUTO in (config.image_mean, config.image_std):
        measured = dict(zip(("image_mean", "image_std"), source.mean_and_std, strict=True))
        found |= {name: numbers for name, numbers in measured.items() if getattr(config, name) == AUTO}
    return dataclasses.replace(config, **found)
