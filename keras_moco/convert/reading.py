"""Reads PyTorch checkpoints into our models: the official MoCo's, and torchvision's ResNets."""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_moco.convert import files, matching, official
from keras_moco.convert.architecture import architecture_of, expected_by
from keras_moco.convert.tensor_names import COUNTER, slots
from keras_moco.errors import UserError
from keras_moco.methods import MoCo, presets
from keras_moco.networks import Encoder
from keras_moco.optimizers import SGD
from keras_moco.storage.paths import StrPath


def from_pytorch(
    path: StrPath,
    preset: str | None = None,
    optimizer: SGD | None = None,
    stem: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    steps: int | None = None,
    allow_partial: bool = False,
    **settings: Any,
) -> MoCo:
    """Builds a `MoCo` with the weights of a checkpoint of the official code (`main_moco.py`).

    Architecture, head, `K` and `D` are read from the tensors. Tensors do not show `m`, `T`, mean and standard deviation
    of the images: the first source that has one of them provides it. The sources are, in order, the arguments;
    `preset`; the file, if `to_pytorch` wrote it; the published values for the stem and head of the file.

    Names may have the prefix `module.`, and may be those of the CIFAR-10 demo (`encoder_q.net.0`).

    Args:
        path: path of a `.pth`, `.pth.tar` or `.safetensors` file; nothing in it is run.
        preset: a name of `keras_moco.methods.presets.PRESETS`, which the file must fit. Defaults to `None`.
        optimizer: `keras_moco.SGD` to resume training with. The model is compiled with it, and its velocities and
            iterations are set. Defaults to `None`: the optimizer's tensors are ignored.
        stem: a name of `keras_moco.networks.STEMS`. Defaults to `None`: `"imagenet"` for a kernel of 7x7, `"cifar"` for
            3x3. Pass `"half"` for a 3x3 of stride 2, since the file does not hold the stride.
        mean, std: mean and standard deviation of the images scaled to 0..1, one number or one per channel.
        steps: int, the number of training steps. Defaults to `None`: the value of BatchNorm's counters.
        allow_partial: bool. Warn about unused tensors and unset weights instead of raising. Defaults to `False`.
        **settings: further arguments of `MoCo`.

    Returns:
        `MoCo`. All keys in its queue count as valid.

    Raises:
        ValueError: if the file cannot be read safely, is of another layout or architecture, or does not fit `preset`,
            `settings` or `optimizer`, weight for weight.
        ImportError: if torch is not installed; the message names the extra.

    Example:

    ```python
    model = from_pytorch("moco_v2_800ep_pretrain.pth.tar")
    features = model.encoder.features(images)  # (n, 2048), images (n, 224, 224, 3) in 0..255
    ```
    """
    if not isinstance(optimizer, SGD | None):
        raise UserError(
            "`optimizer` must be a keras_moco.SGD, whose state the authors' checkpoints hold. "
            f"Received: {type(optimizer).__name__}. Compile the model with another optimizer afterwards."
        )
    file = files.read(path)
    tensors = official.canonical_tensors(file)
    official.check_layout(tensors, file.path)
    found, numbers = _recognise(file, official.part(tensors, official.QUERY), preset, stem)
    if preset is None and tensors.get(official.QUEUE, np.empty(0)).ndim == 2:
        numbers["queue_size"] = tensors[official.QUEUE].shape[1]
    method = {name: numbers[name] for name in ("queue_size", *official.MOCO_NOTES) if name in numbers}
    model = MoCo(_build(found, numbers, mean, std), **{**method, **settings})
    if optimizer is not None:
        model.compile(optimizer=optimizer)
        optimizer.build(model.trainable_variables)
    _load_moco(model, file, tensors, steps, allow_partial, official.sgd_of(model))
    return model


def encoder_from_pytorch(
    path: StrPath,
    preset: str | None = None,
    stem: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    allow_partial: bool = False,
) -> Encoder:
    """Builds an `Encoder` with the weights of a torchvision ResNet's `state_dict`, or of a MoCo's query encoder.

    The classifier `fc` of a supervised network becomes the head. Key encoder and queue of a MoCo are skipped.

    Args:
        path, preset, stem, mean, std, allow_partial: as in `from_pytorch`. With `allow_partial`, an encoder whose file
            has no head gets a new head, that of MoCo v1.

    Returns:
        `Encoder`.

    Raises:
        ValueError: as `from_pytorch`.
        ImportError: as `from_pytorch`.

    Example:

    ```python
    encoder = encoder_from_pytorch("resnet50-0676ba61.pth")
    backbone = keras_moco.export.standalone_backbone(encoder)  # stock Keras layers, for fine-tuning
    ```
    """
    file = files.read(path)
    tensors = official.query_tensors(official.canonical_tensors(file))
    found, numbers = _recognise(file, tensors, preset, stem)
    encoder = _build(found, numbers, mean, std)
    _load_encoder(encoder, file, tensors, allow_partial)
    return encoder


def load_pytorch(
    model: MoCo | Encoder,
    path: StrPath,
    steps: int | None = None,
    with_optimizer: bool = True,
    allow_partial: bool = False,
) -> None:
    """Loads the weights of a checkpoint into an existing model.

    Args:
        model: `MoCo` or `Encoder`.
        path, steps, allow_partial: as in `from_pytorch`.
        with_optimizer: bool. If a `MoCo` is compiled with a built `keras_moco.SGD`, also set its velocities and
            iterations. Defaults to `True`.

    Raises:
        ValueError: as `from_pytorch`; also if the file notes another stem or scaling of the images than the model's.
            The model has not changed then.
        ImportError: as `from_pytorch`.

    Example:

    ```python
    model = keras_moco.methods.presets.moco("moco_v2_resnet50_imagenet", input_shape=(224, 224, 3))
    load_pytorch(model, "moco_v2_800ep_pretrain.pth.tar")
    ```
    """
    file = files.read(path)
    tensors = official.canonical_tensors(file)
    if isinstance(model, Encoder):
        slots(model)  # refuses other encoders, before anything is compared
        official.check_notes(model, file)
        _load_encoder(model, file, official.query_tensors(tensors), allow_partial)
        return
    official.check_moco(model)
    official.check_layout(tensors, file.path)
    slots(model.encoder)
    official.check_notes(model.encoder, file)
    _load_moco(model, file, tensors, steps, allow_partial, official.sgd_of(model) if with_optimizer else None)


def _load_encoder(encoder, file, tensors, allow_partial):
    matching.fill(slots(encoder), _without_counters(tensors), file.path, allow_partial)


def _load_moco(model, file, tensors, steps, allow_partial, sgd):
    if not (steps is None or (isinstance(steps, numbers.Integral) and steps >= 0)):
        raise UserError(
            f"`steps` must be a whole number, at least 0. Received: steps={steps!r}. Correct it, or omit it."
        )
    if steps is None:
        steps = official.counted_batches(tensors, file.path) // len(model.directions)
    tensors = _without_counters(tensors)
    row = _pointer(tensors.pop(official.POINTER, None), model.queue.size, file.path, allow_partial)
    wanted = [
        *slots(model.query_encoder, official.QUERY),
        *slots(model.key_encoder, official.KEY),
        official.queue_slot(model),
    ]
    if sgd and _has_velocities(file, steps, allow_partial):
        names = [name for name in official.canonical_tensors(file) if not name.endswith(official.BUFFERS)]
        tensors |= {
            f"{kind} of {names[i] if i < len(names) else f'parameter {i}'}": array
            for (i, kind), array in file.buffers.items()
        }
        wanted += official.velocity_slots(model, sgd)
    matching.fill(wanted, tensors, file.path, allow_partial)
    model.step.assign(steps)
    if row is not None:
        model.queue.count.assign(model.queue.size + row)
    if sgd:
        sgd.iterations.assign(steps)
        for velocity in [] if file.buffers else sgd.velocities:
            velocity.assign(np.zeros(velocity.shape))


def _has_velocities(file, steps, allow_partial):
    """Whether the optimizer takes the velocities of the file; at step 0, and with `allow_partial`, none are needed."""
    if file.epoch and not steps:
        raise UserError(
            "`steps` must be given where BatchNorm's counters are 0, or the schedule would start again. "
            f"Received: {file.path} of epoch {file.epoch}, whose counters are 0. Pass epochs times steps per epoch."
        )
    if steps and not file.buffers and not allow_partial:
        raise UserError(
            "A checkpoint to resume training from must hold the state of its optimizer. "
            f"Received: {file.path} without it. Omit the optimizer, or reset its state by allow_partial=True."
        )
    return bool(file.buffers)


def _pointer(tensor, size, path, allow_partial):
    """The row of the queue where the next key goes; `None` if the file has none and `allow_partial` permits it."""
    if tensor is None and allow_partial:
        return None
    if tensor is None or tensor.size != 1 or tensor.dtype.kind not in "iu" or not 0 <= tensor.item() < size:
        raise UserError(
            f"`queue_ptr` must be one row of the queue, 0 to {size - 1}. "
            f"Received: {path} with {'none' if tensor is None else tensor.tolist()}. Download or save the file again."
        )
    return int(tensor.item())


def _recognise(file, tensors, preset, stem):
    """`(architecture, numbers)` of a file; the numbers are a dict of what tensors do not show."""
    notes = official.notes_of(file)
    found = architecture_of(tensors, file.path, stem or notes.get("stem"))
    if preset is None:
        return found, {**dataclasses.asdict(presets.closest(found.stem, found.head)), **notes}
    chosen = presets.get_preset(preset)
    expected = expected_by(chosen, found)
    if found != expected:
        raise UserError(
            f"The file must hold the network of the preset, {expected.describe()}. "
            f"Received: {file.path} with {found.describe()}. Choose the preset that fits, or none."
        )
    return found, dataclasses.asdict(chosen)


def _build(found, numbers, mean, std):
    return found.build(numbers["mean"] if mean is None else mean, numbers["std"] if std is None else std)


def _without_counters(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}
