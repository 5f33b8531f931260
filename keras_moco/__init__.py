"""Momentum Contrast for TensorFlow and Keras 3."""

import os
import sys

__version__ = "0.1.0"

if os.environ.get("TF_USE_LEGACY_KERAS", "0").lower() not in ("", "0", "false"):
    raise ImportError(
        "keras_moco must run on Keras 3, which TensorFlow does not load with TF_USE_LEGACY_KERAS set. "
        f"Received: TF_USE_LEGACY_KERAS={os.environ['TF_USE_LEGACY_KERAS']}. Unset it."
    )
if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    raise ImportError(
        "keras_moco must run on Keras's TensorFlow backend. "
        f"Received: KERAS_BACKEND={os.environ['KERAS_BACKEND']}. Unset it."
    )

# A command (train.py, python -m keras_moco...) answers --help and mistakes before it loads TensorFlow. Everywhere else
# the names are there at once, and with them all that `keras.saving.load_model` has to know.
if not (hasattr(sys.modules["__main__"], "KERAS_MOCO_COMMAND") or sys.argv[:1] == ["-m"]):
    from keras_moco.backbones import resnet
    from keras_moco.models import (
        ContrastiveModel,
        Encoder,
        EndToEnd,
        MemoryBank,
        MoCo,
        SimCLR,
        linear_head,
        mlp_head,
        simclr_head,
    )
    from keras_moco.optimizers import LARS, SGD

__all__ = [
    "LARS",
    "SGD",
    "ContrastiveModel",
    "Encoder",
    "EndToEnd",
    "MemoryBank",
    "MoCo",
    "SimCLR",
    "linear_head",
    "mlp_head",
    "resnet",
    "simclr_head",
]
