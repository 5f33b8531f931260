"""The base of every augmentation: a keras-cv layer whose randomness is a plain tensor of random numbers."""

import random
from typing import Any

import tensorflow as tf
from keras_cv.layers import VectorizedBaseImageAugmentationLayer

from keras_moco.augment.images import image_batch
from keras_moco.checks.pixel_range import check_pixels
from keras_moco.errors import UserError

Range = tuple[float, float]  # its ends


class Augmentation(VectorizedBaseImageAugmentationLayer):
    """A random image operation that is a pure function of images and uniform random numbers.

    Called as a layer, it takes them from its own generator. Called as `augment_images(images, draws)`, it is
    stateless: each image's result depends on that image and its row of `draws` alone, whatever else is in
    the batch. So a resumed run can repeat its augmentations from a seed and an image's place in the epoch.

    A subclass sets `num_draws` and implements `augment`.

    Args:
        seed: int or None. Seed of the layer's own generator. None takes one from Python's `random`, which
            `keras.utils.set_random_seed` makes repeatable.
        **kwargs: arguments of `keras.layers.Layer`. `dtype` defaults to `"float32"` whatever the global policy:
            pixels in half precision would be off by up to a level in 0..255.

    Call arguments:
        inputs: images `(n, H, W, C)` or `(H, W, C)`, any numeric dtype, values 0..255, fractions included; or a
            dict with such `"images"`. `"labels"` in it pass through unchanged. Colour operations (saturation, hue,
            grayscale) do not change images of other than 3 channels; all others treat every channel alike.

    Returns:
        Images with values 0..255, float32 (of `Fused`, uint8 for uint8 images), in the structure of the inputs.

    Raises:
        ValueError: if the images have another shape, or other values; or if the layer is made within a function of
            TensorFlow.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomHorizontalFlip
    >>> flip = RandomHorizontalFlip(rate=0.5)
    >>> image = np.array([[[[0.0], [255.0]]]])
    >>> flip.augment_images(image, [[0.1]]).numpy().ravel().tolist()
    [255.0, 0.0]
    >>> flip.augment_images(image, [[0.9]]).numpy().ravel().tolist()
    [0.0, 255.0]
    """

    num_draws: int

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        resolved = random.randrange(2**31 - 1) if seed is None else int(seed)
        kwargs.setdefault("dtype", "float32")
        if tf.inside_function():
            raise UserError(
                "An augmentation must be made once, outside of a function that is mapped or compiled, since its random "
                f"generator is a variable. Received: {type(self).__name__} made within one. Write for example "
                "`augmentation = moco_v2(224)` before the function, and use `augmentation` in it."
            )
        # keras-cv takes seed 0 for "no seed", and would then use the global generator.
        super().__init__(seed=resolved + 1, **kwargs)
        self.seed = seed
        self._generator = tf.random.Generator.from_seed(resolved + 1)

    def build(self, input_shape: Any) -> None:
        """Nothing to build; Keras warns when a layer that holds layers, as `Compose`, does not say so."""
        self.built = True

    def prepare(self, images: tf.Tensor) -> tf.Tensor:
        """The images in the type that `augment` works with: float32, or what a subclass prefers."""
        return tf.cast(images, "float32")

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """The subclass's part: of float32 `images` `(n, H, W, C)` and uniform `draws` `(n, num_draws)`."""
        raise NotImplementedError("A subclass of `Augmentation` must implement `augment(images, draws)`.")

    def augment_images(
        self, images: tf.types.experimental.TensorLike, transformations: tf.types.experimental.TensorLike, **_: Any
    ) -> tf.Tensor:
        """Applies the augmentation that the random numbers describe.

        Args:
            images: `(n, H, W, C)`, any numeric dtype, values 0..255. H and W may be unknown
                while a graph is built.
            transformations: uniform random numbers in [0, 1), `(n, num_draws)`.

        Returns:
            Images with values 0..255, float32 (of `Fused`, uint8 for uint8 images).

        Raises:
            ValueError: if `images` is no such batch, or has other values (`keras_moco.checks.pixel_range`), which
                within a graph fails the step; or if the random numbers have another shape.
        """
        return self.augment_pixels(check_pixels(image_batch(images)), transformations)

    def augment_pixels(self, images: tf.Tensor, transformations: tf.types.experimental.TensorLike) -> tf.Tensor:
        """`augment_images` without its checks, of a tensor `(n, H, W, C)` with values in 0..255."""
        images, draws = self.prepare(images), tf.cast(transformations, "float32")
        if draws.shape.rank != 2 or draws.shape[-1] not in (None, self.num_draws):
            raise UserError(
                "`transformations` must hold one row of uniform random numbers per image, shape (n, num_draws). "
                f"Received: shape={tuple(draws.shape)}, num_draws={self.num_draws}. Make them in that shape."
            )
        return self.augment(images, draws)

    def call(self, inputs: tf.types.experimental.TensorLike | dict[str, Any]) -> Any:
        images = inputs.get("images", inputs) if isinstance(inputs, dict) else inputs
        alone = hasattr(images, "shape") and tf.TensorShape(images.shape).rank == 3
        image_batch(images[None] if alone else images)  # keras-cv has unclear errors, or none
        return super().call(inputs)

    # For pipelines, in two halves: the first sees decoded images of any size, the second may run on an accelerator.

    def takes_batches(self, image_shape: tuple[int | None, ...]) -> bool:
        """Whether `begin_batch` is the fast way for images that all have the size `(h, w, C)`; else one by one."""
        return True

    def select(self, decoder: Any, draws: tf.Tensor) -> dict[str, tf.Tensor]:
        """Decodes of one image what its views need.

        Args:
            decoder: `Plain`, `AnyFile` or `Pixels` of `keras_moco.data.decode`.
            draws: uniform random numbers, `(views, num_draws)`, a row for each view.

        Returns:
            dict of tensors, of which `"pixels"` is all or part of the image, `(h, w, C)`.
        """
        return {"pixels": decoder.whole()}

    def begin(self, selected: dict[str, tf.Tensor], draws: tf.Tensor) -> Any:
        """Begins the views of what `select` returned for the same `draws`: tensors of the same shape for all images."""
        # Without the check of pixels: a decoded image has values in 0..255, however dark it is.
        image = selected["pixels"][None]
        return tuple(self.augment_pixels(image, draws[number : number + 1])[0] for number in range(draws.shape[0]))

    def begin_batch(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Begins one view of each image `(n, h, w, C)`, by random numbers `(n, num_draws)`: what `finish` takes."""
        return self.augment_pixels(images, draws)

    def finish(self, begun: tf.Tensor, draws: tf.Tensor, on_host: bool = True) -> tf.Tensor:
        """Finishes views that were begun with the same random numbers `(n, num_draws)`: here nothing is left to do."""
        return begun

    def without_effect(self, channels: int) -> tuple[str, ...]:
        """Names of the operations that do not change images of that many channels, for people; of most, none."""
        return ()

    def augment_labels(self, labels: Any, transformations: Any, **_: Any) -> Any:
        """Returns `labels` unchanged: no augmentation here changes what an image shows."""
        return labels

    def get_random_transformation_batch(self, batch_size: int, **_: Any) -> tf.Tensor:
        """Returns uniform random numbers in [0, 1), `(batch_size, num_draws)`, from the layer's own generator."""
        return self._generator.uniform((batch_size, self.num_draws))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


def apply_where(selected, function, images, *parameters):
    """Applies `function(images, *parameters)` to the selected images alone.

    The others keep exactly their values, and cost no more than a copy.

    Args:
        selected: bool `(n,)`, which images to change.
        function: function of `(m, H, W, C)` images, and `(m, ...)` of each parameter, to images of the same shape.
        images: `(n, H, W, C)`.
        *parameters: tensors `(n, ...)`, one row for each image.

    Returns:
        `(n, H, W, C)`.
    """
    rows = tf.where(selected)
    chosen = function(*(tf.gather_nd(tensor, rows) for tensor in (images, *parameters)))
    return tf.tensor_scatter_nd_update(images, rows, chosen)


def as_type(values, dtype):
    """Float values in 0..255 as uint8, rounded to whole levels (a cast alone would round down), or as they are."""
    return tf.cast(values + 0.5, "uint8") if dtype == tf.uint8 else values


def check_rate(rate):
    """Returns `rate` as a float; it must be a probability."""
    if not 0 <= rate <= 1:
        raise UserError(
            "`rate` must be the probability, from 0 to 1, that an image is changed. "
            f"Received: rate={rate}. Choose a number in that range."
        )
    return float(rate)
