"""Checkpoint files as NumPy arrays and back: PyTorch's own, and safetensors."""

import json
from pathlib import Path
from typing import NamedTuple

from keras_moco.convert.torch_files import check_stored, import_extra, not_numpy, read_torch, write_torch
from keras_moco.errors import UserError
from keras_moco.storage.atomic import replace_when_written
from keras_moco.storage.paths import check_file_or_folder, user_path

SETTINGS = "keras_moco"  # our entry beside the official ones: settings that the weights do not show
SAFETENSORS = ".safetensors"


class TorchFile(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        path: `pathlib.Path`.
        tensors: dict of names to arrays, the `state_dict`, in the order of the file.
        buffers: dict of `(position, name)` to arrays: the optimizer's state of the parameter at that position, such as
            SGD's `"momentum_buffer"`.
        epoch: int, the number of finished epochs; 0 where the file does not say.
        settings: dict, what `to_pytorch` has noted in it.
    """

    path: Path
    tensors: dict
    buffers: dict
    epoch: int
    settings: dict


def read(path):
    """Reads a checkpoint of PyTorch, zip or legacy, or of safetensors (`*.safetensors`).

    Args:
        path: path of the file.

    Returns:
        `TorchFile`. Arrays are as stored; bfloat16, which NumPy lacks, becomes float32.

    Raises:
        ValueError: if the file does not exist, is damaged or no checkpoint, or asks for anything to be run.
        ImportError: if torch or safetensors is not installed; the message names the extra.
    """
    path = user_path(path)
    if path.exists():
        check_file_or_folder(path)
    if not path.is_file():
        raise UserError(
            "The checkpoint must be an existing file. "
            f"Received: {path}, {'a folder' if path.is_dir() else 'which does not exist'}. Correct the path."
        )
    if path.suffix == SAFETENSORS:
        tensors, settings = _read_safetensors(path)
        buffers, epoch = {}, 0
    else:
        tensors, buffers, entries = read_torch(path)
        epoch, settings = entries.get("epoch"), entries.get(SETTINGS)
    return TorchFile(
        path,
        tensors,
        buffers,
        epoch=epoch if isinstance(epoch, int) else 0,
        settings=settings if isinstance(settings, dict) else {},
    )


def _read_safetensors(path):
    library = import_extra("safetensors")
    try:
        # Each tensor by its name, since the order of the header differs from PyTorch's.
        with library.safe_open(path, framework="np") as file:
            tensors = {name: _without_bfloat16(file.get_tensor(name)) for name in file.keys()}
            notes = (file.metadata() or {}).get(SETTINGS, "{}")
        settings = json.loads(notes)
    except (library.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(
            "A safetensors file must be complete. "
            f"Received: {path}, which is damaged, cut off, or something else. Download it again."
        ) from error
    except (AttributeError, TypeError) as error:
        raise UserError(not_numpy(path, "a tensor", error)) from error
    check_stored(((array.shape, array.itemsize) for array in tensors.values()), path)
    return tensors, settings


def _without_bfloat16(array):
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def write(path, tensors, *, bare=False, velocities=(), optimizer=None, overwrite=False, **entries):
    """Writes a checkpoint. The file is complete, or is not written at all.

    Args:
        path: path of the file. One that ends in `.safetensors` holds tensors and settings only; any other is PyTorch's.
        tensors: dict of names to arrays.
        bare: bool. Write the `state_dict` itself instead of a dict with it.
        velocities: arrays or `None`s, one per parameter: momentum buffers.
        optimizer: dict of hyper-parameters of `torch.optim.SGD`, or `None` for no optimizer.
        overwrite: bool. Replace an existing file.
        **entries: further plain entries of the checkpoint.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if the file exists, or its folder does not.
        ImportError: as in `read`.
    """
    path = check_target(path, overwrite)
    if path.suffix == SAFETENSORS:
        library = import_extra("safetensors.numpy")
        notes = {SETTINGS: json.dumps(entries.get(SETTINGS, {}))}
        return replace_when_written(path, lambda name: library.save_file(tensors, name, metadata=notes))
    return write_torch(path, tensors, bare=bare, velocities=velocities, optimizer=optimizer, entries=entries)


def check_target(path, overwrite):
    """The path of a file that is to be written; raises `ValueError` where it cannot be."""
    path = user_path(path)
    if not path.parent.is_dir():
        raise UserError(
            f"The file must be written into an existing folder. Received: {path}. Create {path.parent} first."
        )
    if path.is_dir():
        raise UserError(f"The file to write must be a file. Received: {path}, a folder. Choose another name.")
    if path.exists() and not overwrite:
        raise UserError(
            f"The file to write must not exist yet. Received: {path}, which exists. "
            "Choose another name, or overwrite it by overwrite=True (--overwrite)."
        )
    return path
