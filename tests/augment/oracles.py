"""What augmentations are compared with: PIL, the standard library's HSV, and NumPy in float64."""

import colorsys
import itertools

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_moco.augment import RandomResizedCrop

PHOTOS = np.stack([load_sample_image("china.jpg"), load_sample_image("flower.jpg")])  # (2, 427, 640, 3) uint8
ORDERS = list(itertools.permutations(range(4)))
NAMES = ("brightness", "contrast", "saturation", "hue")


def floats(views):
    return np.asarray(views, "float32")


def draws_for(layer, count, seed=0):
    return np.random.default_rng(seed).random((count, layer.num_draws), dtype="float32")


def whole(size):
    """A crop that leaves a square image of that size as it is."""
    return RandomResizedCrop(size, scale=(1, 1), ratio=(1, 1))


def pil_view(image, box, size, mirrored=False):
    """PIL's crop and bilinear resize. It rounds to whole levels after the columns and again after the rows."""
    top, left, height, width = (int(side) for side in box)
    view = Image.fromarray(image).crop((left, top, left + width, top + height))
    view = view.resize((size, size), Image.Resampling.BILINEAR)
    return floats(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else view)


def gray_of(image):
    return image @ np.array([0.299, 0.587, 0.114])


def hue_of(image, shift):
    """One pixel at a time, with the standard library."""
    result = np.empty(image.shape)
    for index in np.ndindex(*image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(image[index] / 255.0))
        result[index] = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
    return result * 255.0


def operate(name, image, amount):
    """A colour operation in float64, clamped; `"gray"` takes no amount."""
    if name == "hue":
        return hue_of(image, amount)
    gray = image[..., 0] if image.shape[-1] == 1 else gray_of(image)
    if name == "gray":
        return np.repeat(gray[..., None], 3, axis=-1)
    other = {"brightness": 0.0, "contrast": gray.mean(), "saturation": gray[..., None]}[name]
    return np.clip(other + (image - other) * amount, 0.0, 255.0)


def jitter_draws(strengths, amounts, order=0):
    """The six draws of a jitter that mean these amounts, in the order of that number."""
    low = np.array([1 - strength for strength in strengths[:3]] + [-strengths[3]])
    width = np.maximum(2 * np.array(strengths), 1e-9)
    return np.concatenate([[0.0, (order + 0.5) / 24], (np.array(amounts) - low) / width]).astype("float32")
