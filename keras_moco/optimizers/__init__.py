"""SGD and LARS with the weight decay of the recipes, and learning-rate schedules."""

from keras_moco.optimizers import schedules  # noqa: F401 (registers them for `keras.saving.load_model`)
from keras_moco.optimizers.lars import LARS
from keras_moco.optimizers.sgd import SGD

__all__ = ["LARS", "SGD"]
