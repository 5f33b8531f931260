"""Assigns tensors to weights by name: all of them, or none where a tensor or a weight has no match."""

import warnings

import numpy as np

from keras_moco.errors import UserError


def fill(slots, tensors, path, allow_partial=False):
    """Assigns every tensor to the weight of its name.

    Args:
        slots: list of `Slot`.
        tensors: dict of names to arrays.
        path: path of the file, for messages.
        allow_partial: bool. Assign what fits, and warn about the rest.

    Raises:
        ValueError: if a tensor has no weight, a weight has no tensor, their shapes differ, or a tensor has more
            precision than its weight. No weight has changed then.
    """
    slots = {slot.name: slot for slot in slots}
    fitting = {name for name in slots if name in tensors and tensors[name].shape == slots[name].shape}
    unused = [f"- {name} {_shape(tensor.shape)}" for name, tensor in tensors.items() if name not in fitting]
    unset = [f"+ {name} {_shape(slot.shape)}" for name, slot in slots.items() if name not in fitting]
    if unused or unset:
        difference = "\n  ".join([f"Received: {path}, unmatched (- in the file, + in the model):", *unused, *unset])
        if not allow_partial:
            raise UserError(
                "Every tensor of the file must have its weight in the model, and every weight its tensor. "
                f"{difference}\n  Choose the model that fits, or skip them by allow_partial=True (--allow_partial)."
            )
        warnings.warn(f"Only part of the weights was converted. {difference}", stacklevel=4)
    values = [(slots[name].variable, _converted(slots[name], tensors[name], path)) for name in slots if name in fitting]
    for variable, value in values:
        variable.assign(value)


def _converted(slot, tensor, path):
    """The value in the precision of the model, which must represent it exactly."""
    dtype = np.dtype(slot.variable.dtype)
    if not _fits(tensor, dtype):
        policy = f", or build the model under keras.config.set_dtype_policy({tensor.dtype.name!r})"
        raise UserError(
            f"Tensors must be exact in {dtype.name}, the precision of the model. "
            f"Received: {path} with {slot.name} of {tensor.dtype}. Save them as {dtype.name}"
            f"{policy if tensor.dtype.kind == 'f' else ''}."
        )
    return slot.from_torch(tensor.astype(dtype))


def _fits(tensor, dtype):
    if tensor.dtype.kind not in "fiu":
        return False
    with np.errstate(all="ignore"):
        back = tensor.astype(dtype).astype(tensor.dtype)
    return np.array_equal(back, tensor, equal_nan=tensor.dtype.kind == "f")


def _shape(shape):
    return f"({', '.join(map(str, shape))})"
