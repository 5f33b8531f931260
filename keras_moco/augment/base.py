"""The base of every augmentation: a keras-cv layer whose randomness is a plain tensor of uniform draws."""

import random

import tensorflow as tf
from keras_cv.layers import VectorizedBaseImageAugmentationLayer

from keras_moco.augment.images import image_batch
from keras_moco.checks.pixel_range import check_pixels
from keras_moco.errors import UserError


class Augmentation(VectorizedBaseImageAugmentationLayer):
    """A random image operation that is a pure function of images and uniform draws.

    Called as a layer, it draws from its own generator. Called as `augment_images(images, draws)`, it is
    stateless: each image's result depends on that image and its row of `draws` alone, whatever else is in
    the batch. A resumed run can so repeat its augmentations from a seed and an example's index.

    A subclass sets `num_draws` and implements `augment`.

    Args:
        seed: int or None. Seed of the layer's own generator. None takes one from Python's `random`, which
            `keras.utils.set_random_seed` makes repeatable.
        **kwargs: of `keras.layers.Layer`. `dtype` defaults to `"float32"` whatever the global policy:
            pixels in half precision would be off by up to a level in 0..255.

    Call arguments:
        inputs: images `(n, H, W, C)` or `(H, W, C)`, any numeric dtype, values 0..255; or a dict
            with such `"images"`. `"labels"` in it pass through unchanged. What needs colours (saturation, hue,
            grayscale) leaves images alone that have other than 3 channels.

    Returns:
        Images with values 0..255, float32 (of `Fused`, uint8), in the structure of the inputs.

    Raises:
        ValueError: if the images have another shape, or other values; or where it is made within a function of
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

    def __init__(self, seed=None, **kwargs):
        resolved = random.randrange(2**31 - 1) if seed is None else int(seed)
        kwargs.setdefault("dtype", "float32")
        if tf.inside_function():
            raise UserError(
                "An augmentation must be made once, outside of a function that is mapped or compiled, since its random "
                f"generator is a variable. Received: {type(self).__name__} made within one. Write for example "
                "`augmentation = moco_v2(224)` before it, and use `augmentation` in there."
            )
        # keras-cv takes seed 0 for "no seed", and would then share one global generator.
        super().__init__(seed=resolved + 1, **kwargs)
        self.seed = seed

    def build(self, input_shape):
        """Nothing to build; Keras warns when a layer that holds layers, as `Compose`, does not say so."""
        self.built = True

    def prepare(self, images):
        """The images in the type that `augment` works with: float32, or what a subclass prefers."""
        return tf.cast(images, "float32")

    def augment(self, images, draws):
        """The subclass's part: float32 `images` `(n, H, W, C)` and uniform `draws` `(n, num_draws)`."""
        raise NotImplementedError("A subclass of `Augmentation` must implement `augment(images, draws)`.")

    def augment_images(self, images, transformations, **_):
        """Applies the augmentation that the draws describe.

        Args:
            images: `(n, H, W, C)`, any numeric dtype, values 0..255. H and W may be unknown
                while a graph is built.
            transformations: uniform draws in [0, 1), `(n, num_draws)`.

        Returns:
            Images with values 0..255, float32 (of `Fused`, uint8).

        Raises:
            ValueError: if `images` are no such batch, or their values others (`keras_moco.checks.pixel_range`),
                which within a graph fails the step; or if the draws have another shape.
        """
        return self.augment_pixels(check_pixels(image_batch(images)), transformations)

    def augment_pixels(self, images, transformations):
        """`augment_images` of what is known to be images with values in 0..255: a tensor `(n, H, W, C)`."""
        images, draws = self.prepare(images), tf.cast(transformations, "float32")
        if draws.shape.rank != 2 or draws.shape[-1] not in (None, self.num_draws):
            raise UserError(
                "`transformations` must hold one row of uniform draws per image, shape (n, num_draws). "
                f"Received: shape={tuple(draws.shape)}, num_draws={self.num_draws}. Draw them in that shape."
            )
        return self.augment(images, draws)

    def call(self, inputs):
        images = inputs.get("images", inputs) if isinstance(inputs, dict) else inputs
        alone = hasattr(images, "shape") and tf.TensorShape(images.shape).rank == 3
        image_batch(images[None] if alone else images)  # keras-cv would say it in words of its own, or not at all
        return super().call(inputs)

    # In a pipeline: the first half, which sees the images as they are, and the second, which may run on an accelerator.

    def takes_batches(self, image_shape):
        """Whether `begin_batch` is the fast way for images `(h, w, C)` of that one size; else one by one."""
        return True

    def select(self, picture, draws):
        """Takes from one picture what its views need.

        Args:
            picture: a picture of `keras_moco.data.decode`.
            draws: uniform draws, `(views, num_draws)`, a row for each view.

        Returns:
            dict of tensors, of which `"pixels"` is all or part of the picture, `(h, w, C)`.
        """
        return {"pixels": picture.whole()}

    def begin(self, selected, draws):
        """Begins the views of what was selected by the same draws: tensors of one shape for all pictures."""
        image = selected["pixels"][None]
        return tuple(self.augment_images(image, draws[number : number + 1])[0] for number in range(draws.shape[0]))

    def begin_batch(self, images, draws):
        """Begins one view of each image `(n, h, w, C)`, by draws `(n, num_draws)`: what `finish` takes."""
        return self.augment_images(images, draws)

    def finish(self, begun, draws, on_host=True):
        """Finishes views that have been begun by the same draws `(n, num_draws)`: here nothing is left to do."""
        return begun

    def augment_labels(self, labels, transformations, **_):
        """Returns `labels` unchanged: no augmentation here changes what an image shows."""
        return labels

    def get_random_transformation_batch(self, batch_size, **_):
        """Returns uniform draws in [0, 1), `(batch_size, num_draws)`, from the layer's own generator."""
        return self._random_generator.uniform((batch_size, self.num_draws))

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
