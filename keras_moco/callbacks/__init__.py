"""Callbacks for `fit`; in a list, place those that add to the logs first: `KnnMonitor`, `Progress`."""

from keras_moco.callbacks.checkpoint import Checkpoint, is_saved, restore, save
from keras_moco.callbacks.epoch_log import EpochLog
from keras_moco.callbacks.knn_monitor import KnnMonitor
from keras_moco.callbacks.plots import Curves
from keras_moco.callbacks.progress import Progress

__all__ = ["Checkpoint", "Curves", "EpochLog", "KnnMonitor", "Progress", "is_saved", "restore", "save"]
