"""Models of the Hugging Face Hub, `hf://user/name`; needs the extra `huggingface`."""

import importlib
import os
from pathlib import Path

from keras_moco.errors import MissingPackageError, UserError
from keras_moco.export.backbone import KERAS_FILE
from keras_moco.storage.paths import user_path

PREFIX = "hf://"  # as for `keras.saving.load_model`


def fetched(path):
    """A path as `user_path` returns it; of a model of the Hub, the folder to which it is downloaded.

    Only its `backbone.keras` is downloaded, which is checked like any other such file. huggingface_hub keeps it in its
    cache, and takes it from there if there is no network.

    Args:
        path: path, or `"hf://user/name"`.

    Raises:
        ValueError: if huggingface_hub is not installed, or there is no such model.
    """
    text = os.fspath(path)
    if not text.startswith(PREFIX):
        return user_path(path)
    name = text.removeprefix(PREFIX)
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingPackageError(
            f"huggingface_hub must be installed to download a model. Received: {text}, and {error}. "
            "Run pip install 'keras_moco[huggingface]'."
        ) from error
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=[KERAS_FILE]))
    except Exception as error:  # its own errors, and those of the packages by which it downloads
        said = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            "A model of the Hugging Face Hub must be one that can be downloaded. "
            f"Received: {text}, and huggingface_hub says: {said}. Correct the name, log in by `hf auth login`, or give "
            "the folder of a copy."
        ) from error
    if not (folder / KERAS_FILE).exists():
        raise UserError(
            f"A model of the Hugging Face Hub must have a file {KERAS_FILE}. Received: {text}, without one. "
            "Load it with keras.saving.load_model, and give the file that its `save` writes."
        )
    return folder
