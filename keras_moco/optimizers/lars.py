"""LARS, the optimizer of SimCLR's recipes for large batches."""

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_moco.checks.ranges import check_number
from keras_moco.optimizers.coupled_decay import CoupledDecay


@keras.saving.register_keras_serializable(package="keras_moco")
class LARS(CoupledDecay):
    """Layer-wise adaptive rate scaling, for large batches (You, Gitman, Ginsburg 2017, Algorithm 1).

    ```
    g <- gradient + weight_decay * w
    rate <- learning_rate * trust * |w| / |g|             (the learning rate itself where either norm is 0)
    v <- momentum * v + rate * g
    w <- w - v
    ```

    Variables with one axis (biases, BatchNorm's scales and offsets) get neither decay nor adaptation: SGD with the rate
    inside the velocity (SimCLR's `tf2/lars_optimizer.py`, which recognises them by name; MoCo v3 by their axes).

    Args:
        learning_rate: float or `LearningRateSchedule`. Since trust is small, several hundred times that of SGD.
            Defaults to `1.0` (SimCLR on CIFAR-10, for 256 images).
        momentum: float in `[0, 1)`. Defaults to `0.9` (SimCLR).
        weight_decay: non-negative float. Defaults to `1e-4` (SimCLR on CIFAR-10; `1e-6` on ImageNet).
        trust: positive float, eta in the paper. Defaults to `0.001` (the paper and SimCLR).
        **kwargs: keyword arguments of `keras.optimizers.Optimizer`.

    Example:

    >>> w = keras.Variable([[3.0, 4.0]])  # of norm 5
    >>> optimizer = LARS(learning_rate=1.0, momentum=0.9, weight_decay=0.0, trust=0.1)
    >>> optimizer.apply([ops.convert_to_tensor([[0.0, 2.0]])], [w])  # moves by 1.0 * 0.1 * 5
    >>> np.array(w).round(4).tolist()
    [[3.0, 3.5]]
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        trust: float = 0.001,
        name: str = "LARS",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, momentum, weight_decay, name=name, **kwargs)
        check_number("trust", trust, "positive", "The paper uses 0.001.")
        self.trust = trust

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        velocity = self.velocity_of(variable)
        gradient = ops.cast(gradient, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        if len(variable.shape) > 1:
            gradient = gradient + self.coupled_weight_decay * variable
            rate = rate * self._adaptation(variable, gradient)
        self.assign(velocity, self.momentum * velocity + rate * gradient)
        self.assign_sub(variable, velocity)

    def _adaptation(self, variable, gradient):
        weight, slope = (ops.sqrt(ops.sum(ops.square(tensor))) for tensor in (variable, gradient))
        known = (weight > 0) & (slope > 0)
        return ops.where(known, self.trust * weight / ops.where(known, slope, 1.0), 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "trust": self.trust}
