"""Fused: a recipe's operations in three passes over the pixels instead of one for each."""

import inspect

import keras
import tensorflow as tf

from keras_moco.augment.blur import RandomGaussianBlur
from keras_moco.augment.color_jitter import RandomColorJitter
from keras_moco.augment.color_map import fuse, luma, split_at_hue, turn_hue
from keras_moco.augment.compiled import compiled
from keras_moco.augment.compose import Compose
from keras_moco.augment.crop import RandomResizedCrop
from keras_moco.augment.flip import RandomHorizontalFlip
from keras_moco.augment.grayscale import RandomGrayscale
from keras_moco.augment.resample import crop_weights, resize_turned
from keras_moco.errors import UserError

SMALL = 64  # pixels; whole weight matrices are 3 times as fast there as walking each crop, at 96 they are slower
THUMB = 56  # pixels; the mean brightness, which contrast turns about, is taken from so many rows and columns


@keras.saving.register_keras_serializable(package="keras_moco")
class Fused(Compose):
    """A `Compose` that runs several times as fast, for layers in the order of the published recipes.

    1. Crop, resize and flip are one resampling: a flip commutes with all the others.
    2. Colour jitter and grayscale, in each image's own order, are a map, a turn of the hue, and another map
       (`keras_moco.augment.color_map`).
    3. Blur is a weighted sum of neighbours along each axis, for the images that drew it.

    The same draws give the same views as `Compose`, but for this: values are clamped to 0..255 before and after the
    turn of the hue and not after every operation, contrast takes the mean from every fourth row and column at 224
    pixels, and values are rounded to whole levels after each of the three (as PIL does after every operation).
    docs/input_pipeline.md says how far apart that is on photographs.

    Args:
        layers: list of `Augmentation`: a `RandomResizedCrop`; then at most one `RandomColorJitter` and any
            `RandomGrayscale`; then at most one `RandomGaussianBlur`. At most one `RandomHorizontalFlip` anywhere
            behind the crop.
        **kwargs: of `Augmentation`.

    Returns:
        uint8 images, which are a quarter of the bytes of float32 to move.

    Raises:
        ValueError: if the layers are others, or in another order; `Compose` takes those.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import Fused, RandomGrayscale, RandomResizedCrop
    >>> view = Fused([RandomResizedCrop(24), RandomGrayscale()])
    >>> view(np.zeros((2, 48, 64, 3), "uint8")).dtype
    tf.uint8
    """

    def __init__(self, layers, **kwargs):
        super().__init__(layers, **kwargs)
        self._crop, self._flip, self._colors, self._blur = None, None, [], None
        start = 0
        for layer in self.layers:
            columns = slice(start, start := start + layer.num_draws)
            self._take(layer, columns)
        if self._crop is None:
            self._refuse()
        self._crop_small = compiled(self._crop_small)
        self._color_batch = compiled(self._color_batch)
        self._blur_each = compiled(self._blur_each)
        self._upright = compiled(_upright)

    def _take(self, layer, columns):
        """Gives the layer its place among the three passes."""
        first = not (self._crop or self._flip or self._colors or self._blur)
        if isinstance(layer, RandomResizedCrop) and first:
            self._crop = (layer, columns)
        elif isinstance(layer, RandomHorizontalFlip) and not self._flip:
            self._flip = (layer, columns)
        elif isinstance(layer, RandomGaussianBlur) and not self._blur:
            self._blur = (layer, columns)
        elif isinstance(layer, RandomGrayscale) and not self._blur:
            self._colors.append((layer, columns))
        elif isinstance(layer, RandomColorJitter) and not self._blur and not self._jitters:
            self._colors.append((layer, columns))
        else:
            self._refuse()

    def _refuse(self):
        raise UserError(
            "`layers` must be a RandomResizedCrop, then at most one RandomColorJitter and any RandomGrayscale, then at "
            "most one RandomGaussianBlur, with at most one RandomHorizontalFlip anywhere behind the crop. Received: "
            f"{', '.join(type(layer).__name__ for layer in self.layers)}. Use `Compose`, which takes any order."
        )

    @property
    def _jitters(self):
        return [layer for layer, _ in self._colors if isinstance(layer, RandomColorJitter)]

    @property
    def size(self):
        """int. Side of the views, pixels."""
        return self._crop[0].size

    # The whole, as of any `Augmentation`.

    def prepare(self, images):
        """Keeps uint8, which is read faster."""
        return images if images.dtype == tf.uint8 else tf.cast(images, "float32")

    def augment(self, images, draws):
        return self.finish(self.begin_batch(images, draws), draws)

    # Its two halves: in between, images of all sizes have become one size, and may move to another device.

    def boxes(self, draws, height, width):
        """What is cut out of each image.

        Args:
            draws: uniform draws in [0, 1), `(n, num_draws)`.
            height: int or scalar tensor, of the images.
            width: int or scalar tensor, of the images.

        Returns:
            `(boxes, mirrored)`: int32 `(n, 4)` of top, left, height, width in pixels; bool `(n,)`.
        """
        layer, columns = self._crop
        boxes = tf.cast(tf.stack(layer.boxes(draws[:, columns], height, width), axis=1), "int32")
        if not self._flip:
            return boxes, tf.zeros_like(draws[:, 0], dtype="bool")
        layer, columns = self._flip
        return boxes, draws[:, columns.start] < layer.rate

    def takes_batches(self, image_shape):
        return None not in image_shape and max(*image_shape[:2], self.size) <= SMALL

    def select(self, picture, draws):
        boxes, mirrored = self.boxes(draws, picture.height, picture.width)
        pixels, boxes = picture.around(boxes)
        return {"pixels": pixels, "boxes": boxes, "mirrored": mirrored}

    def begin(self, selected, draws):
        """Cuts, resizes and flips the views of one picture: a uint8 `(size, C, size)` for each."""
        parts = (selected["pixels"], selected["boxes"], selected["mirrored"])
        return tuple(self._crop_one(parts[0], parts[1][number], parts[2][number]) for number in range(draws.shape[0]))

    def begin_batch(self, images, draws):
        """Cuts, resizes and flips images of one size: uint8 `(n, size, C, size)`."""
        boxes, mirrored = self.boxes(draws, tf.shape(images)[1], tf.shape(images)[2])
        if self.takes_batches(images.shape[1:]):
            return self._crop_small(images, boxes, mirrored)

        crops = tf.TensorSpec([self.size, images.shape[-1], self.size], tf.uint8)
        return tf.map_fn(lambda parts: self._crop_one(*parts), (images, boxes, mirrored), fn_output_signature=crops)

    def finish(self, begun, draws, on_host=True):
        """Colours and blurs, and turns the images upright.

        Args:
            begun: uint8 `(n, size, C, size)`, of `begin` or `begin_batch`.
            draws: uniform draws in [0, 1), `(n, num_draws)`.
            on_host: bool. False in a training step on an accelerator: then nothing is compiled on its own, and all
                images are blurred together, where a CPU takes one after the other and leaves out those that need not
                be. Defaults to `True`.

        Returns:
            uint8 `(n, size, size, C)`.
        """
        crops = begun
        if self._colors:
            color = self._color_batch if on_host else inspect.unwrap(self._color_batch)
            crops = color(crops, draws)
        if self._blur:
            layer, columns = self._blur
            blur = self._blur_each if on_host else layer.blur_planes
            crops = blur(crops, draws[:, columns])
        return self._upright(crops) if on_host else _upright(crops)

    def _crop_one(self, image, box, mirrored):
        """One image, any size: uint8 `(size, C, size)`. Resizing leaves columns first, and the colours do not mind."""
        top, left, height, width = tf.unstack(box)
        turned = _rounded(resize_turned(image[top : top + height, left : left + width], self.size))
        columns = tf.range(self.size)
        return tf.gather(turned, tf.where(mirrored, columns[::-1], columns))

    def _crop_small(self, images, boxes, mirrored):
        top, left, height, width = tf.unstack(tf.cast(boxes, "float32"), axis=1)
        rows = crop_weights(top, height, images.shape[1], self.size)  # (n, s, H)
        columns = crop_weights(left, width, images.shape[2], self.size)  # (n, s, W)
        columns = tf.where(mirrored[:, None, None], columns[:, ::-1], columns)
        count, (high, wide, channels) = tf.shape(images)[0], images.shape[1:]
        turned = tf.transpose(tf.cast(images, "float32"), [0, 2, 3, 1])  # (n, W, C, H)
        turned = tf.matmul(columns, tf.reshape(turned, [count, wide, channels * high]))  # (n, s, C H)
        turned = tf.matmul(tf.reshape(turned, [count, self.size * channels, high]), rows, transpose_b=True)
        return _rounded(tf.reshape(turned, [count, self.size, channels, self.size]))

    def _color_batch(self, crops, draws):
        steps = [step for layer, columns in self._colors for step in layer.color_steps(draws[:, columns])]
        planes = tf.unstack(tf.cast(crops, "float32"), axis=2)
        stride = max(1, self.size // THUMB)
        thumbs = [plane[:, ::stride, ::stride] for plane in planes]
        if len(planes) == 3 and self._jitters and self._jitters[0].hue:
            before, steps, turns = split_at_hue(steps)
            first = fuse(before, _mean(thumbs))
            thumbs = turn_hue(first(thumbs), turns)
            planes = turn_hue(first(planes), turns)
        planes = fuse(steps, _mean(thumbs))(planes)
        return tf.stack([_rounded(plane) for plane in planes], axis=2)

    def _blur_each(self, crops, draws):
        layer, _ = self._blur

        def blur_one(parts):
            crop, draws = parts
            return tf.cond(draws[0] < layer.rate, lambda: layer.blur_planes(crop[None], draws[None])[0], lambda: crop)

        return tf.map_fn(blur_one, (crops, draws), fn_output_signature=tf.TensorSpec(crops.shape[1:], tf.uint8))


def _mean(planes):
    return tf.reduce_mean(luma(planes), axis=[1, 2])


def _rounded(values):
    """Values from 0 to 255 as uint8; a cast alone would round down."""
    return tf.cast(values + 0.5, "uint8")


def _upright(crops):
    """`(n, column, C, row)` as `(n, row, column, C)`."""
    return tf.transpose(crops, [0, 3, 1, 2])
