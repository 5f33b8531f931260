"""SGD and LARS with the weight decay of the recipes, and learning-rate schedules."""

from keras_moco.optimizers import schedules  # noqa: F401 (registers them for `keras.saving.load_model`)
from keras_moco.optimizers.coupled_decay import LARS, SGD

__all__ = ["LARS", "SGD"]
