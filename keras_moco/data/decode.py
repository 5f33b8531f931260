"""Image decoding in a `tf.data` pipeline, as far as pixels are needed: of a JPEG the part that its crops see, once."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_moco.data.attempt import attempt
from keras_moco.data.python_calls import call_python
from keras_moco.image_formats.decoding import WINDOW, Decoding, linear
from keras_moco.image_formats.orient import STEPS, stored_box, upright
from keras_moco.image_formats.png import COLOUR, GRAY, simple_orientation
from keras_moco.image_formats.registry import Raw

JPEG, JPEG_END, PNG = b"\xff\xd8\xff", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
# How most files begin: JPEGs without further segments, so without EXIF, and PNGs of 8 bits, gray or colours, without
# further chunks, so without transparency and EXIF. Each line is bytes by their places; all others may be any.
_TABLES = (0xDB, 0xC0, 0xC2, 0xC4)  # after 0xFF: quantisation, frames, Huffman codes
_JPEG = dict(enumerate(JPEG))
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
        decoding: `Decoding`.
        fetch: function of what `Source.read` gives as the image to a tensor, which cannot fail. Defaults to the image
            itself.
        content: function of what was fetched to the bytes of its file, a scalar string tensor. Defaults to what was
            fetched.
        read: the same in Python, of bytes to bytes.
        original: function of what `Source.read` gives as the image to the bytes of its file, in Python, which raises
            `OSError`, with the reason, if it cannot. Defaults to `read`, where nothing is fetched.
    """

    def __init__(self, decoding, fetch=None, content=None, read=None, original=None):
        self.decoding, self._fetch = decoding, fetch
        self._content, self._read = content or tf.identity, read or bytes
        self.original = original or self._read

    def in_range(self, limits):
        """`Files` of the same files whose decoding has other `limits`."""
        decoding = dataclasses.replace(self.decoding, limits=limits)
        return Files(decoding, self._fetch, self._content, self._read, self.original)

    def open(self, image, function):
        """Opens an image, within a function of `tf.data`.

        Args:
            image: what `Source.read` gives.
            function: function of a decoder to tensors, in any structure. It should do little more than what may fail.

        Returns:
            `(complete, result)`: whether it succeeded, a bool scalar tensor, and what the function returned.
        """
        fetched = self._fetch(image) if self._fetch else image
        if not _takes_8_bits(self.decoding):
            return self._any(fetched, function)

        def plain(fetched):
            return function(Plain(self._content(fetched), self.decoding))

        complete, result = attempt(plain, fetched)
        return tf.cond(complete, lambda: (True, result), lambda: self._any(fetched, function))

    def pixels(self, image):
        """The pixels of an image that `Source.read` gives, outside of a pipeline: an array `(h, w, channels)`.

        Raises:
            Exception: of any kind, if it cannot be read or does not fit.
        """
        return pixels_of(self.original(image), self.decoding)

    def _any(self, fetched, function):
        decoder = AnyFile(fetched, self.decoding, self._read)
        result = function(decoder)
        return decoder.complete, result


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
        # A crop above the line where a JPEG breaks off would not notice: the image would be good in one epoch and bad
        # in another. A JPEG without its end marker is decoded as a whole, which fails if it is incomplete.
        data, nothing = self._data, tf.zeros([0, 0, decoding.channels], decoding.dtype)
        self._is_jpeg = tf.io.is_jpeg(data)
        self._by_parts = self._is_jpeg & (tf.strings.substr(data, -2, 2) == JPEG_END)
        self._image = tf.cond(self._by_parts, lambda: nothing, self._decode)
        shape = tf.cond(self._by_parts, lambda: tf.io.extract_jpeg_shape(data)[:2], lambda: tf.shape(self._image)[:2])
        self.height, self.width = shape[0], shape[1]

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
        low, scale = linear(self._decoding.limits)
        return tf.clip_by_value((tf.cast(image, "float32") - low) * scale, 0.0, 255.0)


class AnyFile:
    """An image file of any format. Python decodes it, of a JPEG the part that is needed.

    That may fail, and must not be within `attempt`, whose data set would hold the thread that Python's function waits
    for: `complete` says how it went.

    Args:
        fetched: scalar string tensor, from which `read` reads the bytes of the file.
        decoding: `Decoding`.
        read: function of bytes to bytes.

    Attributes:
        height: scalar tensor.
        width: scalar tensor.
        complete: scalar bool tensor, whether all that was asked for could be decoded.
    """

    def __init__(self, fetched, decoding, read):
        self._fetched, self._decoding, self._read = fetched, decoding, read
        kinds = [tf.bool, tf.int32, tf.int32, decoding.dtype]
        found = call_python(self._begin, [fetched], kinds)
        self.complete, size, orientation, image = found
        self.complete.set_shape([])
        self.height, self.width = tf.unstack(tf.ensure_shape(size, [2]))
        self._orientation = tf.ensure_shape(orientation, [])  # 0 if the image is decoded already
        self._image = tf.ensure_shape(image, [None, None, decoding.channels])

    def whole(self):
        """`(h, w, channels)`, of the type of the decoding."""
        return self._cut(tf.stack([0, 0, self.height, self.width]))

    def around(self, boxes):
        """The smallest part that holds all boxes, as of `Plain`."""
        box, boxes = _hull(boxes)
        return self._cut(box), boxes

    def _cut(self, box):
        def decode():
            done, part = call_python(
                self._part, [self._fetched, box, self._orientation], [tf.bool, self._decoding.dtype]
            )
            return tf.ensure_shape(done, []), tf.ensure_shape(part, [None, None, self._decoding.channels])

        done, part = tf.cond(self._orientation > 0, decode, lambda: (True, _cut_out(self._image, box)))
        self.complete &= done
        return part

    def _begin(self, fetched):
        """Whether it can be read, its size, its orientation if parts of it can be decoded, and otherwise its pixels."""
        nothing = np.zeros((1, 1, self._decoding.channels), self._decoding.dtype)
        try:
            data = self._read(fetched)
            whole_jpeg = data.startswith(JPEG) and data.endswith(JPEG_END)
            orientation = simple_orientation(data) if _takes_8_bits(self._decoding) and whole_jpeg else 0
            if orientation:
                size = np.array(tf.io.extract_jpeg_shape(data)[:2], "int32")
                return True, size[::-1] if STEPS[orientation][0] else size, np.int32(orientation), nothing
            pixels = pixels_of(data, self._decoding)
        except Exception:  # of any library; the image is reported, and `what_is_wrong` looks for the reason
            return False, np.ones(2, "int32"), np.int32(0), nothing
        return True, np.array(pixels.shape[:2], "int32"), np.int32(0), pixels

    def _part(self, fetched, box, orientation):
        try:
            data = self._read(fetched)
            stored = stored_box(box.tolist(), tf.io.extract_jpeg_shape(data)[:2].numpy().tolist(), int(orientation))
            part = tf.io.decode_and_crop_jpeg(data, stored, channels=self._decoding.channels, **_ACCURATE).numpy()
            return True, self._decoding.pixels(Raw(upright(part, int(orientation)), 255.0))
        except (tf.errors.OpError, OSError, MemoryError):
            # The rest is damaged or too large, or the file is gone since its beginning was read. Nothing is cut out of
            # an image that is skipped, and the size in a damaged header may be more than the memory holds.
            return False, np.zeros((1, 1, self._decoding.channels), self._decoding.dtype)


def pixels_of(data: bytes, decoding: Decoding) -> np.ndarray:
    """The pixels of a file, `(h, w, channels)` of the type of the decoding, as a pipeline has them.

    Raises:
        Exception: of any kind, if it cannot be read or does not fit.
    """
    is_jpeg, is_png = data.startswith(JPEG), data.startswith(PNG)
    orientation = simple_orientation(data) if is_jpeg or is_png else 0
    if not (_takes_8_bits(decoding) and orientation):
        return decoding.decode(data)
    if is_jpeg:
        values = tf.io.decode_jpeg(data, channels=decoding.channels, **_ACCURATE).numpy()
    else:
        values = tf.io.decode_png(data).numpy()
    return decoding.pixels(Raw(upright(values, orientation), 255.0))


_ACCURATE = {"dct_method": "INTEGER_ACCURATE"}  # as Pillow; the default one is off by up to 23 levels


def _cut_out(image, box):
    """The part `box`, of top, left, height and width, of an image `(h, w, C)`."""
    top, left, height, width = tf.unstack(box)
    return image[top : top + height, left : left + width]


def _hull(boxes):
    """The smallest box that holds all boxes, and these within it."""
    start = tf.reduce_min(boxes[:, :2], axis=0)
    extent = tf.reduce_max(boxes[:, :2] + boxes[:, 2:], axis=0) - start
    return tf.concat([start, extent], axis=0), boxes - tf.concat([start, [0, 0]], axis=0)
