"""Image decoding, as far as pixels are needed: of a JPEG the part that its crops see, once."""

import tensorflow as tf

# Each format: the first bytes of its files, and the suffixes of their names.
FORMATS = {
    "JPEG": (b"\xff\xd8\xff", (".jpg", ".jpeg")),
    "PNG": (b"\x89PNG", (".png",)),
    "BMP": (b"BM", (".bmp",)),
    "GIF": (b"GIF8", (".gif",)),
}
SUFFIXES = tuple(suffix for _, suffixes in FORMATS.values() for suffix in suffixes)
NAMES = "JPEG, PNG, BMP or GIF"
RULE = f"An image file must be a complete {NAMES}."


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
        """A part that holds all boxes, int32 `(k, 4)` of top, left, height and width: here the whole, at no cost.

        Returns:
            `(part, boxes)`: uint8 `(h, w, C)`, and the boxes within it.
        """
        return self._image, boxes


class Encoded:
    """A JPEG, PNG, BMP or GIF, recognised by its content; the first frame of an animation.

    Another number of channels is converted, an alpha channel is dropped, CMYK becomes RGB and 16 bits become 8.

    Args:
        data: scalar string tensor, the file's bytes.
        channels: int, 1 or 3, of the pixels that come out.

    Attributes:
        height: scalar tensor.
        width: scalar tensor.
    """

    def __init__(self, data, channels):
        self._data, self._channels = data, channels
        # A crop above the line where a JPEG breaks off would not notice: the image would be good in one epoch and bad
        # in another. A JPEG without its end marker is decoded as a whole, which fails if it is incomplete.
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

        A JPEG is decoded once for all of them: a second time would read all the rows above again.

        Returns:
            `(part, boxes)`: uint8 `(h, w, channels)`, and the boxes within it.
        """
        box, boxes = _hull(boxes)

        def decode():
            return tf.io.decode_and_crop_jpeg(self._data, box, channels=self._channels, dct_method="INTEGER_ACCURATE")

        return tf.cond(self._by_parts, decode, lambda: _cut_out(self._image, box)), boxes

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


def channels_of(data):
    """The channels that a source has whose first image this is: 1 if it is gray, with alpha or without, else 3.

    Args:
        data: the bytes of a file.

    Raises:
        tf.errors.InvalidArgumentError: if it cannot be decoded.
    """
    return 1 if tf.io.decode_image(data, expand_animations=False).shape[-1] < 3 else 3


def what_is_wrong(data):
    """A few words about the bytes of an image that could not be decoded."""
    if not data:
        return "an empty file"
    for name, (first_bytes, _) in FORMATS.items():
        if data.startswith(first_bytes):
            return f"a damaged, incomplete or too large {name}"
    return f"no {NAMES}"


def _cut_out(image, box):
    """The part `box`, of top, left, height and width, of an image `(h, w, C)`."""
    top, left, height, width = tf.unstack(box)
    return image[top : top + height, left : left + width]


def _hull(boxes):
    """The smallest box that holds all boxes, and these within it."""
    start = tf.reduce_min(boxes[:, :2], axis=0)
    extent = tf.reduce_max(boxes[:, :2] + boxes[:, 2:], axis=0) - start
    return tf.concat([start, extent], axis=0), boxes - tf.concat([start, [0, 0]], axis=0)
