"""The authors' checkpoints of MoCo, and torchvision's of ResNets, to our models."""

import dataclasses
import numbers

import numpy as np

from keras_moco.convert import files, matching
from keras_moco.convert.architecture import architecture_of, expected_by
from keras_moco.convert.layout import COUNTER, slots
from keras_moco.convert.official import (
    BUFFERS,
    KEY,
    MOCO_NOTES,
    POINTER,
    QUERY,
    QUEUE,
    canonical_tensors,
    check_layout,
    check_moco,
    check_notes,
    counted_batches,
    notes_of,
    part,
    query_tensors,
    queue_slot,
    sgd_of,
    velocity_slots,
)
from keras_moco.errors import UserError
from keras_moco.methods import MoCo, presets
from keras_moco.networks import Encoder
from keras_moco.optimizers import SGD


def from_pytorch(
    path, preset=None, optimizer=None, stem=None, mean=None, std=None, steps=None, allow_partial=False, **settings
):
    """A `MoCo` with the weights of a checkpoint in the layout of the authors' code (`main_moco.py`).

    Architecture, head, `K` and `D` are read from the tensors. What they do not tell (`m`, `T`, mean and standard
    deviation of the images) is taken from where it is given first: the arguments; `preset`; the file, if `to_pytorch`
    wrote it; the published numbers for the stem and head of the file.

    Names may begin with `module.` or not; those of the CIFAR-10 demo (`encoder_q.net.0`) are understood too.

    Args:
        path: path of a `.pth`, `.pth.tar` or `.safetensors` file; nothing of it is run.
        preset: a name of `keras_moco.methods.presets.PRESETS`, which the file has to fit. Defaults to `None`.
        optimizer: `keras_moco.SGD` to go on training with: the model is compiled with it, its velocities and
            iterations are set. Defaults to `None`: the optimizer's tensors are left.
        stem: a name of `keras_moco.networks.STEMS`. Defaults to `None`: a kernel of 7x7 is `"imagenet"`, of 3x3
            `"cifar"`. Give `"half"` for a 3x3 of stride 2, which the file does not tell.
        mean, std: of the images scaled to 0..1, one number or one per channel.
        steps: int, steps trained. Defaults to `None`: what BatchNorm's counters say.
        allow_partial: bool. Warn of leftover tensors and unset weights instead of raising. Defaults to `False`.
        **settings: of `MoCo`.

    Returns:
        `MoCo`. The keys in its queue count as real ones, all of them.

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
    tensors = canonical_tensors(file)
    check_layout(tensors, file.path)
    found, told = _recognise(file, part(tensors, QUERY), preset, stem)
    if preset is None and tensors.get(QUEUE, np.empty(0)).ndim == 2:
        told["queue_size"] = tensors[QUEUE].shape[1]
    method = {name: told[name] for name in ("queue_size", *MOCO_NOTES) if name in told}
    model = MoCo(_build(found, told, mean, std), **{**method, **settings})
    if optimizer is not None:
        model.compile(optimizer=optimizer)
        optimizer.build(model.trainable_variables)
    _load_moco(model, file, tensors, steps, allow_partial, sgd_of(model))
    return model


def encoder_from_pytorch(path, preset=None, stem=None, mean=None, std=None, allow_partial=False):
    """An `Encoder` with the weights of a `state_dict` of torchvision's ResNets, or of a checkpoint's query encoder.

    The classifier `fc` of a supervised network becomes the head. Of a checkpoint of MoCo, key encoder and queue are
    left out.

    Args:
        path, preset, stem, mean, std, allow_partial: as in `from_pytorch`. With `allow_partial` a file without a head
            gives an encoder with a new one, that of MoCo v1.

    Returns:
        `Encoder`.

    Raises:
        ValueError: as `from_pytorch`.
        ImportError: as `from_pytorch`.

    Example:

    ```python
    encoder = encoder_from_pytorch("resnet50-0676ba61.pth")
    backbone = keras_moco.export.standalone_backbone(encoder)  # stock Keras layers, to be fine-tuned
    ```
    """
    file = files.read(path)
    tensors = query_tensors(canonical_tensors(file))
    found, told = _recognise(file, tensors, preset, stem)
    encoder = _build(found, told, mean, std)
    _load_encoder(encoder, file, tensors, allow_partial)
    return encoder


def load_pytorch(model, path, steps=None, with_optimizer=True, allow_partial=False):
    """Puts the weights of a checkpoint into a model that is there already.

    Args:
        model: `MoCo`, or an `Encoder`.
        path, steps, allow_partial: as in `from_pytorch`.
        with_optimizer: bool. Where a `MoCo` is compiled with a built `keras_moco.SGD`, also set its velocities and
            iterations. Defaults to `True`.

    Raises:
        ValueError: as `from_pytorch`, also if the file notes another stem or scaling of the images than the model's;
            nothing of the model has changed then.
        ImportError: as `from_pytorch`.

    Example:

    ```python
    model = keras_moco.methods.presets.moco("moco_v2_resnet50_imagenet", input_shape=(224, 224, 3))
    load_pytorch(model, "moco_v2_800ep_pretrain.pth.tar")
    ```
    """
    file = files.read(path)
    tensors = canonical_tensors(file)
    if isinstance(model, Encoder):
        slots(model)  # refuses what PyTorch has not, before anything is compared
        check_notes(model, file)
        _load_encoder(model, file, query_tensors(tensors), allow_partial)
        return
    check_moco(model)
    check_layout(tensors, file.path)
    slots(model.encoder)
    check_notes(model.encoder, file)
    _load_moco(model, file, tensors, steps, allow_partial, sgd_of(model) if with_optimizer else None)


def _load_encoder(encoder, file, tensors, allow_partial):
    matching.fill(slots(encoder), _without_counters(tensors), file.path, allow_partial)


def _load_moco(model, file, tensors, steps, allow_partial, sgd):
    if not (steps is None or (isinstance(steps, numbers.Integral) and steps >= 0)):
        raise UserError(
            f"`steps` must be a whole number, at least 0. Received: steps={steps!r}. Leave it out, or count."
        )
    if steps is None:
        steps = counted_batches(tensors, file.path) // len(model.directions)
    tensors = _without_counters(tensors)
    row = _pointer(tensors.pop(POINTER, None), model.queue.size, file.path, allow_partial)
    wanted = [*slots(model.query_encoder, QUERY), *slots(model.key_encoder, KEY), queue_slot(model)]
    if sgd and _has_velocities(file, steps, allow_partial):
        names = [name for name in canonical_tensors(file) if not name.endswith(BUFFERS)]
        tensors |= {
            f"{kind} of {names[i] if i < len(names) else f'parameter {i}'}": array
            for (i, kind), array in file.buffers.items()
        }
        wanted += velocity_slots(model, sgd)
    matching.fill(wanted, tensors, file.path, allow_partial)
    model.step.assign(steps)
    if row is not None:
        model.queue.count.assign(model.queue.size + row)
    if sgd:
        sgd.iterations.assign(steps)
        for velocity in [] if file.buffers else sgd.velocities:
            velocity.assign(np.zeros(velocity.shape))


def _has_velocities(file, steps, allow_partial):
    """Whether the optimizer goes on with those of the file; at step 0, or if that is asked for, it starts without."""
    if file.epoch and not steps:
        raise UserError(
            "`steps` must be given where BatchNorm does not count them, or the schedule would begin anew. "
            f"Received: {file.path} of epoch {file.epoch}, whose counters say 0. Give epochs times steps per epoch."
        )
    if steps and not file.buffers and not allow_partial:
        raise UserError(
            "A checkpoint to go on training from must hold the state of its optimizer. "
            f"Received: {file.path} without one. Leave the optimizer out, or start it anew by allow_partial=True."
        )
    return bool(file.buffers)


def _pointer(tensor, size, path, allow_partial):
    """The row that the next key is written to; `None` if the file does not say and need not."""
    if tensor is None and allow_partial:
        return None
    if tensor is None or tensor.size != 1 or tensor.dtype.kind not in "iu" or not 0 <= tensor.item() < size:
        raise UserError(
            f"`queue_ptr` must be one row of the queue, 0 to {size - 1}. "
            f"Received: {path} with {'none' if tensor is None else tensor.tolist()}. Fetch or save the file again."
        )
    return int(tensor.item())


def _recognise(file, tensors, preset, stem):
    """The architecture of a file, and the numbers for it: a dict."""
    notes = notes_of(file)
    found = architecture_of(tensors, file.path, stem or notes.get("stem"))
    if preset is None:
        return found, {**dataclasses.asdict(presets.closest(found.stem, found.head)), **notes}
    chosen = presets.get_preset(preset)
    expected = expected_by(chosen, found)
    if found != expected:
        raise UserError(
            f"The file must hold what the preset names, {expected.describe()}. "
            f"Received: {file.path} with {found.describe()}. Choose the preset that fits, or none."
        )
    return found, dataclasses.asdict(chosen)


def _build(found, told, mean, std):
    return found.build(told["mean"] if mean is None else mean, told["std"] if std is None else std)


def _without_counters(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}
