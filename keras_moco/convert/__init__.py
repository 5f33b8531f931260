"""Conversion of weights: PyTorch to Keras, and Keras to PyTorch and Detectron2."""

from keras_moco.convert.detectron2 import to_detectron2
from keras_moco.convert.reading import encoder_from_pytorch, from_pytorch, load_pytorch
from keras_moco.convert.writing import to_pytorch

__all__ = ["encoder_from_pytorch", "from_pytorch", "load_pytorch", "to_detectron2", "to_pytorch"]
