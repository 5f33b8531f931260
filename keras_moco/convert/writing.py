"""Writes our models as PyTorch checkpoints: in the official MoCo's layout, or torchvision's."""

from pathlib import Path

import numpy as np

from keras_moco.convert import files, official
from keras_moco.convert.tensor_names import state_dict
from keras_moco.methods.moco import MoCo
from keras_moco.networks import Encoder
from keras_moco.storage.paths import StrPath


def to_pytorch(model: MoCo | Encoder, path: StrPath, epoch: int = 0, overwrite: bool = False) -> Path:
    """Writes a model in the layout of the official code, or an encoder in torchvision's.

    A `MoCo` becomes a checkpoint for `main_moco.py --resume`: `epoch`, `arch`, and a `state_dict` with
    `module.encoder_q.*`, `module.encoder_k.*`, `module.queue` and `module.queue_ptr`. If the model is compiled with a
    built `keras_moco.SGD`, its state is the `optimizer`, as of `torch.optim.SGD`. The entry `keras_moco` holds the
    settings that tensors do not show. BatchNorm's counters are the number of training steps, times the views of a
    symmetric step.

    An `Encoder` becomes a bare `state_dict` for `torchvision.models.resnet50(num_classes=D).load_state_dict`. Stem,
    mean and standard deviation are noted only in a `.safetensors` file. BatchNorm's counters are 0.

    Args:
        model: `MoCo` or `Encoder`, with a `keras_moco.networks.resnet` and a linear or MLP head.
        path: path of the file. One that ends in `.safetensors` holds no optimizer.
        epoch: int, the number of finished epochs, after which the official code resumes. Defaults to `0`.
        overwrite: bool. Replace an existing file. Defaults to `False`.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if the model has layers that PyTorch's ResNet does not have, or the file exists.
        ImportError: if torch is not installed; the message names the extra.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_moco.methods import presets
    >>> from keras_moco.convert import encoder_from_pytorch
    >>> encoder = presets.moco("moco_v1_resnet18_cifar10", queue_size=16).encoder
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = to_pytorch(encoder, pathlib.Path(folder.name) / "resnet18.safetensors")
    >>> list(files.read(path).tensors)[:2], encoder_from_pytorch(path).embedding_dim
    (['bn1.bias', 'bn1.num_batches_tracked'], 128)
    >>> folder.cleanup()
    """
    if isinstance(model, Encoder):
        tensors = state_dict(model, 0)
        return files.write(
            path, tensors, bare=True, overwrite=overwrite, **{files.SETTINGS: official.encoder_notes(model)}
        )
    official.check_moco(model)
    counted = model.steps_done * len(model.directions)
    tensors = {
        official.WRAPPER + official.QUEUE: official.queue_slot(model).to_torch(),
        official.WRAPPER + official.POINTER: np.array([int(model.queue.pointer)], "int64"),
        **state_dict(model.query_encoder, counted, official.WRAPPER + official.QUERY),
        **state_dict(model.key_encoder, counted, official.WRAPPER + official.KEY),
    }
    sgd = official.sgd_of(model)
    velocities = [slot.to_torch() for slot in official.velocity_slots(model, sgd)] if sgd else []
    return files.write(
        path,
        tensors,
        # The official code gives its optimizer both encoders; the key encoder's parameters never get a gradient.
        velocities=[*velocities, *[None] * len(velocities)],
        optimizer=_hyperparameters(sgd) if sgd else None,
        overwrite=overwrite,
        epoch=epoch,
        arch=model.encoder.backbone.name,
        **{files.SETTINGS: {**_moco_notes(model), **official.encoder_notes(model.encoder)}},
    )


def _hyperparameters(sgd):
    return {
        "lr": float(str(np.float32(sgd.learning_rate))),  # 0.03 and not 0.029999999329
        "momentum": sgd.momentum,
        "weight_decay": sgd.coupled_weight_decay,
        "nesterov": sgd.nesterov,
    }


def _moco_notes(model):
    """The settings of a `MoCo` that tensors do not show, as plain values."""
    config = {name: kind(model.get_config()[name]) for name, kind in official.MOCO_NOTES.items() if name != "momentum"}
    return config if callable(model.momentum) else {**config, "momentum": float(model.momentum)}
