"""What was learnt, from wherever it lies, as a Keras model to build on."""

import zipfile

import keras

from keras_moco.convert import encoder_from_pytorch
from keras_moco.errors import UserError
from keras_moco.export.backbone import KERAS_FILE, SAVED_MODEL, standalone_backbone
from keras_moco.networks import Encoder
from keras_moco.runs.trained import is_run, load_trained_encoder
from keras_moco.storage.paths import check_file_or_folder, user_path
from keras_moco.trust.keras_file import check_keras_file, limited_weights, nothing_compiled
from keras_moco.trust.saved_model import check_saved_model

__all__ = ["load_backbone", "load_encoder", "load_keras"]

PYTORCH = (".pth", ".tar", ".pt", ".safetensors")
SAVED_MODEL_FILE = "saved_model.pb"
# What Keras raises of a description that makes no sense depends on where that is.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    zipfile.BadZipFile,
)
FORMS = "the folder of a run, a .keras file, the folder of a SavedModel, or a .pth, .pth.tar or .safetensors checkpoint"


def load_backbone(path, data_dir=None, checkpoint="newest", trust_saved_model=False):
    """A pre-trained backbone, ready for inference, linear evaluation or fine-tuning.

    Args:
        path: the folder of a run of train.py, a `.keras` file (an exported backbone, an
            `Encoder`, or a model that has one), an exported SavedModel, the folder of an export, or a checkpoint of
            PyTorch.
        data_dir: path, where tfds data sets lie now; of a run whose flagfile does not say the size of its data.
        checkpoint: of a run, `"newest"`, `"best"` (by kNN, of those kept), or the number of a step, int or str.
        trust_saved_model: bool. Open a SavedModel, which is a program: one that writes files or calls Python is refused
            all the same. Defaults to `False`. Other forms need no trust (docs/trust.md).

    Returns:
        A trainable float32 `keras.Model` from images `(n, H, W, C)` in 0..255 to features `(n, F)`. It is one flat
        model of stock layers, whose stages can be frozen by the names of their layers; that of a SavedModel is a single
        `keras.layers.TFSMLayer`.

    Raises:
        ValueError: if there is nothing of the kind.

    Example:

    ```python
    backbone = load_backbone("runs/imagenet")
    for layer in backbone.layers:
        layer.trainable = layer.name.startswith(("layer3", "layer4"))
    classifier = keras.Sequential([backbone, keras.layers.Dense(10)])
    ```
    """
    encoder = load_encoder(path, data_dir, checkpoint, trust_saved_model)
    return standalone_backbone(encoder) if isinstance(encoder, Encoder) else encoder


def load_encoder(path, data_dir=None, checkpoint="newest", trust_saved_model=False):
    """As `load_backbone`, but with the head where there is one.

    Returns:
        An `Encoder`, or the backbone as `load_backbone` gives it.

    Raises:
        ValueError: if there is nothing of the kind.
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
    """As `load_encoder`, but with whatever outputs it has: what there is to take weights from.

    Raises:
        ValueError: if there is nothing of the kind.
    """
    path = user_path(path)
    if not path.exists():
        raise UserError(f"A backbone must exist. Received: {path}. Give {FORMS}.")
    check_file_or_folder(path)
    if is_run(path):  # whose checkpoints are meant, and no export that somebody has put beside them
        return load_trained_encoder(path, data_dir, checkpoint)
    if is_pytorch(path):
        return encoder_from_pytorch(path)
    for name in (KERAS_FILE, SAVED_MODEL):  # of the folder of an export
        if (path / name).exists():
            path = path / name
            break
    if (path / SAVED_MODEL_FILE).exists():
        check_saved_model(path, trust_saved_model)
        return _from_saved_model(path)
    if path.is_dir():
        return load_trained_encoder(path, data_dir, checkpoint)
    if path.suffix != ".keras":
        raise UserError(f"A backbone must be {FORMS}. Received: {path}. Give one of these.")
    return load_keras(path)


def is_pytorch(path):
    """Whether a path is that of a checkpoint of PyTorch, by its name."""
    return user_path(path).name.endswith(PYTORCH)


def load_keras(path):
    """The model of a `.keras` file, or the encoder that it has; nothing but what it describes is built.

    It is not compiled. Layers may be Keras's, this package's, and those that the program has registered
    (`keras.saving.register_keras_serializable`); a file with a `Lambda`, a `TFSMLayer` or other code is refused.

    Raises:
        ValueError: if it is no such file.
    """
    path = user_path(path)
    if path.exists():
        check_file_or_folder(path)
    if not path.is_file():  # of a folder Keras would load what is in it
        raise UserError(f"A .keras file must be an existing file. Received: {path}. Give the path of one.")
    if not str(path).endswith(".keras"):  # by the name Keras decides how to read it
        raise UserError(f"A .keras file must be named so. Received: {path}. Rename it if it is one.")
    limit = check_keras_file(path)
    try:
        with limited_weights(limit, path), nothing_compiled():
            model = keras.models.load_model(path, compile=False, safe_mode=True)
    except UserError:
        raise
    except UNREADABLE as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]  # others repeat the whole description
        raise UserError(
            f"A .keras file must be one of Keras's. Received: {path}, and Keras says: {said}. Export it again."
        ) from error
    return getattr(model, "encoder", model)


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
