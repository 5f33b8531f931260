"""SGD as in PyTorch, the optimizer of MoCo's recipes."""

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_moco.optimizers.coupled_decay import CoupledDecay


@keras.saving.register_keras_serializable(package="keras_moco")
class SGD(CoupledDecay):
    """Stochastic gradient descent with coupled weight decay, as PyTorch's `torch.optim.SGD`.

    ```
    g <- gradient + weight_decay * w
    v <- momentum * v + g
    w <- w - learning_rate * v                            (nesterov: w - learning_rate * (g + momentum * v))
    ```

    `keras.optimizers.SGD` differs twice: its `weight_decay` is decoupled (`w -= learning_rate * weight_decay * w`,
    which does not enter the momentum, so the same number decays about `1 / (1 - momentum)` times less), and it keeps
    the learning rate inside the velocity, so results differ whenever the rate changes. The recipes' numbers are for
    this one, and decay every parameter, BatchNorm's and biases included (official `main_moco.py`).

    Args:
        learning_rate: float or `LearningRateSchedule`. Defaults to `0.03` (MoCo v1, batch 256).
        momentum: float in `[0, 1)`, momentum of the optimizer (not of the key encoder). Defaults to `0.9`.
        weight_decay: non-negative float. Defaults to `1e-4` (MoCo v1).
        nesterov: bool. Defaults to `False`.
        **kwargs: keyword arguments of `keras.optimizers.Optimizer`.

    Example:

    >>> w = keras.Variable([1.0])
    >>> optimizer = SGD(learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    >>> optimizer.apply([ops.convert_to_tensor([1.0])], [w])
    >>> round(float(w[0]), 4)  # 1 - 0.1 * (1 + 0.5 * 1)
    0.85
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.03,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        nesterov: bool = False,
        name: str = "SGD",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, momentum, weight_decay, name=name, **kwargs)
        self.nesterov = nesterov

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        velocity = self.velocity_of(variable)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype) + self.coupled_weight_decay * variable
        # Two assignments: TensorFlow rearranges a sum of three terms, on each replica in an order of its own, so that
        # the last bits of their weights would differ.
        self.assign(velocity, self.momentum * velocity)
        self.assign_add(velocity, gradient)
        direction = gradient + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, learning_rate * direction)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "nesterov": self.nesterov}
