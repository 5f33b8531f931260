"""The parts of a checkpoint of the official MoCo code, and the state of a `MoCo` that each part holds."""

import warnings
from typing import Any

import keras
import numpy as np

from keras_moco.convert.tensor_names import COUNTER, Slot, canonical, slots
from keras_moco.errors import UserError
from keras_moco.methods import MoCo
from keras_moco.networks import STEMS
from keras_moco.optimizers import SGD

# Names in the official `moco/builder.py`.
QUERY, KEY, QUEUE, POINTER = "encoder_q.", "encoder_k.", "queue", "queue_ptr"
WRAPPER = "module."  # the prefix by `DistributedDataParallel` in the authors' checkpoints
BUFFERS = ("running_mean", "running_var", COUNTER, QUEUE, POINTER)
# The stem by kernel and stride of the first convolution.
STEM_OF = {(7, 2): "imagenet", (3, 1): "cifar", (3, 2): "half"}
# Settings that `to_pytorch` notes beside the tensors, and their types.
ENCODER_NOTES = {"stem": str, "mean": list, "std": list}
MOCO_NOTES = {"momentum": float, "temperature": float, "symmetric": bool, "bn_mode": str, "bn_splits": int, "seed": int}


def canonical_tensors(file):
    """The tensors of a `TorchFile`, by names that are the same in all supported layouts."""
    tensors = {canonical(name): tensor for name, tensor in file.tensors.items()}
    if len(tensors) < len(file.tensors):
        names = [canonical(name) for name in file.tensors]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(
            "Every weight must have one tensor. "
            f"Received: {file.path} with {', '.join(twice)} twice, with a wrapper's prefix and without. Save one."
        )
    return tensors


def encoder_notes(encoder):
    """The settings of an encoder that tensors do not show: stem, mean and standard deviation, as plain values."""
    convolution = encoder.backbone.get_layer("conv1")
    stem = STEM_OF.get((convolution.kernel_size[0], convolution.strides[0]), "unknown")
    return {"stem": stem, "mean": [*encoder.mean], "std": [*encoder.std]}


def check_notes(encoder, file):
    """Refuses weights that were trained with another stem, or with images scaled otherwise."""
    noted, ours = notes_of(file), encoder_notes(encoder)
    other = [f"{name} {noted[name]} and not {ours[name]}" for name in ours if noted.get(name, ours[name]) != ours[name]]
    if other:
        raise UserError(
            "The model must have the stem, and scale the images, as the one whose weights these are. "
            f"Received: {file.path}, which notes {', '.join(other)}. Build the model with these."
        )


def notes_of(file):
    """The settings that `to_pytorch` noted in a `TorchFile`; a value of another type was not written by it."""
    kinds = {**ENCODER_NOTES, **MOCO_NOTES}
    notes: dict[str, Any] = {name: value for name, value in file.settings.items() if type(value) is kinds.get(name)}
    wrong = [name for name in ("mean", "std") if not all(type(number) is float for number in notes.get(name, []))]
    wrong += ["stem"] if notes.get("stem") not in STEMS else []
    return {name: value for name, value in notes.items() if name not in wrong}


def check_layout(tensors, path):
    if not (part(tensors, QUERY) and part(tensors, KEY)):
        prefixes = ", ".join(sorted({name.partition(".")[0] for name in tensors})[:5])
        raise UserError(
            "A checkpoint of MoCo must hold encoder_q, encoder_k, queue and queue_ptr. "
            f"Received: {path} with {prefixes}. Use encoder_from_pytorch for an encoder alone."
        )


def part(tensors, prefix):
    """The tensors whose name has a prefix, by the rest of the name."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def query_tensors(tensors):
    """The query encoder's tensors of a checkpoint of MoCo; all tensors of any other file."""
    return part(tensors, QUERY) or tensors


def counted_batches(tensors, path):
    """The value of BatchNorm's counters, int: 0 in files without counters, as those of the CIFAR-10 demo."""
    counted = sorted({int(np.max(tensors[name], initial=0)) for name in tensors if name.endswith(COUNTER)} or {0})
    if len(counted) > 1:
        warnings.warn(
            f"BatchNorm's counters in {path} differ, from {counted[0]} to {counted[-1]}: the largest is used as "
            "the number of training steps.",
            stacklevel=4,
        )
    return counted[-1]


def queue_slot(model):
    return Slot(QUEUE, model.queue.features, (1, 0))  # PyTorch's keys are columns


def velocity_slots(model, sgd):
    """The momentum buffers in the order of the query encoder's parameters."""
    return [
        Slot(f"momentum_buffer of {slot.name}", sgd.velocity_of(slot.variable), slot.axes)
        for slot in slots(model.query_encoder, QUERY)
        if not slot.name.endswith(BUFFERS)
    ]


def sgd_of(model):
    """The model's optimizer if it is a built `keras_moco.SGD`, whose state PyTorch's SGD has too; else `None`."""
    optimizer = getattr(model, "optimizer", None)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer if isinstance(optimizer, SGD) and optimizer.built else None


def check_moco(model):
    if not isinstance(model, MoCo):
        raise UserError(
            "`model` must be a MoCo or an Encoder, since the authors' layout has no other models. "
            f"Received: {type(model).__name__}. Pass model.encoder, the trained encoder."
        )
