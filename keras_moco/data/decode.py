"""Images that are opened as far as they are needed: a JPEG decodes the part that its crops see, once."""

import tensorflow as tf


class Pixels:
    """An image in memory.

    Args:
        image: uint8 `(h, w, C)`.

    Attributes:
        height: int or scalar tensor.
        width: int or scalar tensor.
    """

    def __init__(self, image):
        self._image = image
        self.height, self.width = tf.shape(image)[0], tf.shape(image)[1]

    def whole(self):
        """uint8 `(h, w, C)`."""
        return self._image

    def around(self, boxes):
        """A part that holds all boxes, int32 `(k, 4)` of top, left, height and width: here the whole, for nothing.

        Returns:
            `(part, boxes)`: uint8 `(h, w, C)`, and the boxes within it.
        """
        return self._image, boxes


class Encoded:
    """A JPEG, PNG, BMP or GIF, told apart by its content; the first picture of an animation.

    Other numbers of channels than asked for are converted, alpha is dropped, CMYK becomes RGB and 16 bits become 8.

    Args:
        data: scalar string tensor, the file's bytes.
        channels: int, 1 or 3, of the pixels that come out.

    Attributes:
        height: scalar tensor.
        width: scalar tensor.
    """

    def __init__(self, data, channels):
        self._data, self._channels = data, channels
        # Where a JPEG breaks off, a crop above that line would not notice: today the image would be good, tomorrow
        # bad. A JPEG without its end marker is decoded as a whole, which fails if it is incomplete.
        ended = tf.strings.substr(data, -2, 2) == b"\xff\xd9"
        self._by_parts = tf.logical_and(tf.io.is_jpeg(data), ended)
        self._image = tf.cond(self._by_parts, lambda: tf.zeros([0, 0, channels], tf.uint8), self._decode)
        shape = tf.cond(self._by_parts, lambda: tf.io.extract_jpeg_shape(data)[:2], lambda: tf.shape(self._image)[:2])
        self.height, self.width = shape[0], shape[1]

    def whole(self):
        """uint8 `(h, w, channels)`."""
        return tf.cond(self._by_parts, self._decode, lambda: self._image)

    def around(self, boxes):
        """The smallest part that holds all boxes, int32 `(k, 4)` of top, left, height and width.

        A JPEG is decoded once for all of them: a second time would read all the rows above anew.

        Returns:
            `(part, boxes)`: uint8 `(h, w, channels)`, and the boxes within it.
        """
        box, boxes = _hull(boxes)

        def decode():
            return tf.io.decode_and_crop_jpeg(self._data, box, channels=self._channels, dct_method="INTEGER_ACCURATE")

        return tf.cond(self._by_parts, decode, lambda: cut_out(self._image, box)), boxes

    def _decode(self):
        image = tf.io.decode_image(self._data, expand_animations=False)
        image = tf.ensure_shape(image, [None, None, None])
        # 1 gray, 2 gray and alpha, 3 colour, 4 colour and alpha
        gray = tf.shape(image)[-1] < 3
        if self._channels == 1:
            image = tf.cond(gray, lambda: image[..., :1], lambda: tf.image.rgb_to_grayscale(image[..., :3]))
        else:
            image = tf.cond(gray, lambda: tf.repeat(image[..., :1], 3, axis=-1), lambda: image[..., :3])
        return tf.ensure_shape(image, [None, None, self._channels])


def cut_out(image, box):
    """The part `box`, of top, left, height and width, of an image `(h, w, C)`."""
    top, left, height, width = tf.unstack(box)
    return image[top : top + height, left : left + width]


def attempt(function, element):
    """`function(element)`, or the knowledge that it failed.

    TensorFlow stops at an operation that fails, and tf.data drops the example without a word. A data set of one
    element that ignores errors is the one place where one can go on and know. It is made anew for every element, so
    the function should do no more than what can fail.

    Returns:
        `(complete, result)`: a bool scalar tensor, and what the function returned, or zeros.
    """
    tried = tf.data.Dataset.from_tensors(element).map(lambda element: (True, function(element)))
    _, spec = tried.element_spec
    zeros = tf.nest.map_structure(lambda part: tf.zeros([size or 0 for size in part.shape], part.dtype), spec)
    tried = tried.ignore_errors().concatenate(tf.data.Dataset.from_tensors((False, zeros))).take(1)
    options = tf.data.Options()
    # There is nothing to gain in one element, and looking for it would take longer than the element does.
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    complete, result = tried.with_options(options).get_single_element()
    return complete, tf.nest.map_structure(lambda value, part: tf.ensure_shape(value, part.shape), result, spec)


def _hull(boxes):
    """The smallest box that holds all boxes, and these within it."""
    start = tf.reduce_min(boxes[:, :2], axis=0)
    extent = tf.reduce_max(boxes[:, :2] + boxes[:, 2:], axis=0) - start
    return tf.concat([start, extent], axis=0), boxes - tf.concat([start, [0, 0]], axis=0)
