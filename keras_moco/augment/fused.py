"""Fused: a recipe in three passes over the pixels instead of one for each operation."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation
from keras_moco.augment.blur import RandomGaussianBlur
from keras_moco.augment.color_jitter import RandomColorJitter
from keras_moco.augment.color_map import fuse, luma, shift_hue, split_at_hue
from keras_moco.augment.compiled import compiled
from keras_moco.augment.compose import Compose
from keras_moco.augment.crop import RandomResizedCrop
from keras_moco.augment.flip import RandomHorizontalFlip
from keras_moco.augment.grayscale import RandomGrayscale
from keras_moco.augment.resample import crop_weights, resize_transposed
from keras_moco.errors import UserError

SMALL = 64  # pixels; whole weight matrices are 3 times as fast there as walking each crop, at 96 they are slower
THUMB = 56  # pixels; the mean brightness, which contrast needs, is taken from about that many rows and columns


class _Passes(NamedTuple):
    """The functions of `Fused.finish`, for the host or for a training step on an accelerator."""

    color: Callable
    blur: Callable
    upright: Callable


@keras.saving.register_keras_serializable(package="keras_moco")
class Fused(Compose):
    """A `Compose` that runs several times as fast, for layers in the order of the published recipes.

    1. Crop, resize and flip are one resampling: a flip commutes with all the others.
    2. Colour jitter and grayscale, in each image's own order, are a map, a shift of the hue, and another map
       (`keras_moco.augment.color_map`).
    3. Blur is a weighted sum of neighbours along each axis, for the images selected at random.

    The same random numbers give the same views as `Compose`, with three differences: values are clamped to 0..255
    before and after the shift of the hue and not after every operation, contrast takes the mean from every fourth row
    and column at 224 pixels, and values are rounded to whole levels after each of the three passes (as PIL does after
    every operation).
    docs/input_pipeline.md says how far apart that is on photographs.

    Args:
        layers: list of `Augmentation`: a `RandomResizedCrop`; then at most one `RandomColorJitter` and any
            `RandomGrayscale`; then at most one `RandomGaussianBlur`. At most one `RandomHorizontalFlip` anywhere
            after the crop.
        **kwargs: arguments of `Augmentation`.

    Returns:
        uint8 images, which are a quarter of the bytes of float32 to move.

    Raises:
        ValueError: if there are other layers, or another order; `Compose` takes those.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import Fused, RandomGrayscale, RandomResizedCrop
    >>> view = Fused([RandomResizedCrop(24), RandomGrayscale()])
    >>> view(np.zeros((2, 48, 64, 3), "uint8")).dtype
    tf.uint8
    """

    def __init__(self, layers: Sequence[Augmentation], **kwargs: Any) -> None:
        super().__init__(layers, **kwargs)
        _check_order(self.layers)
        ends = itertools.accumulate(layer.num_draws for layer in self.layers)
        # Each layer with its columns of the random numbers.
        placed = [(layer, slice(end - layer.num_draws, end)) for layer, end in zip(self.layers, ends, strict=True)]

        def of(*kinds):
            return [(layer, columns) for layer, columns in placed if isinstance(layer, kinds)]

        self._crop, self._colors = placed[0], of(RandomColorJitter, RandomGrayscale)
        self._flip = next(iter(of(RandomHorizontalFlip)), None)
        self._blur = next(iter(of(RandomGaussianBlur)), None)
        self._has_hue = any(layer.hue for layer, _ in of(RandomColorJitter))
        # On the host each pass is compiled on its own, and blurs one image after the other, so that it can skip those
        # that need no blur. On an accelerator the training step is compiled as a whole, and blurs all images together.
        self._crop_compiled = compiled(self._crop_small)
        self._on_host = _Passes(compiled(self._color), compiled(self._blur_one_by_one), compiled(_upright))
        self._on_device = _Passes(self._color, self._blur_together, _upright)

    @property
    def size(self) -> int:
        """int. Side of the views, pixels."""
        return self._crop[0].size

    # The whole, as for any `Augmentation`.

    def prepare(self, images: tf.Tensor) -> tf.Tensor:
        """Keeps uint8, which is faster to read."""
        return images if images.dtype == tf.uint8 else tf.cast(images, "float32")

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        return self.finish(self.begin_batch(images, draws), draws)

    # Its two halves: between them all images have the same size, and may move to another device.

    def boxes(self, draws: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The box that is cut out of each image.

        Args:
            draws: uniform random numbers in [0, 1), `(n, num_draws)`.
            height: int or scalar tensor, height of the images.
            width: int or scalar tensor, width of the images.

        Returns:
            `(boxes, mirrored)`: int32 `(n, 4)` of top, left, height, width in pixels; bool `(n,)`.
        """
        layer, columns = self._crop
        boxes = tf.cast(tf.stack(layer.boxes(draws[:, columns], height, width), axis=1), "int32")
        if not self._flip:
            return boxes, tf.zeros_like(draws[:, 0], dtype="bool")
        layer, columns = self._flip
        return boxes, draws[:, columns.start] < layer.rate

    def takes_batches(self, image_shape: tuple[Any, ...]) -> bool:
        return None not in image_shape and max(*image_shape[:2], self.size) <= SMALL

    def select(self, decoder: Any, draws: tf.Tensor) -> dict[str, tf.Tensor]:
        boxes, mirrored = self.boxes(draws, decoder.height, decoder.width)
        pixels, boxes = decoder.around(boxes)
        return {"pixels": pixels, "boxes": boxes, "mirrored": mirrored}

    def begin(self, selected: dict[str, tf.Tensor], draws: tf.Tensor) -> Any:
        """Cuts, resizes and flips the views of one image: a uint8 `(size, C, size)` for each."""
        pixels, boxes, mirrored = selected["pixels"], selected["boxes"], selected["mirrored"]
        return tuple(self._crop_one(pixels, boxes[view], mirrored[view]) for view in range(draws.shape[0]))

    def begin_batch(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Cuts, resizes and flips images of one size: uint8 `(n, size, C, size)`."""
        boxes, mirrored = self.boxes(draws, tf.shape(images)[1], tf.shape(images)[2])
        if self.takes_batches(images.shape[1:]):
            return self._crop_compiled(images, boxes, mirrored)

        crops = tf.TensorSpec([self.size, images.shape[-1], self.size], tf.uint8)
        return tf.map_fn(lambda parts: self._crop_one(*parts), (images, boxes, mirrored), fn_output_signature=crops)

    def finish(self, begun: tf.Tensor, draws: tf.Tensor, on_host: bool = True) -> tf.Tensor:
        """Colours and blurs, and puts rows first.

        Args:
            begun: uint8 `(n, size, C, size)`, as from `begin` or `begin_batch`.
            draws: uniform random numbers in [0, 1), `(n, num_draws)`.
            on_host: bool. False in a training step on an accelerator. Defaults to `True`.

        Returns:
            uint8 `(n, size, size, C)`.
        """
        passes = self._on_host if on_host else self._on_device
        crops = passes.color(begun, draws) if self._colors else begun
        if self._blur:
            _, columns = self._blur
            crops = passes.blur(crops, draws[:, columns])
        return passes.upright(crops)

    def _crop_one(self, image, box, mirrored):
        """One image of any size: uint8 `(size, C, size)`. Columns come first, as resizing leaves them."""
        top, left, height, width = tf.unstack(box)
        view = _rounded(resize_transposed(image[top : top + height, left : left + width], self.size))
        columns = tf.range(self.size)
        return tf.gather(view, tf.where(mirrored, columns[::-1], columns))

    def _crop_small(self, images, boxes, mirrored):
        top, left, height, width = tf.unstack(tf.cast(boxes, "float32"), axis=1)
        rows = crop_weights(top, height, images.shape[1], self.size)  # (n, s, H)
        columns = crop_weights(left, width, images.shape[2], self.size)  # (n, s, W)
        columns = tf.where(mirrored[:, None, None], columns[:, ::-1], columns)
        count, (high, wide, channels) = tf.shape(images)[0], images.shape[1:]
        views = tf.transpose(tf.cast(images, "float32"), [0, 2, 3, 1])  # (n, W, C, H)
        views = tf.matmul(columns, tf.reshape(views, [count, wide, channels * high]))  # (n, s, C H)
        views = tf.matmul(tf.reshape(views, [count, self.size * channels, high]), rows, transpose_b=True)
        return _rounded(tf.reshape(views, [count, self.size, channels, self.size]))

    def _color(self, crops, draws):
        steps = [step for layer, columns in self._colors for step in layer.color_steps(draws[:, columns])]
        planes = tf.unstack(tf.cast(crops, "float32"), axis=2)
        stride = max(1, self.size // THUMB)
        thumbs = [plane[:, ::stride, ::stride] for plane in planes]
        if len(planes) == 3 and self._has_hue:
            before, steps, shift = split_at_hue(steps)
            first = fuse(before, _mean(thumbs))
            thumbs = shift_hue(first(thumbs), shift)
            planes = shift_hue(first(planes), shift)
        planes = fuse(steps, _mean(thumbs))(planes)
        return tf.stack([_rounded(plane) for plane in planes], axis=2)

    def _blur_together(self, crops, draws):
        return self._blur[0].blur_planes(crops, draws)

    def _blur_one_by_one(self, crops, draws):
        layer, _ = self._blur

        def blur_one(parts):
            crop, draws = parts
            return tf.cond(draws[0] < layer.rate, lambda: layer.blur_planes(crop[None], draws[None])[0], lambda: crop)

        return tf.map_fn(blur_one, (crops, draws), fn_output_signature=tf.TensorSpec(crops.shape[1:], tf.uint8))


def _check_order(layers):
    kinds = (RandomResizedCrop, RandomHorizontalFlip, RandomColorJitter, RandomGrayscale, RandomGaussianBlur)
    crops, flips, jitters, grays, blurs = ([layer for layer in layers if isinstance(layer, kind)] for kind in kinds)
    last = [layer for layer in layers if layer not in flips][-1:]
    if not (
        len(layers) == sum(map(len, (crops, flips, jitters, grays, blurs)))
        and len(crops) == 1
        and layers[0] is crops[0]
        and max(map(len, (flips, jitters, blurs))) <= 1
        and (not blurs or blurs == last)
    ):
        raise UserError(
            "`layers` must be a RandomResizedCrop, then at most one RandomColorJitter and any RandomGrayscale, then at "
            "most one RandomGaussianBlur, with at most one RandomHorizontalFlip anywhere after the crop. Received: "
            f"{', '.join(type(layer).__name__ for layer in layers)}. Use `Compose`, which takes any order."
        )


def _mean(planes):
    return tf.reduce_mean(luma(planes), axis=[1, 2])


def _rounded(values):
    """Values from 0 to 255 as uint8; a cast alone would round down."""
    return tf.cast(values + 0.5, "uint8")


def _upright(crops):
    """`(n, column, C, row)` as `(n, row, column, C)`."""
    return tf.transpose(crops, [0, 3, 1, 2])
