"""A memory bank: one vector for every image."""

import math

from keras_moco import batch_norm
from keras_moco.errors import UserError
from keras_moco.methods.base import Method, size
from keras_moco.models import MemoryBank


class BankContrast(Method):
    settings = ("num_negatives", "bank_momentum")

    def batch_norm(self, config, replicas):
        return batch_norm.Plain()

    def check(self, plan):
        if plan.config.batch_size >= plan.train_examples:
            raise UserError(
                "`batch_size` must be less than the number of training images, or there are no negatives. Received: "
                f"batch_size={plan.config.batch_size}, {plan.train_examples} images in {plan.config.dataset}. "
                "Lower --batch_size."
            )

    def chance_loss(self, plan):
        return math.log(1 + plan.config.num_negatives)

    def describe(self, plan):
        config, examples = plan.config, plan.train_examples
        return [
            f"bank: {examples:,} vectors of {size(examples, config)}, of which {config.num_negatives:,} are drawn in "
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
