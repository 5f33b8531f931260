"""PyTorch's files as NumPy arrays and back. Nothing in a file is run; the only door of torch."""

import importlib
import json
import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_moco.errors import MissingPackageError, UserError
from keras_moco.storage.atomic import replace_when_written
from keras_moco.storage.paths import check_file_or_folder, user_path

SETTINGS = "keras_moco"  # our entry beside the official ones: numbers that weights do not tell
SAFETENSORS = ".safetensors"
# Before this version `weights_only=True` could be made to run code (CVE-2025-32434).
SAFE_TORCH = (2, 6)
# A tensor may say that it repeats a few numbers often, and several may share theirs.
MOST_SHARED = 4
SMALL = 2**24  # bytes


class TorchFile(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        path: `pathlib.Path`.
        tensors: dict of names to arrays, the `state_dict`, in the order of the file.
        buffers: dict of `(position, name)` to arrays: what the optimizer keeps of the parameter at that position, for
            SGD a `"momentum_buffer"`.
        epoch: int, epochs done; 0 where the file does not say.
        settings: dict, what `keras_moco` has noted down.
    """

    path: Path
    tensors: dict
    buffers: dict
    epoch: int
    settings: dict


def read(path):
    """Reads a checkpoint of PyTorch, zip or legacy, or of safetensors (`*.safetensors`).

    Pickles are read by `torch.load(weights_only=True)`, which knows tensors and plain values only.

    Args:
        path: path of the file.

    Returns:
        `TorchFile`. Arrays are as stored; bfloat16, which NumPy lacks, becomes float32.

    Raises:
        ValueError: if there is no such file, it is damaged or no checkpoint, or it asks for anything to be run.
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
        return _read_safetensors(path)
    content = _unpickle(path)
    state_dict = _state_dict_of(content)
    if not state_dict or not all(isinstance(name, str) and _is_tensor(value) for name, value in state_dict.items()):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(
            "A checkpoint must hold a `state_dict`, names with a tensor each. "
            f"Received: {path} with {found or 'nothing'}. Save model.state_dict()."
        )
    optimizer, epoch, settings = (content.get(name) for name in ("optimizer", "epoch", SETTINGS))
    buffers = _buffers(optimizer)
    tensors = [*state_dict.values(), *buffers.values()]
    _check_stored(((tensor.shape, tensor.element_size()) for tensor in tensors), path)
    return TorchFile(
        path=path,
        tensors={name: _to_numpy(tensor, name, path) for name, tensor in state_dict.items()},
        buffers={key: _to_numpy(tensor, f"{key[1]} of the optimizer", path) for key, tensor in buffers.items()},
        epoch=epoch if isinstance(epoch, int) else 0,
        settings=settings if isinstance(settings, dict) else {},
    )


def write(path, tensors, *, bare=False, velocities=(), optimizer=None, overwrite=False, **entries):
    """Writes a checkpoint, whole or not at all.

    Args:
        path: path of the file; safetensors where it ends so, which holds tensors and settings only, else PyTorch's.
        tensors: dict of names to arrays.
        bare: bool. Write the `state_dict` itself instead of a dict with it.
        velocities: arrays or `None`s, one per parameter, momentum buffers.
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
        library = _extra("safetensors.numpy")
        notes = {SETTINGS: json.dumps(entries.get(SETTINGS, {}))}
        return replace_when_written(path, lambda name: library.save_file(tensors, name, metadata=notes))
    torch = _extra("torch")
    state_dict = {name: torch.from_numpy(array) for name, array in tensors.items()}
    if bare:
        return replace_when_written(path, lambda name: torch.save(state_dict, name))
    content = {**entries, "state_dict": state_dict}
    if optimizer is not None:
        content["optimizer"] = _sgd_state(torch, velocities, optimizer)
    return replace_when_written(path, lambda name: torch.save(content, name))


def check_target(path, overwrite):
    """The path of a file that is to be written, or a `ValueError`."""
    path = user_path(path)
    if not path.parent.is_dir():
        raise UserError(
            f"The file must be written into an existing folder. Received: {path}. Make {path.parent} first."
        )
    if path.is_dir():
        raise UserError(f"The file to write must be a file. Received: {path}, a folder. Choose another name.")
    if path.exists() and not overwrite:
        raise UserError(
            f"The file to write must not exist yet. Received: {path}, which exists. "
            "Choose another name, or overwrite it by overwrite=True (--overwrite)."
        )
    return path


def _extra(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingPackageError(
            f"{package} must be installed to read and write PyTorch's files. Received: {error}. "
            'Run pip install "keras_moco[torch]".'
        ) from error
    if name == "torch" and tuple(map(int, module.__version__.split(".")[:2])) < SAFE_TORCH:
        raise MissingPackageError(
            f"torch must be 2.6 or newer to read files safely. Received: {module.__version__}. "
            'Run pip install --upgrade "keras_moco[torch]".'
        )
    return module


def _unpickle(path):
    torch = _extra("torch")
    if packed := _packed_entry(path):
        raise UserError(
            "A checkpoint must not be compressed, as PyTorch compresses none. "
            f"Received: {path}, where {packed} is; nothing was unpacked. Save it anew by torch.save."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of protocols; what matters is whether it can be read
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            damaged = _damaged_entry(path) if zipfile.is_zipfile(path) else None
        except Exception as error:  # what torch raises depends on where the damage is
            asked = re.search(r"GLOBAL ([\w.]+)", str(error))
            if asked:
                raise UserError(
                    "A checkpoint must hold tensors and plain values only, since anything else would be run. Received: "
                    f"{path}, which asks for {asked[1]}; nothing of it was run. Save model.state_dict() instead."
                ) from error
            raise UserError(
                "A checkpoint must be a whole file as PyTorch wrote it. "
                f"Received: {path}, which is damaged, cut off, or something else. Fetch it again."
            ) from error
    if damaged:
        raise UserError(
            f"A checkpoint must be as it was written. Received: {path}, where {damaged} has changed since. "
            "Fetch it again."
        )
    return content


def _packed_entry(path):
    """The name of an entry that would be larger in memory than in the file; `None` if there is none."""
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return None  # torch will say that it is damaged
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if not packed and sum(entry.file_size for entry in entries) > path.stat().st_size:  # several in one place
        packed = [max(entries, key=lambda entry: entry.file_size).filename]
    return packed[0] if packed else None


def _check_stored(declared, path):
    """Refuses tensors that have far more numbers than the file, before there is memory for them, or for their model.

    Args:
        declared: `(shape, bytes of a number)` of each. A side of 0 counts as 1: others beside it may be of any length.
        path: path of the file.
    """
    declared = sum(math.prod(max(1, side) for side in shape) * itemsize for shape, itemsize in declared)
    size = path.stat().st_size
    if declared > SMALL + MOST_SHARED * size:
        raise UserError(
            "Tensors must be stored in the file, not only declared. "
            f"Received: {path} of {size:,} bytes, which declares {declared:,}. Do not use this file."
        )


def _damaged_entry(path):
    """The name of an entry that is not as it was written, which torch does not look at; `None` if all are."""
    with zipfile.ZipFile(path) as archive:
        # An entry that has become a folder is skipped by torch, and its tensor is whatever the memory held.
        folders = [entry.filename for entry in archive.infolist() if entry.is_dir() or entry.external_attr & 0x10]
        return folders[0] if folders else archive.testzip()


def _read_safetensors(path):
    library = _extra("safetensors")
    try:
        # Each tensor by its name, as the header counts them in another order than PyTorch.
        with library.safe_open(path, framework="np") as file:
            tensors = {name: _plain(file.get_tensor(name)) for name in file.keys()}
            notes = (file.metadata() or {}).get(SETTINGS, "{}")
        settings = json.loads(notes)
    except (library.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(
            "A safetensors file must be whole. "
            f"Received: {path}, which is damaged, cut off, or something else. Fetch it again."
        ) from error
    except (AttributeError, TypeError) as error:
        raise UserError(_no_numbers(path, "a tensor", error)) from error
    _check_stored(((array.shape, array.itemsize) for array in tensors.values()), path)
    return TorchFile(path, tensors, buffers={}, epoch=0, settings=settings if isinstance(settings, dict) else {})


def _state_dict_of(content):
    """The `state_dict` of what was unpickled: an entry of it, or all of it; `None` if there is none."""
    if not isinstance(content, dict):
        return None
    for name in ("state_dict", "model"):
        if isinstance(content.get(name), dict):
            return content[name]
    return content


def _is_tensor(value):
    return hasattr(value, "detach")


def _to_numpy(tensor, name, path):
    tensor = tensor.detach()
    try:
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (TypeError, RuntimeError, ValueError) as error:
        raise UserError(_no_numbers(path, name, error)) from error


def _no_numbers(path, name, error):
    reason = str(error).splitlines()[0].rstrip(".")
    return (
        "Tensors must be dense, of a dtype that NumPy has. "
        f"Received: {path} with {name}, of which is said: {reason}. Save them as float32."
    )


def _plain(array):
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _buffers(optimizer):
    """The tensors that an optimizer's `state_dict` holds by the position of their parameter; none if it is no such."""
    if not isinstance(optimizer, dict):
        return {}
    try:
        places = [place for group in optimizer["param_groups"] for place in group["params"]]
        states = [(position, optimizer["state"].get(place, {}).items()) for position, place in enumerate(places)]
    except (KeyError, IndexError, TypeError, AttributeError):
        return {}
    return {(position, name): tensor for position, items in states for name, tensor in items if _is_tensor(tensor)}


def _sgd_state(torch, velocities, hyperparameters):
    """The `state_dict` of a `torch.optim.SGD`, in the form of the torch that is installed."""
    parameters = [torch.nn.Parameter(torch.zeros(())) for _ in velocities]
    optimizer = torch.optim.SGD(parameters, **hyperparameters)
    for parameter, velocity in zip(parameters, velocities, strict=True):
        if velocity is not None:
            optimizer.state[parameter]["momentum_buffer"] = torch.from_numpy(np.ascontiguousarray(velocity))
    return optimizer.state_dict()
