"""Fused: a recipe in a few passes over the pixels instead of one for each operation."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_moco.augment.band_brightness import RandomBandBrightness
from keras_moco.augment.band_drop import RandomBandDrop
from keras_moco.augment.base import Augmentation, as_type
from keras_moco.augment.blur import RandomGaussianBlur
from keras_moco.augment.color_jitter import RandomColorJitter
from keras_moco.augment.color_map import fuse, luma, shift_hue, split_at_hue
from keras_moco.augment.compiled import compiled
from keras_moco.augment.compose import Compose
from keras_moco.augment.crop import RandomResizedCrop
from keras_moco.augment.flip import RandomHorizontalFlip
from keras_moco.augment.grayscale import RandomGrayscale
from keras_moco.augment.noise import RandomNoise
from keras_moco.augment.resample import crop_weights, resize_transposed
from keras_moco.augment.right_angle import RandomRightAngle
from keras_moco.augment.rotation import RandomRotation
from keras_moco.errors import UserError

SMALL = 64  # pixels; whole weight matrices are 3 times as fast there as walking each crop, at 96 they are slower
THUMB = 56  # pixels; the mean brightness, which contrast needs, is taken from about that many rows and columns

# The layers that follow the crop, in this order; a mirror image commutes with all but rotations and noise.
TURNS = (RandomRightAngle, RandomRotation)
STAGES = (
    (RandomResizedCrop,),
    TURNS,
    (RandomBandBrightness,),
    (RandomColorJitter, RandomGrayscale),
    (RandomBandDrop,),
    (RandomGaussianBlur,),
    (RandomNoise,),
)


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
       (`keras_moco.augment.color_map`). What changes single bands is in the same pass.
    3. Blur is a weighted sum of neighbours along each axis, for the images selected at random.

    Rotations, after the crop, and noise, after the blur, are passes of their own, only of recipes that have them.

    The same random numbers give the same views as `Compose`, with three differences: values are clamped to 0..255
    before and after the shift of the hue and not after every operation, contrast takes the mean from every fourth row
    and column at 224 pixels, and values of uint8 images are rounded to whole levels after each pass (as PIL does after
    every operation). Images of another type are float32 throughout, and nothing is rounded.
    docs/input_pipeline.md says how far apart that is on photographs.

    Args:
        layers: list of `Augmentation`: a `RandomResizedCrop`; then at most one `RandomRightAngle` and one
            `RandomRotation`; then at most one `RandomBandBrightness`; then at most one `RandomColorJitter` and any
            `RandomGrayscale`; then at most one `RandomBandDrop`; then at most one `RandomGaussianBlur`; then at most
            one `RandomNoise`. At most one `RandomHorizontalFlip` anywhere after the crop, but before rotations and
            noise.
        **kwargs: arguments of `Augmentation`.

    Returns:
        uint8 images of uint8 images, which are a quarter of the bytes of float32 to move; else float32.

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

        self._crop, self._turns, self._noise = placed[0], of(*TURNS), of(RandomNoise)
        self._colors = of(RandomColorJitter, RandomGrayscale)
        self._brightness, self._drop = of(RandomBandBrightness), of(RandomBandDrop)
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
        return images if images.dtype == tf.uint8 else super().prepare(images)

    def _ensure_inputs_are_compute_dtype(self, inputs):
        """keras-cv's, for a layer that is called; it would turn uint8 images into float32 ones."""
        cast = super()._ensure_inputs_are_compute_dtype(inputs)
        images = tf.convert_to_tensor(inputs["images"] if isinstance(inputs, dict) else inputs)
        if images.dtype != tf.uint8:
            return cast
        return {**cast, "images": images} if isinstance(inputs, dict) else images

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
        """Cuts, resizes, flips and rotates the views of one image: `(size, C, size)` for each, uint8 of uint8."""
        pixels, boxes, mirrored = selected["pixels"], selected["boxes"], selected["mirrored"]
        crops = (self._crop_one(pixels, boxes[view], mirrored[view]) for view in range(draws.shape[0]))
        if not self._turns:
            return tuple(crops)
        return tuple(self._turn(crop[None], draws[view : view + 1])[0] for view, crop in enumerate(crops))

    def begin_batch(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Cuts, resizes, flips and rotates images of one size: `(n, size, C, size)`, uint8 of uint8, else float32."""
        boxes, mirrored = self.boxes(draws, tf.shape(images)[1], tf.shape(images)[2])
        if self.takes_batches(images.shape[1:]):
            crops = self._crop_compiled(images, boxes, mirrored)
        else:
            spec = tf.TensorSpec([self.size, images.shape[-1], self.size], _type_of_views(images))
            parts = (images, boxes, mirrored)
            crops = tf.map_fn(lambda parts: self._crop_one(*parts), parts, fn_output_signature=spec)
        return self._turn(crops, draws) if self._turns else crops

    def finish(self, begun: tf.Tensor, draws: tf.Tensor, on_host: bool = True) -> tf.Tensor:
        """Colours and blurs, puts rows first, and adds noise.

        Args:
            begun: uint8 or float32 `(n, size, C, size)`, as from `begin` or `begin_batch`.
            draws: uniform random numbers in [0, 1), `(n, num_draws)`.
            on_host: bool. False in a training step on an accelerator. Defaults to `True`.

        Returns:
            `(n, size, size, C)` of the same type.
        """
        passes = self._on_host if on_host else self._on_device
        crops = passes.color(begun, draws) if self._colors or self._brightness or self._drop else begun
        if self._blur:
            _, columns = self._blur
            crops = passes.blur(crops, draws[:, columns])
        views = passes.upright(crops)
        for layer, columns in self._noise:
            views = as_type(layer.augment(tf.cast(views, "float32"), draws[:, columns]), views.dtype)
        return views

    def _crop_one(self, image, box, mirrored):
        """One image of any size: `(size, C, size)`. Columns come first, as resizing leaves them."""
        top, left, height, width = tf.unstack(box)
        view = resize_transposed(image[top : top + height, left : left + width], self.size)
        view = as_type(view, _type_of_views(image))
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
        return as_type(tf.reshape(views, [count, self.size, channels, self.size]), _type_of_views(images))

    def _turn(self, crops, draws):
        """Rotates crops `(n, column, C, row)`."""
        for layer, columns in self._turns:
            if isinstance(layer, RandomRightAngle):
                crops = layer.turn(crops, draws[:, columns], rows=3, columns=1)
            else:
                turned = layer.augment(tf.cast(_upright(crops), "float32"), draws[:, columns])
                crops = as_type(tf.transpose(turned, [0, 2, 3, 1]), crops.dtype)
        return crops

    def _color(self, crops, draws):
        steps = [step for layer, columns in self._colors for step in layer.color_steps(draws[:, columns])]
        planes = tf.unstack(tf.cast(crops, "float32"), axis=2)
        for layer, columns in self._brightness:
            planes = layer.augment_planes(planes, draws[:, columns])
        if steps:
            planes = self._map(planes, steps)
        for layer, columns in self._drop:
            planes = layer.augment_planes(planes, draws[:, columns])
        planes = [as_type(plane, crops.dtype) for plane in planes]
        if crops.dtype == tf.uint8:
            return tf.stack(planes, axis=2)
        # The same. Of three float planes XLA would compute a stack several times: four times as slow.
        return tf.reshape(tf.concat(planes, axis=2), tf.shape(crops))

    def _map(self, planes, steps):
        """The steps of jitter and grayscale, one after the other, on a list of channels."""
        stride = max(1, self.size // THUMB)
        thumbs = [plane[:, ::stride, ::stride] for plane in planes]
        if len(planes) == 3 and self._has_hue:
            before, steps, shift = split_at_hue(steps)
            first = fuse(before, _mean(thumbs))
            thumbs = shift_hue(first(thumbs), shift)
            planes = shift_hue(first(planes), shift)
        return fuse(steps, _mean(thumbs))(planes)

    def _blur_together(self, crops, draws):
        return self._blur[0].blur_planes(crops, draws)

    def _blur_one_by_one(self, crops, draws):
        layer, _ = self._blur

        def blur_one(parts):
            crop, draws = parts
            return tf.cond(draws[0] < layer.rate, lambda: layer.blur_planes(crop[None], draws[None])[0], lambda: crop)

        return tf.map_fn(blur_one, (crops, draws), fn_output_signature=tf.TensorSpec(crops.shape[1:], crops.dtype))


def _check_order(layers):
    def places(*kinds):
        return [place for place, layer in enumerate(layers) if isinstance(layer, kinds)]

    flips = places(RandomHorizontalFlip)
    staged = [place for stage in STAGES for place in places(*stage)]
    single = {RandomHorizontalFlip, *itertools.chain(*STAGES)} - {RandomGrayscale}
    if not (
        places(RandomResizedCrop) == [0]
        and staged == [place for place in range(len(layers)) if place not in flips]
        and all(len(places(kind)) <= 1 for kind in single)
        and not any(place < flip for flip in flips for place in places(*TURNS, RandomNoise))
    ):
        raise UserError(
            "`layers` must be a RandomResizedCrop, then at most one RandomRightAngle and one RandomRotation, then at "
            "most one RandomBandBrightness, then at most one RandomColorJitter and any RandomGrayscale, then at most "
            "one RandomBandDrop, then at most one RandomGaussianBlur, then at most one RandomNoise, with at most one "
            "RandomHorizontalFlip anywhere after the crop and before rotations and noise. Received: "
            f"{', '.join(type(layer).__name__ for layer in layers)}. Use `Compose`, which takes any order."
        )


def _type_of_views(images):
    """uint8 of uint8 images; of any others, float32."""
    return tf.uint8 if images.dtype == tf.uint8 else tf.float32


def _mean(planes):
    return tf.reduce_mean(luma(planes), axis=[1, 2])


def _upright(crops):
    """`(n, column, C, row)` as `(n, row, column, C)`."""
    return tf.transpose(crops, [0, 3, 1, 2])
