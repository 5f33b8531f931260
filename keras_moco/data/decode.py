"""Image decoding in a `tf.data` pipeline, as far as pixels are needed: of a JPEG the part that its crops see, once."""

import numpy as np
import tensorflow as tf

from keras_moco.image_formats.decoding import WINDOW
from keras_moco.image_formats.orient import STEPS
from keras_moco.image_formats.png import COLOUR, GRAY, simple_orientation

PNG = b"\x89PNG\r\n\x1a\n"
# How most files begin: JPEGs without further segments, so without EXIF, and PNGs of 8 bits, gray or colours, without
# further chunks, so without transparency and EXIF. Each line is bytes by their places; `None` is any byte.
_TABLES = (0xDB, 0xC0, 0xC2, 0xC4)  # after 0xFF: quantisation, frames, Huffman codes
_JPEG = {place: byte for place, byte in enumerate(b"\xff\xd8\xff")}
_JFIF = {**_JPEG, **{3 + place: byte for place, byte in enumerate(b"\xe0\x00\x10JFIF")}, 20: 0xFF}
_PNG_8 = {**dict(enumerate(PNG)), 24: 8, **{37 + place: byte for place, byte in enumerate(b"IDAT")}}
PLAIN = [
    *({**_JPEG, 3: table} for table in _TABLES),
    *({**_JFIF, 21: table} for table in _TABLES),
    *({**_PNG_8, 25: kind} for kind in (GRAY, COLOUR)),
]
_PLACES = sorted({place for line in PLAIN for place in line})
_BYTES = np.array([[line.get(place, 0) for place in _PLACES] for line in PLAIN], "uint8")
_ANY = np.array([[place not in line for place in _PLACES] for line in PLAIN])


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


class Files:
    """Opens the image files of a source, of any format of `keras_moco.image_formats`, recognised by their content.

    TensorFlow decodes JPEG and PNG of 8 bits, Python libraries all others, in parallel as far as these release Python's
    lock. EXIF orientation is applied; of an animation the first frame is taken.

    Args:
        content: function of what `Source.read` gives as the image to the bytes of its file, a scalar string tensor.
        decoding: `Decoding`.
    """

    def __init__(self, content, decoding):
        self._content, self.decoding = content, decoding

    def __call__(self, image):
        """The decoder of any file, `Encoded` or `Pixels`."""
        return decoder_of(self._content(image), self.decoding)

    def plain(self, image):
        """The decoder of a file as most are, a `Plain`. It fails for any other."""
        return Plain(self._content(image), self.decoding)

    @property
    def has_plain(self):
        """Whether some files may be plain."""
        return _takes_8_bits(self.decoding)


def decoder_of(data, decoding):
    """The decoder of a file, `Encoded` or `Pixels`, from its bytes, a scalar string tensor, and a `Decoding`."""
    return Encoded(data, decoding) if _takes_8_bits(decoding) else Pixels(_by_library(data, decoding))


def _takes_8_bits(decoding):
    """Whether TensorFlow may decode files of 8 bits: it has no other channels, and knows no windows."""
    return decoding.channels in (1, 3) and decoding.limits != WINDOW


class Plain:
    """A JPEG or PNG that begins as one of `PLAIN`, of one or three channels; any other fails.

    It is all that most files need. `attempt` makes its graph for every image, so it is kept small.

    Args:
        data: scalar string tensor, the file's bytes.
        decoding: `Decoding`.

    Attributes:
        height: scalar tensor.
        width: scalar tensor.
    """

    def __init__(self, data, decoding):
        head = tf.gather(tf.io.decode_raw(tf.strings.substr(data, 0, _PLACES[-1] + 1), tf.uint8), _PLACES)
        plain = tf.reduce_any(tf.reduce_all((head == _BYTES) | _ANY, axis=1))
        # The operation alone, since `tf.debugging.Assert` adds a conditional, which takes longer than all else here.
        with tf.control_dependencies([tf.raw_ops.Assert(condition=plain, data=["a file of another kind"])]):
            self._data, self._decoding = tf.identity(data), decoding
        self._open(tf.io.is_jpeg(self._data))
        self.height, self.width = self._shape[0], self._shape[1]

    def _open(self, is_jpeg):
        # A crop above the line where a JPEG breaks off would not notice: the image would be good in one epoch and bad
        # in another. A JPEG without its end marker is decoded as a whole, which fails if it is incomplete.
        data, nothing = self._data, tf.zeros([0, 0, self._decoding.channels], self._decoding.dtype)
        self._is_jpeg = is_jpeg
        self._by_parts = is_jpeg & (tf.strings.substr(data, -2, 2) == b"\xff\xd9")
        self._image = tf.cond(self._by_parts, lambda: nothing, self._decode)
        self._shape = tf.cond(
            self._by_parts, lambda: tf.io.extract_jpeg_shape(data)[:2], lambda: tf.shape(self._image)[:2]
        )

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
        return tf.cond(self._by_parts, lambda: self._part(box), lambda: _cut_out(self._image, box)), boxes

    def _part(self, box):
        part = tf.io.decode_and_crop_jpeg(self._data, box, channels=self._decoding.channels, **_ACCURATE)
        return self._finished(part)

    def _decode(self):
        return tf.cond(self._is_jpeg, self._whole_jpeg, self._whole_png)

    def _whole_jpeg(self):
        return self._finished(tf.io.decode_jpeg(self._data, channels=self._decoding.channels, **_ACCURATE))

    def _whole_png(self):
        if self._decoding.channels == 3:  # gray is repeated
            return self._finished(tf.io.decode_png(self._data, channels=3))
        image = tf.ensure_shape(tf.io.decode_png(self._data), [None, None, None])
        gray = tf.shape(image)[-1] == 1
        return self._finished(tf.cond(gray, lambda: image, lambda: tf.image.rgb_to_grayscale(image)))

    def _finished(self, image):
        """Brings an image of 8 bits into the range."""
        image = tf.ensure_shape(image, [None, None, self._decoding.channels])
        if self._decoding.limits is None:
            return image
        low, high = self._decoding.limits
        return tf.clip_by_value((tf.cast(image, "float32") - low) * (255 / (high - low)), 0.0, 255.0)


class Encoded(Plain):
    """An image file of any format, of one or three channels.

    Args:
        data: scalar string tensor, the file's bytes.
        decoding: `Decoding`.

    Attributes:
        height: scalar tensor.
        width: scalar tensor.
    """

    def __init__(self, data, decoding):
        self._data, self._decoding = data, decoding
        is_jpeg, self._is_png = tf.io.is_jpeg(data), tf.strings.substr(data, 0, len(PNG)) == PNG

        def look():
            return tf.ensure_shape(tf.numpy_function(_orientation, [data], tf.int32), [])

        self._orientation = tf.cond(is_jpeg | self._is_png, look, lambda: 1)
        self._open(is_jpeg)
        exchanged = self._by_parts & tf.gather(_EXCHANGED, self._orientation)
        self.height, self.width = tf.unstack(tf.cond(exchanged, lambda: self._shape[::-1], lambda: self._shape))

    def _part(self, box):
        return super()._part(self._stored(box))

    def _decode(self):
        def others():
            plain = self._is_png & (self._orientation > 0)
            return tf.cond(plain, self._whole_png, lambda: _by_library(self._data, self._decoding))

        return tf.cond(self._is_jpeg, self._whole_jpeg, others)

    def _finished(self, image):
        image = tf.ensure_shape(image, [None, None, self._decoding.channels])
        upright = tf.cond(self._orientation > 1, lambda: _upright(image, self._orientation), lambda: image)
        return super()._finished(upright)

    def _stored(self, box):
        """The box in the stored image of a box in the upright one."""
        top, left, height, width = tf.unstack(box)
        exchanged, rows, columns = (tf.gather(steps, self._orientation) for steps in _STEPS)
        top = tf.where(rows, self.height - top - height, top)
        left = tf.where(columns, self.width - left - width, left)
        return tf.where(exchanged, tf.stack([left, top, width, height]), tf.stack([top, left, height, width]))


_ACCURATE = {"dct_method": "INTEGER_ACCURATE"}  # as Pillow; the default one is off by up to 23 levels
# By orientation, 0 for none: whether rows and columns are exchanged, rows reversed, columns reversed.
_STEPS = [[False, *(steps[number] for steps in STEPS.values())] for number in range(3)]
_EXCHANGED = _STEPS[0]


def _by_library(data, decoding):
    image = tf.numpy_function(decoding.decode, [data], decoding.dtype)
    return tf.ensure_shape(image, [None, None, decoding.channels])


def _orientation(data):
    """The orientation of a JPEG or PNG, 1 to 8, and 0 for a PNG that TensorFlow does not decode as it should."""
    return np.int32(simple_orientation(data))


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
