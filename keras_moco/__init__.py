"""Momentum Contrast for TensorFlow and Keras 3."""

import os

from keras_moco import former_names  # noqa: F401 (finds modules by their former names)
from keras_moco.command_line.standard_streams import hold_descriptors

hold_descriptors()  # before TensorFlow opens files

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

# All names are imported at once, and with them is registered what `keras.saving.load_model` has to know. train.py and
# evaluate.py set this variable: they answer --help and mistakes before TensorFlow is loaded.
if "KERAS_MOCO_LAZY" not in os.environ:
    from keras_moco.methods import ContrastiveModel, EndToEnd, MemoryBank, MoCo, SimCLR
    from keras_moco.networks import Encoder, linear_head, mlp_head, resnet, simclr_head
    from keras_moco.optimizers import LARS, SGD
else:

    def __getattr__(name):
        if name in __all__:
            from keras_moco import methods, networks, optimizers

            for home in (methods, networks, optimizers):
                if hasattr(home, name):
                    return getattr(home, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
