"""Unreadable images: skipped, counted and named; too many of them are an error."""

import contextlib
import math
import re
import threading
from collections.abc import Iterator

import tensorflow as tf
from absl import logging

from keras_moco.checks.graph import plain_failures
from keras_moco.data.python_calls import call_python
from keras_moco.errors import UserError, one_line
from keras_moco.image_formats.registry import RULE

NAMED = 10  # images that the log names


class BadImagesError(UserError):
    """More images are unreadable than allowed."""


class BadImages:
    """The unreadable images of one source that have been met so far.

    Args:
        num_examples: int, the number of images of the source.
        describe: function of an index to a text that names the image and, if known, says what is wrong with it.
        max_fraction: float in [0, 1), the share of images that may be unreadable. Defaults to `0.01`.
        strict: bool, whether the first unreadable image is an error. Defaults to `False`.

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
        """A `BadImages`, as strict as this one, of some of the images, which count from 0 in the order given."""
        return BadImages(
            len(indices), lambda index: self.describe(int(indices[index])), self.max_fraction, strict=self.strict
        )

    def without_limit(self):
        """A `BadImages` of the same images that only notes which are unreadable, however many."""
        unlimited = BadImages(self.num_examples, self.describe)
        unlimited.max_fraction = math.inf
        return unlimited

    @property
    def count(self):
        """int. Different unreadable images met so far."""
        return len(self._met)

    def report(self, index):
        """Notes an unreadable image, and returns False: it is not to be used.

        Raises:
            BadImagesError: if there are now too many.
        """
        index = int(index)
        with self._lock:
            if index in self._met:
                return False
            self._met[index] = one_line(self.describe(index))
            count, name = len(self._met), self._met[index]
        if self.strict:
            raise BadImagesError(
                f"{RULE} Received: {name}. Repair or delete it, or go without --strict_data, which skips it."
            )
        if count <= NAMED:
            logging.warning("skipped, since it cannot be read: %s", name)
        if count > self.max_fraction * self.num_examples:
            raise BadImagesError(
                f"At most {100 * self.max_fraction:g} % of the images may be unreadable. Received: {count} of "
                f"{self.num_examples} so far, among them {name}. Repair or delete them, or raise --max_bad_fraction."
            )
        return False

    @property
    def met(self):
        """dict, the index of each unreadable image met so far to its description."""
        with self._lock:
            return dict(self._met)

    def remember(self, met):
        """Adds what an earlier process has met, as `met` gave it; these images are counted, and not reported again."""
        with self._lock:
            self._met |= {int(index): name for index, name in met.items()}

    def kept(self, complete, index):
        """Whether an example is good, a bool tensor; a bad one is reported. For `tf.data.Dataset.filter`."""

        def report():
            return call_python(self.report, [index], tf.bool)

        return tf.cond(complete, lambda: True, report)

    def summary(self):
        """A line about the unreadable images met so far; empty if there are none."""
        if not self.count:
            return ""
        names = list(self._met.values())[:NAMED]
        more = f", and {self.count - NAMED} more" if self.count > NAMED else ""
        return (
            f"{self.count} of {self.num_examples} images could not be read and were skipped: {'; '.join(names)}{more}"
        )


@contextlib.contextmanager
def plain_read_errors() -> Iterator[None]:
    """Turns an error that a data pipeline reports about images or labels during training into a plain `ValueError`.

    TensorFlow wraps it in the names of its operations; all other errors pass as they are.

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
        reason = re.search(rf"\b(?:{BadImagesError.__name__}|{UserError.__name__}): (.*)", error.message or "")
        if reason is None:
            raise
        raise UserError(reason[1]) from error
