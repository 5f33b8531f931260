"""Images inside archives, each read by itself at its place, as a source: in any order, as if they were files."""

import concurrent.futures
import functools
import os

import tensorflow as tf

from keras_moco.data.arrays import permutation
from keras_moco.data.decode import Files
from keras_moco.data.python_calls import call_python
from keras_moco.data.sample import decoding_of, look_at, places
from keras_moco.data.source import Source
from keras_moco.errors import UserError
from keras_moco.image_formats.registry import RULE, what_is_wrong


class MemberError(Exception):
    """An image cannot be read from its archive; the message says why."""


def archive_source(name, options, contents, files, labels, class_names, identity):
    """A source of images that are read one by one.

    There is no TensorFlow operation that reads a part of a file, so a Python function does. It opens the archive for
    each image: no archive stays open, however many there are.

    Args:
        name: str, name of the source.
        options: `Options`. With `cache` all images are read into memory, encoded, when the source is opened.
        contents: function of the number of an image, an int, to its bytes. It is called by several threads at a time,
            and raises `MemberError` or `OSError`.
        files: list of str, for each image the path of its archive and its name in it.
        labels: int array `(n,)`, classes from 0, or -1.
        class_names: tuple of str, or `None` for unlabelled images.
        identity: function to a dict of digests.

    Returns:
        A `Source`.
    """
    count = len(files)

    def sample():
        chosen = {index: functools.partial(_beginning, contents, index) for index in places(count)}
        return look_at(chosen, options.channels)

    decoding = _decoding(sample(), contents, files, name, options)

    def original(index):
        try:
            return contents(int(index))
        except MemberError as error:
            raise OSError(str(error)) from error

    def content_or_nothing(index):
        # An empty image fails later, as a damaged one does.
        try:
            return original(index)
        except OSError:
            return b""

    def read_one(index):
        return tf.ensure_shape(call_python(content_or_nothing, [index], tf.string), ())

    def cached():
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return list(pool.map(content_or_nothing, range(count)))

    with tf.device("CPU"):
        labels = tf.constant(labels, tf.int32)
        images = tf.constant(cached()) if options.cache else None

    def read(seed):
        order = tf.data.Dataset.from_tensor_slices(permutation(count, seed))

        def entries(index):
            return {"image": index if images is None else images[index], "label": labels[index], "index": index}

        return order.map(entries)

    return Source(
        name=name,
        split=options.split,
        num_examples=count,
        image_shape=(None, None, decoding.channels),
        class_names=class_names,
        read=read,
        encoded=Files(decoding, fetch=read_one, original=original) if images is None else Files(decoding),
        bad=options.judge(count, lambda index: _describe_unreadable(contents, files, decoding, int(index))),
        files=tuple(files),
        identity=identity,
        sample=sample,
    )


def read_at(path, offset, size):
    """The bytes of a part of a file.

    Raises:
        MemberError: if the file ends before.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(file, size, offset)
    finally:
        os.close(file)
    if len(data) < size:
        raise MemberError("the archive ends inside it")
    return data


def _decoding(sample, contents, files, name, options):
    """How the images are decoded, from a sample of them."""
    decoding = decoding_of(sample, name, options)
    if decoding is None:
        raise UserError(
            f"{RULE} Received: {_describe_unreadable(contents, files, None, 0)}, and none of {len(sample.unread)} "
            "images that were tried can be read. Repair or delete them."
        )
    return decoding


def _beginning(contents, index, size):
    try:
        return contents(index)[:size]
    except MemberError as error:
        raise OSError(str(error)) from error


def _describe_unreadable(contents, files, decoding, index):
    """A text that names an image that cannot be read, and says why."""
    try:
        reason = what_is_wrong(contents(index), decoding and decoding.decode)
    except MemberError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or str(error)
    return f"{files[index]} ({reason})"
