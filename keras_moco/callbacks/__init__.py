"""Callbacks for `fit`; in a list, those that add to the logs come first: the monitors, `Progress`."""

from keras_moco.callbacks.checkpoint import Checkpoint
from keras_moco.callbacks.curves import Curves
from keras_moco.callbacks.epoch_log import EpochLog
from keras_moco.callbacks.event_log import EventLog, drop_events
from keras_moco.callbacks.health import Health
from keras_moco.callbacks.knn_monitor import KnnMonitor
from keras_moco.callbacks.not_finite_guard import NotFiniteGuard
from keras_moco.callbacks.optional_output import OptionalOutput
from keras_moco.callbacks.progress import Progress
from keras_moco.callbacks.representation_monitor import RepresentationMonitor
from keras_moco.callbacks.stopping import Stopping
from keras_moco.errors import Stopped
from keras_moco.runs.checkpoint_index import SavedState, find_step, is_saved, saved_steps
from keras_moco.runs.checkpoints import NotFiniteError, restore, restore_encoder, save

Expendable = OptionalOutput  # its former name

__all__ = [
    "Checkpoint",
    "Curves",
    "EpochLog",
    "EventLog",
    "Health",
    "KnnMonitor",
    "NotFiniteError",
    "NotFiniteGuard",
    "OptionalOutput",
    "Progress",
    "RepresentationMonitor",
    "SavedState",
    "Stopped",
    "Stopping",
    "is_saved",
    "restore",
    "restore_encoder",
    "save",
    "saved_steps",
]
