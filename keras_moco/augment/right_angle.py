"""RandomRightAngle."""

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation
from keras_moco.checks.graph import require
from keras_moco.errors import UserError

RULE = "`images` must be square, or a rotation by a right angle would change their shape."
WAY_OUT = "Crop them first, for example by `RandomResizedCrop`."


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomRightAngle(Augmentation):
    """Rotates a square image by 0, 90, 180 or 270 degrees, mirrored or not: the eight symmetries of a square.

    All eight are equally likely, as in albumentations's `D4`. For images without a top, as from above or through a
    microscope. Pixels only change their place, so no value is interpolated.

    Args:
        **kwargs: arguments of `Augmentation`.

    Raises:
        ValueError: if images are not square, which within a graph fails the step.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomRightAngle
    >>> image = np.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    >>> RandomRightAngle().augment_images(image[None], [[0.8]]).numpy()[0, ..., 0].tolist()
    [[2.0, 4.0], [1.0, 3.0]]
    """

    num_draws = 1

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        height, width = images.shape[1:3]
        if None not in (height, width) and height != width:
            raise UserError(f"{RULE} Received: height {height} and width {width}. {WAY_OUT}")
        if height is None or width is None:
            size = tf.shape(images)
            check = require(size[1] == size[2], RULE, ("height", size[1], "and width", size[2]), WAY_OUT)
            with tf.control_dependencies([check] if check is not None else []):
                images = tf.identity(images)
        return self.turn(images, draws)

    def turn(self, images: tf.Tensor, draws: tf.Tensor, rows: int = 1, columns: int = 2) -> tf.Tensor:
        """`augment` without its check, of tensors with rows and columns along any axes.

        Args:
            images: a tensor of rank 4 with images along axis 0, of any type.
            draws: uniform random numbers, `(n, 1)`.
            rows: int, the axis of the rows. Defaults to `1`.
            columns: int, the axis of the columns. Defaults to `2`.

        Returns:
            A tensor of the same shape and type.
        """
        symmetry = tf.minimum(tf.cast(8.0 * draws[:, 0], "int32"), 7)[:, None, None, None]
        swapped = list(range(4))
        swapped[rows], swapped[columns] = columns, rows
        # Transposed or not, then mirrored along neither axis, one or both.
        turned = tf.where(symmetry >= 4, tf.transpose(images, swapped), images)
        turned = tf.where(symmetry % 4 >= 2, tf.reverse(turned, [rows]), turned)
        turned = tf.where(symmetry % 2 == 1, tf.reverse(turned, [columns]), turned)
        return tf.ensure_shape(turned, images.shape)
