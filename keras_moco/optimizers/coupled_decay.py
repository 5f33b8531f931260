"""The recipes' optimisers, in which weight decay is L2 added to the gradient."""

import numbers

import keras
from keras import ops

from keras_moco.checks.ranges import check_number

__all__ = ["LARS", "SGD"]


class _WithVelocities(keras.optimizers.Optimizer):
    """An optimiser with momentum, and with weight decay that belongs to the gradient."""

    def __init__(self, learning_rate, momentum, weight_decay, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        if isinstance(learning_rate, numbers.Real):  # else a schedule, or what `from_config` makes of one
            check_number("learning_rate", learning_rate, "at least 0", "MoCo v1 uses 0.03 for 256 images per step.")
        check_number("momentum", momentum, "in [0, 1)", "The recipes use 0.9.")
        check_number("weight_decay", weight_decay, "at least 0", "Use 0 for none.")
        self.momentum = momentum
        # Not `self.weight_decay`: the base class would apply that one, decoupled, on its own.
        self.coupled_weight_decay = weight_decay

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = [self.add_variable_from_reference(v, name="velocity") for v in variables]

    def velocity_of(self, variable):
        return self.velocities[self._get_variable_index(variable)]

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "weight_decay": self.coupled_weight_decay}


@keras.saving.register_keras_serializable(package="keras_moco")
class SGD(_WithVelocities):
    """Stochastic gradient descent with coupled weight decay, as PyTorch's `torch.optim.SGD`.

    ```
    g <- gradient + weight_decay * w
    v <- momentum * v + g
    w <- w - learning_rate * v                            (nesterov: w - learning_rate * (g + momentum * v))
    ```

    `keras.optimizers.SGD` differs twice: its `weight_decay` is decoupled (`w -= learning_rate * weight_decay * w`,
    which the momentum never sees, so the same number decays about `1 / (1 - momentum)` times less), and it keeps
    the learning rate inside the velocity, so the two part whenever the rate changes. The recipes' numbers are for
    this one, and decay every parameter, BatchNorm's and biases included (official `main_moco.py`).

    Args:
        learning_rate: float or `LearningRateSchedule`. Defaults to `0.03` (MoCo v1, batch 256).
        momentum: float in `[0, 1)`, of the optimiser (not of the key encoder). Defaults to `0.9`.
        weight_decay: non-negative float. Defaults to `1e-4` (MoCo v1).
        nesterov: bool. Defaults to `False`.
        **kwargs: of `keras.optimizers.Optimizer`.

    Example:

    >>> w = keras.Variable([1.0])
    >>> optimizer = SGD(learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    >>> optimizer.apply([ops.convert_to_tensor([1.0])], [w])
    >>> round(float(w[0]), 4)  # 1 - 0.1 * (1 + 0.5 * 1)
    0.85
    """

    def __init__(self, learning_rate=0.03, momentum=0.9, weight_decay=1e-4, nesterov=False, name="SGD", **kwargs):
        super().__init__(learning_rate, momentum, weight_decay, name=name, **kwargs)
        self.nesterov = nesterov

    def update_step(self, gradient, variable, learning_rate):
        velocity = self.velocity_of(variable)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype) + self.coupled_weight_decay * variable
        self.assign(velocity, self.momentum * velocity + gradient)
        direction = gradient + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, learning_rate * direction)

    def get_config(self):
        return {**super().get_config(), "nesterov": self.nesterov}


@keras.saving.register_keras_serializable(package="keras_moco")
class LARS(_WithVelocities):
    """Layer-wise adaptive rate scaling, for large batches (You, Gitman, Ginsburg 2017, Algorithm 1).

    ```
    g <- gradient + weight_decay * w
    rate <- learning_rate * trust * |w| / |g|             (the learning rate itself where either norm is 0)
    v <- momentum * v + rate * g
    w <- w - v
    ```

    Biases and BatchNorm's scales and offsets, all that have one axis, get neither decay nor adaptation: SGD with the
    rate inside the velocity (SimCLR's `tf2/lars_optimizer.py`, which tells them by name; MoCo v3 by their axes).

    Args:
        learning_rate: float or `LearningRateSchedule`; as trust is small, some hundred times that of SGD. Defaults to
            `1.0` (SimCLR on CIFAR-10, for 256 images).
        momentum: float in `[0, 1)`. Defaults to `0.9` (SimCLR).
        weight_decay: non-negative float. Defaults to `1e-4` (SimCLR on CIFAR-10; `1e-6` on ImageNet).
        trust: positive float, eta in the paper. Defaults to `0.001` (the paper and SimCLR).
        **kwargs: of `keras.optimizers.Optimizer`.

    Example:

    >>> w = keras.Variable([[3.0, 4.0]])  # of norm 5
    >>> optimizer = LARS(learning_rate=1.0, momentum=0.9, weight_decay=0.0, trust=0.1)
    >>> optimizer.apply([ops.convert_to_tensor([[0.0, 2.0]])], [w])  # moves by 1.0 * 0.1 * 5
    >>> np.array(w).round(4).tolist()
    [[3.0, 3.5]]
    """

    def __init__(self, learning_rate=1.0, momentum=0.9, weight_decay=1e-4, trust=0.001, name="LARS", **kwargs):
        super().__init__(learning_rate, momentum, weight_decay, name=name, **kwargs)
        check_number("trust", trust, "positive", "The paper uses 0.001.")
        self.trust = trust

    def update_step(self, gradient, variable, learning_rate):
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

    def get_config(self):
        return {**super().get_config(), "trust": self.trust}
