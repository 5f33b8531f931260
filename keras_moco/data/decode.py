"""Image decoding in a `tf.data` pipeline, as far as pixels are needed: of a JPEG the part that its crops see, once."""

import numpy as np
import tensorflow as tf

from keras_moco.image_formats.decoding import WINDOW
from keras_moco.image_formats.orient import STEPS
from keras_moco.image_formats.png import simple_orientation

PNG = b"\x89PNG\r\n\x1a\n"
# What follows the first marker of a JPEG without further segments: tables or the frame itself, so no EXIF.
TABLES = (b"\xff\xdb", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4")
PLAIN_PNG = (b"\x08\x00", b"\x08\x02")  # 8 bits, gray or colours


class Pixels:
    """An image in memory.

    Args:
        image: uint8 or float32 `(h, w, C)`.

    Attributes:
        height: int or scalar tensor.
        width: int or scalar tensor.
    """

    def __init__(self, image):
        self._image = image
        self.height, self.width = tf.shape(image)[0], tf.shape(image)[1]

    def whole(self):
        """`(h, w, C)`."""
        return self._image

    def around(self, boxes):
        """A part that holds all boxes, int32 `(k, 4)` of top, left, height and width: here the whole, at no cost.

        Returns:
            `(part, boxes)`: `(h, w, C)`, and the boxes within it.
        """
        return self._image, boxes


def decoder_of(data, decoding):
    """The decoder of an image file of any format of `keras_moco.image_formats`, recognised by its content.

    TensorFlow decodes JPEG and plain PNG of 8 bits, Python libraries all others, in parallel as far as these release
    Python's lock. EXIF orientation is applied; of an animation the first frame is taken.

    Args:
        data: scalar string tensor, the file's bytes.
        decoding: `Decoding`.

    Returns:
        `Encoded` or `Pixels`.
    """
    if decoding.channels in (1, 3) and decoding.limits != WINDOW:
        return Encoded(data, decoding)
    return Pixels(_by_library(data, decoding))


class Encoded:
    """An image file, of one or three channels.

    Args:
        data: scalar string tensor, the file's bytes.
        decoding: `Decoding`.

    Attributes:
        height: scalar tensor.
        width: scalar tensor.
    """

    def __init__(self, data, decoding):
        self._data, self._decoding = data, decoding
        self._is_jpeg, self._is_png = tf.io.is_jpeg(data), tf.strings.substr(data, 0, len(PNG)) == PNG
        self._orientation = tf.cond(self._is_jpeg | self._is_png, lambda: _orientation(data), lambda: 1)
        # A crop above the line where a JPEG breaks off would not notice: the image would be good in one epoch and bad
        # in another. A JPEG without its end marker is decoded as a whole, which fails if it is incomplete.
        ended = tf.strings.substr(data, -2, 2) == b"\xff\xd9"
        self._by_parts = self._is_jpeg & ended
        nothing = tf.zeros([0, 0, decoding.channels], decoding.dtype)
        self._image = tf.cond(self._by_parts, lambda: nothing, self._decode)
        shape = tf.cond(self._by_parts, lambda: tf.io.extract_jpeg_shape(data)[:2], lambda: tf.shape(self._image)[:2])
        exchanged = self._by_parts & tf.gather(_EXCHANGED, self._orientation)
        self.height, self.width = tf.unstack(tf.cond(exchanged, lambda: shape[::-1], lambda: shape))

    def whole(self):
        """`(h, w, channels)`, of the type of the decoding."""
        return tf.cond(self._by_parts, self._decode, lambda: self._image)

    def around(self, boxes):
        """The smallest part that holds all boxes, int32 `(k, 4)` of top, left, height and width.

        A JPEG is decoded once for all of them: a second time would read all the rows above again.

        Returns:
            `(part, boxes)`: `(h, w, channels)`, of the type of the decoding, and the boxes within it.
        """
        box, boxes = _hull(boxes)

        def decode():
            stored = self._turned(box)
            part = tf.io.decode_and_crop_jpeg(self._data, stored, channels=self._decoding.channels, **_ACCURATE)
            return self._finished(part)

        return tf.cond(self._by_parts, decode, lambda: _cut_out(self._image, box)), boxes

    def _decode(self):
        plain_png = self._is_png & (self._orientation > 0)

        def no_jpeg():
            return tf.cond(plain_png, self._whole_png, lambda: _by_library(self._data, self._decoding))

        return tf.cond(self._is_jpeg, self._whole_jpeg, no_jpeg)

    def _whole_jpeg(self):
        return self._finished(tf.io.decode_jpeg(self._data, channels=self._decoding.channels, **_ACCURATE))

    def _whole_png(self):
        image = tf.ensure_shape(tf.io.decode_png(self._data), [None, None, None])
        gray = tf.shape(image)[-1] == 1
        if self._decoding.channels == 1:
            image = tf.cond(gray, lambda: image, lambda: tf.image.rgb_to_grayscale(image))
        else:
            image = tf.cond(gray, lambda: tf.repeat(image, 3, axis=-1), lambda: image)
        return self._finished(image)

    def _finished(self, image):
        """Turns an image of 8 bits upright and brings it into the range."""
        image = tf.ensure_shape(image, [None, None, self._decoding.channels])
        image = tf.cond(self._orientation > 1, lambda: _upright(image, self._orientation), lambda: image)
        if self._decoding.limits is None:
            return image
        low, high = self._decoding.limits
        return tf.clip_by_value((tf.cast(image, "float32") - low) * (255 / (high - low)), 0.0, 255.0)

    def _turned(self, box):
        """The box in the stored image of a box in the upright one."""

        def turn():
            top, left, height, width = tf.unstack(box)
            exchanged, rows, columns = (tf.gather(steps, self._orientation) for steps in _STEPS)
            top = tf.where(rows, self.height - top - height, top)
            left = tf.where(columns, self.width - left - width, left)
            return tf.where(exchanged, tf.stack([left, top, width, height]), tf.stack([top, left, height, width]))

        return tf.cond(self._orientation > 1, turn, lambda: box)


_ACCURATE = {"dct_method": "INTEGER_ACCURATE"}  # as Pillow; the default one is off by up to 23 levels
# By orientation, 0 for none: whether rows and columns are exchanged, rows reversed, columns reversed.
_STEPS = [[False, *(steps[number] for steps in STEPS.values())] for number in range(3)]
_EXCHANGED = _STEPS[0]


def _by_library(data, decoding):
    image = tf.numpy_function(decoding.decode, [data], decoding.dtype)
    return tf.ensure_shape(image, [None, None, decoding.channels])


def _orientation(data):
    """The orientation of a JPEG or PNG, 1 to 8, and 0 for a PNG that TensorFlow does not decode as it should."""
    first, second = tf.strings.substr(data, 2, 2), tf.strings.substr(data, 20, 2)
    jfif = (tf.strings.substr(data, 2, 4) == b"\xff\xe0\x00\x10") & _is_one_of(second, TABLES)
    jpeg = _is_one_of(first, TABLES) | jfif
    png = _is_one_of(tf.strings.substr(data, 24, 2), PLAIN_PNG) & (tf.strings.substr(data, 37, 4) == b"IDAT")
    plain = tf.cond(tf.io.is_jpeg(data), lambda: jpeg, lambda: png)
    return tf.cond(plain, lambda: 1, lambda: tf.ensure_shape(tf.numpy_function(_look, [data], tf.int32), []))


def _look(data):
    return np.int32(simple_orientation(data))


def _is_one_of(text, choices):
    return tf.reduce_any(text == tf.constant(choices))


def _upright(image, orientation):
    exchanged, rows, columns = (tf.gather(steps, orientation) for steps in _STEPS)
    image = tf.cond(exchanged, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(rows, lambda: image[::-1], lambda: image)
    return tf.cond(columns, lambda: image[:, ::-1], lambda: image)


def _cut_out(image, box):
    """The part `box`, of top, left, height and width, of an image `(h, w, C)`."""
    top, left, height, width = tf.unstack(box)
    return image[top : top + height, left : left + width]


def _hull(boxes):
    """The smallest box that holds all boxes, and these within it."""
    start = tf.reduce_min(boxes[:, :2], axis=0)
    extent = tf.reduce_max(boxes[:, :2] + boxes[:, 2:], axis=0) - start
    return tf.concat([start, extent], axis=0), boxes - tf.concat([start, [0, 0]], axis=0)
