"""Momentum Contrast for TensorFlow and Keras 3."""

import importlib
import os
import sys

from keras_moco import former_names
from keras_moco.command_line.standard_streams import hold_descriptors
from keras_moco.errors import MissingPackageError

__version__ = "0.1.0"

# Imported on first use: evaluation and pictures take a second, which models that are only opened do not need.
_IN_ONE_CALL = ("embed", "load_backbone", "pretrain")

__all__ = [
    "LARS",
    "SGD",
    "ContrastiveModel",
    "Encoder",
    "EndToEnd",
    "MemoryBank",
    "MoCo",
    "SimCLR",
    "embed",
    "linear_head",
    "load_backbone",
    "mlp_head",
    "pretrain",
    "resnet",
    "simclr_head",
]

hold_descriptors()  # before TensorFlow opens files

# `keras-moco` and `python -m keras_moco` answer --help and mistakes before TensorFlow is loaded, and then execute this
# file again (`load_package`). While Python looks for what -m names, `sys.argv` begins with it.
_put_off = "_put_off" not in globals() and (
    getattr(sys.modules.get("keras_moco_command"), "reads_arguments", False)
    or (sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] == __name__)
)

if not _put_off:
    if os.environ.get("TF_USE_LEGACY_KERAS", "0").lower() not in ("", "0", "false"):
        raise MissingPackageError(
            "keras_moco must run on Keras 3, which TensorFlow does not load with TF_USE_LEGACY_KERAS set. "
            f"Received: TF_USE_LEGACY_KERAS={os.environ['TF_USE_LEGACY_KERAS']}. Unset it."
        )
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise MissingPackageError(
            "keras_moco must run on Keras's TensorFlow backend. "
            f"Received: KERAS_BACKEND={os.environ['KERAS_BACKEND']}. Unset it."
        )

    # At once, not on first use: `keras.saving.load_model` opens a model only if its classes are already registered.
    from keras_moco.methods import ContrastiveModel, EndToEnd, MemoryBank, MoCo, SimCLR
    from keras_moco.networks import Encoder, linear_head, mlp_head, resnet, simclr_head
    from keras_moco.optimizers import LARS, SGD


def __getattr__(name):
    """The functions of `keras_moco.api`, and the former modules, which used to be imported with the package."""
    if name in former_names.MOVED:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _IN_ONE_CALL:
        return getattr(importlib.import_module(f"{__name__}.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
