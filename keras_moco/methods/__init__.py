"""The pre-training methods, the training step that they share, and the registry of `--method`."""

import dataclasses

from keras_moco.config import Config
from keras_moco.errors import UserError
from keras_moco.methods.base import InBatch, Method
from keras_moco.methods.contrastive_model import ContrastiveModel
from keras_moco.methods.end_to_end import EndToEnd, EndToEndMethod
from keras_moco.methods.losses import Contrast
from keras_moco.methods.memory_bank import MemoryBank, MemoryBankMethod
from keras_moco.methods.moco import MoCo, MoCoMethod, momentum_update
from keras_moco.methods.simclr import SimCLR, SimCLRMethod

__all__ = [
    "METHODS",
    "Contrast",
    "ContrastiveModel",
    "EndToEnd",
    "InBatch",
    "MemoryBank",
    "Method",
    "MoCo",
    "SimCLR",
    "get_method",
    "momentum_update",
]

METHODS = {
    "moco": MoCoMethod(),
    "end_to_end": EndToEndMethod(),
    "memory_bank": MemoryBankMethod(),
    "simclr": SimCLRMethod(),
}


def get_method(config: Config) -> Method:
    """The `Method` that a configuration names.

    Raises:
        ValueError: for an unknown name, or for settings that only other methods use.
    """
    if config.method not in METHODS:
        raise UserError(
            f"`method` must be one of {', '.join(METHODS)}. Received: {config.method!r}. Choose one of them."
        )
    for name in config.changed():
        users = [method for method in METHODS if name in settings_of(method)]
        if users and config.method not in users:
            raise UserError(
                f"`{name}` must not be given with method={config.method}, which does not use it. "
                f"Received: {name}={getattr(config, name)}. Omit --{name}, or choose --method={users[0]}."
            )
    return METHODS[config.method]


def settings_of(method):
    """Names of the fields of `Config` that a method uses and others do not: a list."""
    # Also those of a method that it is derived from.
    names = {name for name, other in METHODS.items() if isinstance(METHODS[method], type(other))}
    declared = [field.name for field in dataclasses.fields(Config) if names.intersection(field.metadata["used_by"])]
    return [*declared, *METHODS[method].settings]
