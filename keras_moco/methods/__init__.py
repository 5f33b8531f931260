"""The methods that a run can use: which settings are theirs, what must hold for them, and the model they make."""

from keras_moco.errors import UserError
from keras_moco.methods.base import Method
from keras_moco.methods.end_to_end import EndToEndContrast
from keras_moco.methods.in_batch import InBatch
from keras_moco.methods.memory_bank import BankContrast
from keras_moco.methods.moco import MomentumContrast
from keras_moco.methods.simclr import SimpleContrast

__all__ = ["METHODS", "InBatch", "Method", "get_method"]

METHODS = {
    "moco": MomentumContrast(),
    "end_to_end": EndToEndContrast(),
    "memory_bank": BankContrast(),
    "simclr": SimpleContrast(),
}


def get_method(config):
    """The `Method` that a configuration names.

    Raises:
        ValueError: for an unknown name, or settings that only other methods have a use for.
    """
    if config.method not in METHODS:
        raise UserError(
            f"`method` must be one of {', '.join(METHODS)}. Received: {config.method!r}. Choose one of them."
        )
    method = METHODS[config.method]
    for name in config.changed():
        owners = [owner for owner, other in METHODS.items() if name in other.settings]
        if owners and config.method not in owners:
            raise UserError(
                f"`{name}` must not be given with method={config.method}, which has no use for it. "
                f"Received: {name}={getattr(config, name)}. Leave out --{name}, or choose --method={owners[0]}."
            )
    return method
