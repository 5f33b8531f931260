"""What a mode of evaluate.py is: a function, and the settings that it has a use for."""

import dataclasses
from collections.abc import Callable

# Of every mode that looks at images.
IMAGES = ("dataset", "image_size", "batch_size")


@dataclasses.dataclass(frozen=True)
class Mode:
    """A mode of evaluate.py.

    Attributes:
        run: function of a `Subject`, which prints what it finds and records it.
        settings: names of the fields of `EvaluationConfig` that mean something to this mode and not to all.
    """

    run: Callable
    settings: tuple[str, ...]


def mode(*settings):
    """Makes a `Mode` of the function below, which has a use for these fields of `EvaluationConfig`."""
    return lambda run: Mode(run, settings)
