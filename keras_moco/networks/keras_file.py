"""Reads a model from a `.keras` file."""

from zipfile import BadZipFile

import keras

from keras_moco.errors import UserError
from keras_moco.storage.paths import StrPath, check_file_or_folder, user_path
from keras_moco.trust.keras_file import check_keras_file, limited_weights, nothing_compiled

# What Keras raises of a description that makes no sense depends on where that is.
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, BadZipFile)


def load_keras(path: StrPath) -> keras.Model:
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
