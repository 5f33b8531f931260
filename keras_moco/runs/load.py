"""Loads a pre-trained model in whatever form it is stored, as a Keras model to build on."""

import dataclasses
import functools
from types import SimpleNamespace

import keras

from keras_moco import distribution
from keras_moco.checks.ranges import value_limits
from keras_moco.convert import encoder_from_pytorch, load_pytorch
from keras_moco.errors import UserError
from keras_moco.export.backbone import KERAS_FILE, SAVED_MODEL
from keras_moco.export.saved_model import saved_variables
from keras_moco.export.standalone import features_model
from keras_moco.networks import Encoder
from keras_moco.networks.keras_file import load_keras
from keras_moco.networks.weights import copy_weights
from keras_moco.runs.build import build_encoder, build_model, open_split, plan_of, precision
from keras_moco.runs.checkpoint_index import find_step, is_saved
from keras_moco.runs.checkpoints import restore, restore_encoder
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.hub import fetched
from keras_moco.storage.paths import StrPath, check_file_or_folder
from keras_moco.trust.saved_model import check_saved_model

__all__ = ["load_backbone", "load_encoder", "load_keras"]

FORMS = (
    "the folder of a run, a .keras file, the folder of a SavedModel, hf://user/name, or a .pth, .pth.tar or "
    ".safetensors checkpoint"
)
PYTORCH = (".pth", ".tar", ".pt", ".safetensors")
SAVED_MODEL_FILE = "saved_model.pb"


def load_backbone(
    path: StrPath, data_dir: StrPath | None = None, checkpoint: str | int = "newest", trust_saved_model: bool = False
) -> keras.Model:
    """A pre-trained backbone, ready for inference, linear evaluation or fine-tuning.

    Args:
        path: the folder of a run of train.py, a `.keras` file (an exported backbone, an
            `Encoder`, or a model that has one), an exported SavedModel, the folder of an export, a checkpoint of
            PyTorch, or `"hf://user/name"`, a model of the Hugging Face Hub with a file `backbone.keras`.
        data_dir: path, where tfds data sets are now; for a run whose flagfile does not say the size of its data.
        checkpoint: of a run, `"newest"`, `"best"` (by kNN, of those kept), or the number of a step, int or str.
        trust_saved_model: bool. Open a SavedModel, which is a program: one that writes files or calls Python is refused
            all the same. Defaults to `False`. Other forms need no trust (docs/trust.md).

    Returns:
        A trainable float32 `keras.Model` from images `(n, H, W, C)` in 0..255 to features `(n, F)`; of a run whose
        `value_range` is other numbers, from images with the values of their files. It is one flat
        model of stock layers, whose stages can be frozen by the names of their layers; that of a SavedModel is a single
        `keras.layers.TFSMLayer`, and that of a run whose backbone has layers of another library is nested.

    Raises:
        ValueError: if no pre-trained model is stored there.

    Example:

    ```python
    backbone = load_backbone("runs/imagenet")
    for layer in backbone.layers:
        layer.trainable = layer.name.startswith(("layer3", "layer4"))
    classifier = keras.Sequential([backbone, keras.layers.Dense(10)])
    ```
    """
    encoder = load_encoder(path, data_dir, checkpoint, trust_saved_model)
    if not isinstance(encoder, Encoder):
        return encoder
    run = RunDirectory(path)
    return features_model(encoder, value_limits(run.config().value_range) if run.flagfile.is_file() else None)


def load_encoder(
    path: StrPath, data_dir: StrPath | None = None, checkpoint: str | int = "newest", trust_saved_model: bool = False
) -> keras.Model:
    """As `load_backbone`, but with the head where there is one.

    Returns:
        An `Encoder`, or the backbone as `load_backbone` gives it.

    Raises:
        ValueError: as `load_backbone`.
    """
    model = open_model(path, data_dir, checkpoint, trust_saved_model)
    shape = getattr(model, "output_shape", None)  # which a subclass of `keras.Model` need not have
    if isinstance(model, Encoder) or isinstance(shape, tuple) and len(shape) == 2:
        return model
    raise UserError(
        "A backbone must give one vector of features for each image, (n, F). "
        f"Received: {path} with outputs {shape}. Make a functional model of it, pooled over height and width."
    )


def open_model(path, data_dir=None, checkpoint="newest", trust_saved_model=False):
    """As `load_encoder`, but with whatever outputs the model has. Here it is decided which form a path has.

    Raises:
        ValueError: as `load_backbone`.
    """
    path = fetched(path)
    if not path.exists():
        raise UserError(f"A backbone must exist. Received: {path}. Give {FORMS}.")
    check_file_or_folder(path)
    if is_run(path):  # its checkpoints are meant, and no export that somebody has put beside them
        return open_trained_encoder(path, data_dir, checkpoint)[0]
    if _is_pytorch(path):
        return encoder_from_pytorch(path)
    for name in (KERAS_FILE, SAVED_MODEL):  # in the folder of an export
        if (path / name).exists():
            path = path / name
            break
    if (path / SAVED_MODEL_FILE).exists():
        check_saved_model(path, trust_saved_model)
        return _from_saved_model(path)
    if path.is_dir():
        return open_trained_encoder(path, data_dir, checkpoint)[0]
    if path.suffix != ".keras":
        raise UserError(f"A backbone must be {FORMS}. Received: {path}. Give one of these.")
    return load_keras(path)


def initial_weights(path, trust_saved_model=False):
    """Opens the weights that a new run begins with.

    Args:
        path: any form that `load_backbone` takes; of a run its newest checkpoint. Of a backbone without a head, such as
            an exported one, the head stays fresh.
        trust_saved_model: bool, as of `load_backbone`. Defaults to `False`.

    Returns:
        Function of a built `Encoder`, which copies them into it, BatchNorm statistics included and nothing else, and
        raises `ValueError` if they do not fit.

    Raises:
        ValueError: as `load_backbone`.
    """
    path = fetched(path)
    if not path.exists():
        raise UserError(f"`init_from` must exist. Received: {path}. Correct --init_from.")
    check_file_or_folder(path)
    if _is_pytorch(path):
        # Straight into the encoder: its names say what fits, and the file which images it was trained on.
        return functools.partial(load_pytorch, path=path)
    return functools.partial(_copy_into, open_model(path, trust_saved_model=trust_saved_model), path)


def _copy_into(source, path, encoder):
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


# One form each


def load_model(workdir, data_dir=None, checkpoint="newest"):
    """The model of a checkpoint of a run, with its optimizer; needs no data if the flagfile says its size.

    Args:
        workdir: path of the run's folder.
        data_dir, checkpoint: as of `load_backbone`.

    Returns:
        `(Plan, model)`.

    Raises:
        ValueError: if there is no run, or it has no such checkpoint.
    """
    run, config, step = _open_run(workdir, data_dir, checkpoint)
    # The replicas of its training; here it runs on one, where nothing is trained and BatchNorm uses moving statistics.
    plan = plan_of(config, run.results.read().get("replicas", 1))
    model = build_model(plan, distribution.make_strategy("one"))
    restore(model, run.checkpoints, step=step)
    return plan, model


def open_trained_encoder(workdir, data_dir=None, checkpoint="newest"):
    """As `load_model`, but the encoder alone, with the number of steps that it was trained: `(Encoder, int)`.

    Neither key encoder nor queue, bank or optimizer are made, which are most of a checkpoint.
    """
    run, config, step = _open_run(workdir, data_dir, checkpoint)
    channels = config.channels or open_split(config, "train").image_shape[-1]
    with precision(config.precision):
        encoder = build_encoder(config, channels)
    return encoder, restore_encoder(encoder, run.checkpoints, step=step).step


def is_run(path):
    """Whether a folder is that of a run of train.py which has a checkpoint, whatever else is in it."""
    run = RunDirectory(path)
    return run.flagfile.is_file() and is_saved(run.checkpoints)


def _open_run(workdir, data_dir, checkpoint):
    """`(RunDirectory, Config, step)`: the step is that of the checkpoint that is asked for."""
    run = RunDirectory(workdir)
    config = run.config()
    config = dataclasses.replace(config, data_dir=data_dir or config.data_dir)
    if not is_saved(run.checkpoints):
        raise UserError(
            f"`workdir` must hold a checkpoint. Received: {run.path} without one. Train with pretrain first."
        )
    return run, config, find_step(run.checkpoints, checkpoint)


def _is_pytorch(path):
    return path.name.endswith(PYTORCH)


def _from_saved_model(path):
    try:
        layer = keras.layers.TFSMLayer(str(path), call_endpoint="serve", call_training_endpoint="train", trainable=True)
        (images,) = layer.call_endpoint_fn.input_signature
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            "A SavedModel must have the endpoints `serve` and `train`, as this package exports it. "
            f"Received: {path}, and Keras says: {error}. Export it again."
        ) from error
    return keras.Sequential([keras.Input(images.shape[1:], name="images"), layer], name="backbone")
