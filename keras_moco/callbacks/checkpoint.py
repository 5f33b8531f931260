"""Checkpoints of the complete state: written whole or not at all."""

import hashlib
import os
import warnings
from pathlib import Path

import h5py
import keras

FILE = "latest.weights.h5"
_DIGEST = "keras_moco_sha256"


class Checkpoint(keras.callbacks.Callback):
    """Saves the complete state of the model at the end of every epoch.

    Encoders, queue, optimizer, step and learning rate all are in `directory/latest.weights.h5`; `restore`
    brings them back to the same bits. The file is written under another name, with a digest of its content,
    and renamed when it is on the disk, so `latest.weights.h5` is always a complete one. Place this callback
    last.

    Args:
        directory: path, created if missing.

    Example:

    ```python
    model.optimizer.build(model.trainable_variables)
    steps_done = restore(model, "runs/1/checkpoints")
    model.fit(
        batches_from(steps_done),
        initial_epoch=steps_done // steps_per_epoch,
        epochs=200,
        callbacks=[Checkpoint("runs/1/checkpoints")],
    )
    ```
    """

    def __init__(self, directory):
        super().__init__()
        self.directory = Path(directory)

    def on_epoch_end(self, epoch, logs=None):
        save(self.model, self.directory)


def save(model, directory):
    """Saves the complete state of a model and its optimizer.

    Args:
        model: built and compiled `keras.Model` whose optimizer is built.
        directory: path, created if missing.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if model or optimizer are not built.
    """
    _check_built(model)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"tmp.{FILE}"  # Keras asks for the ending
    model.save_weights(temporary, overwrite=True)
    with h5py.File(temporary, "r+") as file:
        file.attrs[_DIGEST] = _digest(file)
    _flush(temporary)
    os.replace(temporary, directory / FILE)
    _flush(directory)  # the renaming itself
    return directory / FILE


def is_saved(directory):
    """Whether `directory` holds what `Checkpoint` saved, at step 0 or later."""
    return (Path(directory) / FILE).exists()


def restore(model, directory):
    """Restores what `Checkpoint` saved last.

    Args:
        model: built and compiled model with a variable `step`, such as `MoCo`, made like the saved one and
            with its optimizer built: `model.optimizer.build(model.trainable_variables)`.
        directory: path given to `Checkpoint`.

    Returns:
        int, the number of steps trained so far; 0 if there is no checkpoint, and then the model is as it was.

    Raises:
        ValueError: if model or optimizer are not built, the file is damaged, or it belongs to another model.
            A damaged file leaves the model as it was.
    """
    _check_built(model)
    if not is_saved(directory):
        return 0
    path = Path(directory) / FILE
    _check_undamaged(path)
    with warnings.catch_warnings():
        # Keras only warns, and goes on with an optimizer that has forgotten everything.
        warnings.filterwarnings("error", message="Skipping variable loading for optimizer")
        try:
            model.load_weights(path)
        except (ValueError, KeyError, UserWarning) as error:
            raise ValueError(
                "The checkpoint must have been saved from a model and optimizer of the same configuration. "
                f"Received: {path}, and Keras says: {error} Use the saved configuration or another directory."
            ) from error
    return int(keras.ops.convert_to_numpy(model.step))


def _check_built(model):
    optimizer = getattr(model, "optimizer", None)  # absent until `compile`
    if not model.built or optimizer is None or not optimizer.built:
        raise ValueError(
            "`model` and its optimizer must be built, or the optimizer's state would be skipped. "
            f"Received: model.built={model.built}, optimizer "
            f"{'missing' if optimizer is None else f'built={optimizer.built}'}. "
            "Call `model.compile(...)` and `model.optimizer.build(model.trainable_variables)` first."
        )


def _check_undamaged(path):
    try:
        with h5py.File(path, "r") as file:
            intact = file.attrs.get(_DIGEST) == _digest(file)
    except (OSError, RuntimeError, KeyError, ValueError):  # what HDF5 raises depends on where the damage is
        intact = False
    if not intact:
        raise ValueError(
            f"The checkpoint must be a complete file as it was saved. Received: {path}, which is damaged. "
            "Delete it to train from the start, or restore it from a backup."
        )


def _digest(file):
    """SHA-256 over names, shapes, types and values of all arrays."""
    digest = hashlib.sha256()

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            digest.update(f"{name} {item.shape} {item.dtype}".encode())
            digest.update(item[()].tobytes())

    file.visititems(add)
    return digest.hexdigest()


def _flush(path):
    """Waits until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
