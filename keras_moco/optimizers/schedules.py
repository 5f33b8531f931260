"""Learning-rate schedules of the recipes, composed of Keras's own; they count optimizer steps."""

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import CosineDecay, LearningRateSchedule, PiecewiseConstantDecay

from keras_moco.checks.ranges import broken_rule, check_number
from keras_moco.errors import UserError

__all__ = ["SCHEDULES", "InSteps", "Staircase", "Warmup", "constant", "cosine", "learning_rate", "step"]


class _Wrapper(LearningRateSchedule):
    """A schedule made of another one and a number of optimizer steps."""

    def __init__(self, schedule: LearningRateSchedule, steps: int) -> None:
        check_number("steps", steps, "at least 1", "Give the optimizer steps of an epoch.", whole=True)
        self.schedule = schedule
        self.steps = steps

    def get_config(self) -> dict[str, Any]:
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_Wrapper":
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["steps"])


@keras.saving.register_keras_serializable(package="keras_moco")
class Staircase(_Wrapper):
    """Evaluates a schedule once every `steps`, and keeps its value in between: `schedule(floor(step / steps))`.

    MoCo v1 and v2 set the rate once per epoch (official `main_moco.py`, `adjust_learning_rate`).

    Args:
        schedule: a `LearningRateSchedule` that counts stairs (epochs, as a rule).
        steps: positive int, optimizer steps per stair.

    Example:

    >>> rate = Staircase(CosineDecay(0.03, decay_steps=2), steps=100)
    >>> [round(float(rate(step)), 3) for step in (0, 99, 100, 199)]
    [0.03, 0.03, 0.015, 0.015]
    """

    def __call__(self, step):
        return self.schedule(ops.floor_divide(ops.cast(step, "int64"), self.steps))


@keras.saving.register_keras_serializable(package="keras_moco")
class InSteps(_Wrapper):
    """Evaluates at every step a schedule that counts in larger units: `schedule(step / steps)`.

    Args:
        schedule: a `LearningRateSchedule` that counts units of `steps` (epochs, as a rule).
        steps: positive int, optimizer steps per unit.

    Example:

    >>> rate = InSteps(CosineDecay(1.0, decay_steps=2), steps=100)
    >>> [round(float(rate(step)), 2) for step in (0, 50, 100)]
    [1.0, 0.85, 0.5]
    """

    def __call__(self, step):
        return self.schedule(ops.cast(step, "float32") / self.steps)


@keras.saving.register_keras_serializable(package="keras_moco")
class Warmup(_Wrapper):
    """Rises linearly from 0 to the schedule's first value in `steps`, then runs the schedule from its beginning.

    Keras's `CosineDecay` has a warm-up of its own, but then counts in steps alone, not in stairs of an epoch, and its
    rates differ from these in the last bits.

    Args:
        schedule: the `LearningRateSchedule` that follows.
        steps: positive int, optimizer steps of the warm-up.

    Example:

    >>> rate = Warmup(CosineDecay(1.0, decay_steps=100), steps=10)
    >>> [round(float(rate(step)), 2) for step in (0, 5, 10, 60)]
    [0.0, 0.5, 1.0, 0.5]
    """

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rising = ops.cast(self.schedule(0), "float32") * step / self.steps
        following = ops.cast(self.schedule(ops.maximum(step - self.steps, 0.0)), "float32")
        return ops.where(step < self.steps, rising, following)


def constant(rate: float, epochs: int) -> LearningRateSchedule:
    """The same `rate` in every epoch."""
    return PiecewiseConstantDecay([epochs], [rate, rate])


def step(rate: float, epochs: int) -> LearningRateSchedule:
    """Times 0.1 at 60 % and again at 80 % of `epochs` (MoCo v1: epochs 120 and 160 of 200)."""
    # In Keras a boundary belongs to the value before it, hence the epoch before the drop.
    boundaries = [round(fraction * epochs) - 1 for fraction in (0.6, 0.8)]
    return PiecewiseConstantDecay(boundaries, [rate * 0.1**drop for drop in range(len(boundaries) + 1)])


def cosine(rate: float, epochs: int) -> LearningRateSchedule:
    """`rate * (1 + cos(pi * epoch / epochs)) / 2` (MoCo v2, sec. 3; official `main_moco.py`)."""
    return CosineDecay(rate, decay_steps=epochs)


SCHEDULES = {"constant": constant, "step": step, "cosine": cosine}


def learning_rate(
    name: str, rate: float, epochs: int, steps_per_epoch: int, *, per_step: bool = False, warmup_epochs: int = 0
) -> LearningRateSchedule:
    """The learning rate of a whole run, a `keras.optimizers.schedules.LearningRateSchedule` over optimizer steps.

    Args:
        name: `"constant"`, `"step"` (times 0.1 at 60 % and 80 % of the epochs after warm-up) or `"cosine"`.
        rate: positive float, the rate after warm-up.
        epochs: positive int, epochs of the run, warm-up included.
        steps_per_epoch: positive int.
        per_step: bool. `False`: constant within an epoch, as the authors; `True`: a new rate every step.
        warmup_epochs: int, epochs of linear warm-up. Defaults to `0` (none in MoCo v1 and v2).

    Raises:
        ValueError: for an unknown `name`, a number out of its range, or a warm-up that leaves no epoch.

    Example:

    >>> rate = learning_rate("step", 0.03, epochs=200, steps_per_epoch=10)
    >>> [round(float(rate(epoch * 10)), 5) for epoch in (0, 119, 120, 160)]
    [0.03, 0.03, 0.003, 0.0003]
    """
    if name not in SCHEDULES:
        raise UserError(f"`schedule` must be one of {', '.join(SCHEDULES)}. Received: {name!r}. Choose one of them.")
    check_number("rate", rate, "positive", "MoCo v1 uses 0.03 for 256 images per step.")
    for number, value in {"epochs": epochs, "steps_per_epoch": steps_per_epoch}.items():
        check_number(number, value, "at least 1", "Count those of the whole run.", whole=True)
    if broken_rule(warmup_epochs, "at least 0", whole=True) or warmup_epochs >= epochs:
        raise UserError(
            "`warmup_epochs` must be a whole number, at least 0 and less than `epochs`. "
            f"Received: warmup_epochs={warmup_epochs}, epochs={epochs}. Shorten the warm-up or train longer."
        )
    following = SCHEDULES[name](rate, epochs - warmup_epochs)
    # A piecewise constant schedule changes between epochs only; counted in fractions of an epoch it would drop early.
    continuous = per_step and not isinstance(following, PiecewiseConstantDecay)
    schedule = InSteps(following, steps_per_epoch) if continuous else Staircase(following, steps_per_epoch)
    return Warmup(schedule, warmup_epochs * steps_per_epoch) if warmup_epochs else schedule
