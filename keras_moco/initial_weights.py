"""The weights of another training, for a new run to begin with."""

import functools
from pathlib import Path

from keras_moco.convert import load_pytorch
from keras_moco.errors import UserError
from keras_moco.loading import PYTORCH, load_keras
from keras_moco.models import Encoder
from keras_moco.momentum import copy_weights
from keras_moco.trained_run import load_trained_encoder


def initial_weights(path):
    """Opens the weights of another encoder.

    Args:
        path: the folder of a run (its newest checkpoint), a `.keras` file of an `Encoder`, of a model that has one or
            of an exported backbone (then the head stays fresh), or a checkpoint of PyTorch.

    Returns:
        Function of a built `Encoder`, which copies them into it, BatchNorm statistics included and nothing else, and
        raises `ValueError` if they do not fit.

    Raises:
        ValueError: if there is nothing of the kind.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"`init_from` must exist. Received: {path}. Correct --init_from.")
    if path.name.endswith(PYTORCH):
        return functools.partial(load_pytorch, path=path)
    if path.is_dir():
        return functools.partial(_take_over, load_trained_encoder(path), path)
    if path.suffix != ".keras":
        raise UserError(
            "`init_from` must be the folder of a run, a .keras file, or a .pth, .pth.tar or .safetensors checkpoint. "
            f"Received: {path}. Correct --init_from."
        )
    return functools.partial(_take_over, load_keras(path), path)


def _take_over(source, path, encoder):
    target = encoder if isinstance(source, Encoder) else encoder.backbone
    try:
        copy_weights(source, target)
    except UserError as error:
        raise UserError(
            "`init_from` must be of the same architecture: backbone, width, stem, channels and head. "
            f"Received: {path}, whose weights have other shapes. Correct --init_from, or those settings."
        ) from error
