"""Weights for Detectron2, with the names of the authors' `detection/convert-pretrain-to-detectron2.py`."""

import pickle
import re
from pathlib import Path

import keras
import numpy as np

from keras_moco.convert.architecture import architecture_of
from keras_moco.convert.files import check_target
from keras_moco.convert.tensor_names import state_dict
from keras_moco.errors import UserError
from keras_moco.networks import Encoder
from keras_moco.storage.atomic import replace_when_written
from keras_moco.storage.paths import StrPath

STEM_KERNEL = (64, 3, 7, 7)  # the shape in Detectron2's `BasicStem`
DEPTHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def to_detectron2(model: keras.Model, path: StrPath, overwrite: bool = False) -> Path:
    """Writes the backbone of a model as weights for a ResNet of Detectron2.

    Its configuration must set `MODEL.WEIGHTS` to the file, `MODEL.RESNETS.STRIDE_IN_1X1` to False, `INPUT.FORMAT` to
    "RGB", and `MODEL.PIXEL_MEAN` and `PIXEL_STD` to 255 times the encoder's `mean` and `std`, as in the authors'
    `detection/configs`.

    Args:
        model: `Encoder`, or a model with an `encoder`. Its backbone is a `keras_moco.networks.resnet` of depth 18 or
            more and width 64 with the ImageNet stem, for images of three channels; it may have any head.
        path: path of the file; Detectron2 recognises the format by the suffix `.pkl`.
        overwrite: bool. Replace an existing file. Defaults to `False`.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if Detectron2 has no such network, the suffix is not `.pkl`, or the file exists.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_moco.methods import presets
    >>> model = presets.moco("moco_v1_resnet18_imagenet", queue_size=16)
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = to_detectron2(model, pathlib.Path(folder.name) / "backbone.pkl")
    >>> sorted(pickle.loads(path.read_bytes())["model"])[0]
    'res2.0.conv1.norm.bias'
    >>> folder.cleanup()
    """
    path = check_target(path, overwrite)
    if path.suffix != ".pkl":
        raise UserError(
            "A file for Detectron2 must have the suffix .pkl, by which it recognises the format. "
            f"Received: {path}. Rename it."
        )
    encoder = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise UserError(
            "`model` must be an Encoder, or a model that has one as `encoder`. "
            f"Received: {type(model).__name__}. Build one with keras_moco.Encoder."
        )
    tensors = state_dict(encoder, 0, head=False)
    found = architecture_of(tensors, "the model")
    if found.backbone not in DEPTHS or tensors["conv1.weight"].shape != STEM_KERNEL:
        raise UserError(
            f"Detectron2's ResNet must be one of {', '.join(DEPTHS)} with a first kernel {STEM_KERNEL}: width 64, "
            f"three channels, the ImageNet stem. Received: {found.backbone} with a first kernel "
            f"{tensors['conv1.weight'].shape}. Only such a backbone can be converted."
        )
    weights = {detectron2_name(name): tensor for name, tensor in tensors.items()}
    content = {"model": weights, "__author__": "keras_moco", "matching_heuristics": True}

    def write_to(name):
        with open(name, "wb") as file:
            _Pickler(file, protocol=4).dump(content)

    return replace_when_written(path, write_to)


def detectron2_name(name):
    """Detectron2's name of a tensor of torchvision's ResNet.

    >>> detectron2_name("bn1.weight"), detectron2_name("layer4.0.downsample.1.running_var")
    ('stem.conv1.norm.weight', 'res5.0.shortcut.norm.running_var')
    """
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = name if name.startswith("res") else f"stem.{name}"
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    return re.sub(r"\bbn(\d)", r"conv\1.norm", name)


class _Pickler(pickle.Pickler):
    """Pickles arrays as calls of `numpy.ndarray`: NumPy 2's own pickles name a module that NumPy 1 does not have."""

    def reducer_override(self, value):
        if isinstance(value, np.ndarray):
            return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))
        return NotImplemented
