"""The weights of another training, for a new run to begin with."""

import functools
from types import SimpleNamespace

import keras

from keras_moco.convert import load_pytorch
from keras_moco.errors import UserError
from keras_moco.export.backbone import saved_variables
from keras_moco.networks import Encoder
from keras_moco.networks.weights import copy_weights
from keras_moco.runs.load import is_pytorch, open_model
from keras_moco.storage.paths import check_file_or_folder, user_path


def initial_weights(path, trust_saved_model=False):
    """Opens the weights of another encoder.

    Args:
        path: whatever `evaluate.py --model` takes (`keras_moco.runs.load.load_encoder`), and the folder of a run (its
            newest checkpoint). Of a backbone without a head, such as an exported one, the head stays fresh.
        trust_saved_model: bool, as of `load_backbone`. Defaults to `False`.

    Returns:
        Function of a built `Encoder`, which copies them into it, BatchNorm statistics included and nothing else, and
        raises `ValueError` if they do not fit.

    Raises:
        ValueError: if there is nothing of the kind.
    """
    path = user_path(path)
    if not path.exists():
        raise UserError(f"`init_from` must exist. Received: {path}. Correct --init_from.")
    check_file_or_folder(path)
    if is_pytorch(path):
        # Straight into the encoder: its names say what fits, and notes in it which images it was made for.
        return functools.partial(load_pytorch, path=path)
    return functools.partial(_take_over, open_model(path, trust_saved_model=trust_saved_model), path)


def _take_over(source, path, encoder):
    whole = isinstance(source, Encoder)
    try:
        copy_weights(_in_order(source), encoder if whole else encoder.backbone)
    except UserError as error:
        parts = "backbone, width, stem, channels" + (" and head" if whole else "")
        raise UserError(
            f"`init_from` must be of the same architecture: {parts}. "
            f"Received: {path}, whose weights have other shapes. Correct --init_from, or those settings"
            f"{', or give an exported backbone, which leaves the head fresh' if whole else ''}."
        ) from error


def _in_order(source):
    """The model, or what stands for it: Keras has the weights of a SavedModel in the order in which it uses them."""
    for layer in source.layers:
        if isinstance(layer, keras.layers.TFSMLayer):
            return SimpleNamespace(name=source.name, weights=saved_variables(layer.filepath))
    return source
