"""What is wrong with an image, in one sentence."""

import contextlib
import re

import tensorflow as tf

RULE = "An image file must be a complete JPEG, PNG, BMP or GIF."


@contextlib.contextmanager
def plain_read_errors():
    """Turns the report of a damaged image, raised by tf.data in the middle of a training, into a plain `ValueError`.

    TensorFlow wraps what a data pipeline reports into the names of its operations; everything else passes as it is.

    Raises:
        ValueError: naming the damaged file.

    Example:

    >>> with plain_read_errors():
    ...     pass
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        file = re.search(re.escape(f"[{RULE} Received:]") + r" \[(.*?)\]", error.message)
        if file is None:
            raise
        raise ValueError(f"{RULE} Received: {file[1]}. Repair or delete it, and start again.") from error
