"""What a run shows of itself, beside figures and curves: in TensorBoard, and in pictures that need no browser."""

from keras_moco.display.closing import closing_lines
from keras_moco.display.looking import Looked, look
from keras_moco.display.projector import write_projector
from keras_moco.display.settings import write_settings
from keras_moco.display.showing import show_end, show_start
from keras_moco.display.views import fed_views, write_views

__all__ = [
    "Looked",
    "closing_lines",
    "fed_views",
    "look",
    "show_end",
    "show_start",
    "write_projector",
    "write_settings",
    "write_views",
]
