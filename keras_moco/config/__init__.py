"""The settings of training and evaluation, and the flags and flagfiles that they become."""

from keras_moco.config.evaluation import EvaluationConfig
from keras_moco.config.training import Config

__all__ = ["Config", "EvaluationConfig"]
