"""Momentum Contrast for TensorFlow and Keras 3."""

import os

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

from keras_moco.backbones import resnet  # noqa: E402
from keras_moco.models import (  # noqa: E402
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
from keras_moco.optimizers import LARS, SGD  # noqa: E402

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
