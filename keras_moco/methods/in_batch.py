"""What is common to methods whose negatives are the other images of the batch."""

import abc
import math

from keras_moco.errors import UserError
from keras_moco.methods.base import Method


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
