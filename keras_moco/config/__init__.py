"""Every setting once: its type, default, range or choices, help and source."""

from keras_moco.config.evaluation import EvaluationConfig
from keras_moco.config.training import Config

__all__ = ["Config", "EvaluationConfig"]
