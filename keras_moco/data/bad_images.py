"""Images that cannot be read: left out, counted, named, and too many of them an end."""

import contextlib
import re
import threading

import tensorflow as tf
from absl import logging

from keras_moco.checks.graph import plain_failures
from keras_moco.errors import UserError, one_line

RULE = "An image file must be a complete JPEG, PNG, BMP or GIF."
NAMED = 10  # of them in the log


class BadImagesError(UserError):
    """There are more unreadable images than may be."""


class BadImages:
    """The unreadable images of one source, as they are met.

    Args:
        num_examples: int, images of the source.
        describe: function of an index to a text that names the image and, where it is known, says what is wrong.
        max_fraction: float in [0, 1), how many of them may be unreadable. Defaults to `0.01`.
        strict: bool, whether the first one is too many. Defaults to `False`.

    Example:

    >>> bad = BadImages(1000, "number {}".format)
    >>> bad.report(17), bad.count
    (False, 1)
    """

    def __init__(self, num_examples, describe, max_fraction=0.01, strict=False):
        if not 0 <= max_fraction < 1:
            raise UserError(
                "`max_bad_fraction` must be in [0, 1). "
                f"Received: max_bad_fraction={max_fraction}. Give the share of images that may be unreadable."
            )
        self.num_examples = num_examples
        self.max_fraction = max_fraction
        self.strict = strict
        self.describe = describe
        self._met = {}  # index to description; the same image is met again in every epoch
        self._lock = threading.Lock()

    def among(self, indices):
        """A `BadImages`, as strict as this one, of some of the images alone, counted from 0 in the order given."""
        return BadImages(
            len(indices), lambda index: self.describe(int(indices[index])), self.max_fraction, strict=self.strict
        )

    @property
    def count(self):
        """int. Different unreadable images met so far."""
        return len(self._met)

    def report(self, index):
        """Takes note of an unreadable image, and returns False: it is not to be used.

        Raises:
            BadImagesError: if it is one too many.
        """
        index = int(index)
        with self._lock:
            if index in self._met:
                return False
            self._met[index] = one_line(self.describe(index))
            count, name = len(self._met), self._met[index]
        if self.strict:
            raise BadImagesError(
                f"{RULE} Received: {name}. Repair or delete it, or go without --strict_data, which leaves it out."
            )
        if count <= NAMED:
            logging.warning("left out, since it cannot be read: %s", name)
        if count > self.max_fraction * self.num_examples:
            raise BadImagesError(
                f"At most {100 * self.max_fraction:g} % of the images may be unreadable. Received: {count} of "
                f"{self.num_examples} so far, among them {name}. Repair or delete them, or raise --max_bad_fraction."
            )
        return False

    @property
    def met(self):
        """dict, the indices of those met so far to what was wrong with them."""
        with self._lock:
            return dict(self._met)

    def remember(self, met):
        """Takes over what an earlier process has met, as `met` gave it; they are counted, and not told again."""
        with self._lock:
            self._met |= {int(index): name for index, name in met.items()}

    def kept(self, complete, index):
        """Whether an example is good, a bool tensor; a bad one is reported. For `tf.data.Dataset.filter`."""

        def report():
            return tf.numpy_function(self.report, [index], tf.bool)

        return tf.cond(complete, lambda: True, report)

    def summary(self):
        """What was met: a line of text, or an empty one."""
        if not self.count:
            return ""
        names = list(self._met.values())[:NAMED]
        more = f", and {self.count - NAMED} more" if self.count > NAMED else ""
        return (
            f"{self.count} of {self.num_examples} images could not be read and were left out: {'; '.join(names)}{more}"
        )


def what_is_wrong(content):
    """What is wrong with the bytes of an image that could not be decoded: a few words."""
    if not content:
        return "an empty file"
    kinds = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"GIF8": "GIF"}
    for magic, kind in kinds.items():
        if content.startswith(magic):
            return f"a damaged, incomplete or too large {kind}"
    return "no JPEG, PNG, BMP or GIF"


@contextlib.contextmanager
def plain_read_errors():
    """Turns what a data pipeline reports of images or labels, in the middle of a training, into a plain `ValueError`.

    TensorFlow wraps it into the names of its operations; everything else passes as it is.

    Raises:
        ValueError: naming the images.

    Example:

    >>> with plain_read_errors():
    ...     pass
    """
    try:
        with plain_failures():
            yield
    except tf.errors.OpError as error:
        said = re.search(rf"\b(?:{BadImagesError.__name__}|{UserError.__name__}): (.*)", error.message or "")
        if said is None:
            raise
        raise UserError(said[1]) from error
