"""Momentum Contrast for TensorFlow and Keras 3."""

import importlib
import os

from keras_moco import former_names
from keras_moco.command_line.standard_streams import hold_descriptors
from keras_moco.errors import MissingPackageError

__version__ = "0.1.0"

hold_descriptors()  # before TensorFlow opens files

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

# At once, not on first use: `keras.saving.load_model` opens a model only if its classes have been registered before.
from keras_moco.methods import ContrastiveModel, EndToEnd, MemoryBank, MoCo, SimCLR  # noqa: E402
from keras_moco.networks import Encoder, linear_head, mlp_head, resnet, simclr_head  # noqa: E402
from keras_moco.optimizers import LARS, SGD  # noqa: E402

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


def __getattr__(name):
    """The functions of `keras_moco.api`, and the former modules, which used to be imported with the package."""
    if name in former_names.MOVED:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _IN_ONE_CALL:
        return getattr(importlib.import_module(f"{__name__}.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
