"""PyTorch's own files, `.pth` and `.pth.tar`: nothing in a file is run.

The only module that imports torch and safetensors.
"""

import importlib
import math
import re
import warnings
import zipfile

import numpy as np

from keras_moco.errors import MissingPackageError, UserError
from keras_moco.storage.atomic import replace_when_written

# Before this version `weights_only=True` could be made to run code (CVE-2025-32434).
SAFE_TORCH = (2, 6)
# A tensor may declare that it repeats a few numbers many times, and several tensors may share their numbers.
MOST_SHARED = 4
SMALL = 2**24  # bytes


def import_extra(name):
    """Imports a module that only the extra `torch` installs; refuses a torch that does not read files safely."""
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


def read_torch(path):
    """Reads a checkpoint, zip or legacy, by `torch.load(weights_only=True)`: tensors and plain values only.

    Returns:
        `(tensors, buffers, entries)`: dicts of arrays as in `TorchFile`, and the whole content of the file, a dict.
    """
    content = _unpickle(path)
    state_dict = _state_dict_of(content)
    if not state_dict or not all(isinstance(name, str) and _is_tensor(value) for name, value in state_dict.items()):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(
            "A checkpoint must hold a `state_dict`, names with a tensor each. "
            f"Received: {path} with {found or 'nothing'}. Save model.state_dict()."
        )
    buffers = _buffers(content.get("optimizer"))
    check_stored(((each.shape, each.element_size()) for each in [*state_dict.values(), *buffers.values()]), path)
    return (
        {name: _to_numpy(tensor, name, path) for name, tensor in state_dict.items()},
        {key: _to_numpy(tensor, f"{key[1]} of the optimizer", path) for key, tensor in buffers.items()},
        content,
    )


def write_torch(path, tensors, *, bare, velocities, optimizer, entries):
    """Writes a checkpoint by `torch.save`; the arguments are those of `keras_moco.convert.files.write`."""
    torch = import_extra("torch")
    state_dict = {name: torch.from_numpy(array) for name, array in tensors.items()}
    content = state_dict if bare else {**entries, "state_dict": state_dict}
    if optimizer is not None:
        content["optimizer"] = _sgd_state(torch, velocities, optimizer)
    return replace_when_written(path, lambda name: torch.save(content, name))


def check_stored(declared, path):
    """Refuses tensors with far more numbers than the file stores, before memory is allocated for them or their model.

    Args:
        declared: `(shape, bytes of a number)` of each tensor.
        path: path of the file.
    """
    # A side of 0 counts as 1: the other sides, which a model would have too, may be of any length.
    declared = sum(math.prod(max(1, side) for side in shape) * itemsize for shape, itemsize in declared)
    size = path.stat().st_size
    if declared > SMALL + MOST_SHARED * size:
        raise UserError(
            "Tensors must be stored in the file, not only declared. "
            f"Received: {path} of {size:,} bytes, which declares {declared:,}. Do not use this file."
        )


def not_numpy(path, name, error):
    """The message for a tensor that NumPy cannot hold."""
    reason = str(error).splitlines()[0].rstrip(".")
    return (
        "Tensors must be dense, of a dtype that NumPy has. "
        f"Received: {path} with {name}, which cannot be converted: {reason}. Save them as float32."
    )


def _unpickle(path):
    torch = import_extra("torch")
    if packed := _packed_entry(path):
        raise UserError(
            "A checkpoint must not be compressed, as PyTorch compresses none. "
            f"Received: {path}, where {packed} is; nothing was unpacked. Save it again by torch.save."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about protocols; what matters is whether the file can be read
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
                "A checkpoint must be a complete file as PyTorch wrote it. "
                f"Received: {path}, which is damaged, cut off, or something else. Download it again."
            ) from error
    if damaged:
        raise UserError(
            f"A checkpoint must be as it was written. Received: {path}, where {damaged} has changed since. "
            "Download it again."
        )
    return content


def _packed_entry(path):
    """The name of an entry that would be larger in memory than in the file; `None` if every entry is stored as is."""
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return None  # torch will find that it is damaged
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if not packed and sum(entry.file_size for entry in entries) > path.stat().st_size:  # several in one place
        packed = [max(entries, key=lambda entry: entry.file_size).filename]
    return packed[0] if packed else None


def _damaged_entry(path):
    """The name of an entry whose checksum is wrong, which torch does not verify; `None` if all are right."""
    with zipfile.ZipFile(path) as archive:
        # torch skips an entry that has become a folder, and its tensor is whatever the memory held.
        folders = [entry.filename for entry in archive.infolist() if entry.is_dir() or entry.external_attr & 0x10]
        return folders[0] if folders else archive.testzip()


def _state_dict_of(content):
    """The `state_dict` of what was unpickled: an entry of it, or all of it; `None` if it is no dict."""
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
        raise UserError(not_numpy(path, name, error)) from error


def _buffers(optimizer):
    """The tensors in an optimizer's `state_dict` by the position of their parameter; empty for anything else."""
    if not isinstance(optimizer, dict):
        return {}
    try:
        places = [place for group in optimizer["param_groups"] for place in group["params"]]
        states = [(position, optimizer["state"].get(place, {}).items()) for position, place in enumerate(places)]
    except (KeyError, IndexError, TypeError, AttributeError):
        return {}
    return {(position, name): tensor for position, items in states for name, tensor in items if _is_tensor(tensor)}


def _sgd_state(torch, velocities, hyperparameters):
    """The `state_dict` of a `torch.optim.SGD`, in the form of the installed torch."""
    parameters = [torch.nn.Parameter(torch.zeros(())) for _ in velocities]
    optimizer = torch.optim.SGD(parameters, **hyperparameters)
    for parameter, velocity in zip(parameters, velocities, strict=True):
        if velocity is not None:
            optimizer.state[parameter]["momentum_buffer"] = torch.from_numpy(np.ascontiguousarray(velocity))
    return optimizer.state_dict()
