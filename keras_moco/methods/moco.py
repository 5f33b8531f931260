"""Momentum Contrast: a queue of keys."""

import math

from keras_moco.errors import UserError
from keras_moco.methods.base import Method, size
from keras_moco.models import MoCo
from keras_moco.models.moco import SYNCHRONIZED_NOTE

PAPER = 65536  # keys (MoCo, sec. 4.1)


class MomentumContrast(Method):
    settings = ("queue_size", "key_momentum", "symmetric", "bn_mode", "bn_splits")

    def settled(self, config, train_examples):
        """The queue: a fifth of the images, in whole steps, but no more than the paper's and no less than one step.

        With more than a fifth it would hold many views of the query's own image (see `describe`). In whole steps, so
        that all of its keys are replaced after the same number of steps.
        """
        if config.queue_size is not None:
            return {}
        keys = config.batch_size * self._directions(config)
        fifth = train_examples // 5 // keys * keys
        return {"queue_size": min(max(keys, min(fifth, PAPER)), train_examples)}

    def check(self, plan):
        config, examples = plan.config, plan.train_examples
        if config.queue_size > examples:
            raise UserError(
                "`queue_size` must not exceed the number of training images, or an image meets itself as a negative. "
                f"Received: queue_size={config.queue_size}, {examples} images in {config.dataset}. Lower --queue_size."
            )
        keys = config.batch_size * self._directions(config)
        if config.queue_size < keys:
            raise UserError(
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
            f"queue: {config.queue_size:,} keys of {size(config.queue_size, config)}, {share:.0%} of the training "
            "images",
            f"loss: chance is {plan.chance_loss:.2f}, {'2 ' if config.symmetric else ''}ln(K + 1); it starts lower, "
            "and rises while real keys fill the queue",
        ]
        if "queue_size" in plan.settled and config.queue_size < PAPER:
            lines.append(
                f"note: --queue_size was not given; it is {config.queue_size:,}, a fifth of the images in whole steps "
                f"(at least one), in place of the paper's {PAPER:,}"
            )
        if share > 0.2:
            flag = "--batch_size" if "queue_size" in plan.settled else "--queue_size"
            lines.append(
                f"note: above 20 % the queue holds many views of the query's own image; consider a smaller {flag}"
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
