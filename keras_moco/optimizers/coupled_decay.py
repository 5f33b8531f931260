"""What the optimizers of the recipes share: momentum, and weight decay that is L2 added to the gradient."""

import numbers
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from keras_moco.checks.ranges import check_number


class CoupledDecay(keras.optimizers.Optimizer):
    """An optimizer with momentum, and with weight decay that is part of the gradient."""

    def __init__(
        self, learning_rate: float | LearningRateSchedule, momentum: float, weight_decay: float, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        if isinstance(learning_rate, numbers.Real):  # not a schedule, nor the configuration of one
            check_number("learning_rate", learning_rate, "at least 0", "MoCo v1 uses 0.03 for 256 images per step.")
        check_number("momentum", momentum, "in [0, 1)", "The recipes use 0.9.")
        check_number("weight_decay", weight_decay, "at least 0", "Use 0 for none.")
        self.momentum = momentum
        # Not `self.weight_decay`: the base class would apply that one, decoupled, on its own.
        self.coupled_weight_decay = weight_decay

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.velocities = [self.add_variable_from_reference(v, name="velocity") for v in variables]

    def velocity_of(self, variable: keras.Variable) -> keras.Variable:
        """The velocity of a trainable variable, or of a replica's copy of it."""
        # By Keras's own table, as in all of its optimizers: it also knows the copies, and has no public name.
        return self.velocities[self._get_variable_index(variable)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "weight_decay": self.coupled_weight_decay}
