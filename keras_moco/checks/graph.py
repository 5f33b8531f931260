"""Checks of values that are known only while a step runs, and how a failure reaches the user."""

import base64
import contextlib
import json
import re

import numpy as np
import tensorflow as tf

from keras_moco.errors import UserError

# Marks around what was received, which TensorFlow prints unescaped, with any brackets in it.
_BEGIN, _END = "keras_moco:", "keras_moco."


def require(condition, rule, received, way_out):
    """Stops a step with an error message unless a condition holds.

    XLA omits such checks, so nothing is checked on TPU, or in a layer that does not set `supports_jit = False`.

    Args:
        condition: scalar bool tensor.
        rule: str, what must hold.
        received: scalar tensor, or a tuple of scalar tensors and words, which are printed one after the other.
        way_out: str, what to do.

    Returns:
        The operation to use as a control dependency; `None` outside of a graph.

    Raises:
        ValueError: outside of a graph, immediately; in a graph the step fails, see `plain_failures`.
    """
    parts = received if isinstance(received, tuple) else (received,)
    if tf.executing_eagerly():
        if not condition:
            raise _failure(rule, [part.numpy() if tf.is_tensor(part) else part for part in parts], way_out)
        return None
    # TensorFlow puts each part into brackets and escapes quotes. What is known now passes in base64, and so does text
    # that is known only during the step.
    words = [None if tf.is_tensor(part) else part for part in parts]
    tensors = [part for part in parts if tf.is_tensor(part)]
    are_text = [tensor.dtype == tf.string for tensor in tensors]
    known = base64.urlsafe_b64encode(json.dumps([rule, words, are_text, way_out]).encode()).decode()
    printed = [tf.io.encode_base64(each) if text else each for each, text in zip(tensors, are_text, strict=True)]
    return tf.debugging.Assert(condition, [rule, f"{_BEGIN}{known}", *printed, _END, way_out])


@contextlib.contextmanager
def plain_failures():
    """Turns the failure of a `require` in this block into a `UserError` with its message."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(rf"\[{re.escape(_BEGIN)}([\w=-]+)\] (.*?)\[{re.escape(_END)}\]", str(error))
        if not found:
            raise
        rule, words, are_text, way_out = json.loads(base64.urlsafe_b64decode(found[1]))
        values = (
            tf.io.decode_base64(value).numpy() if is_text else value
            for value, is_text in zip(re.findall(r"\[(.*?)\]", found[2]), are_text, strict=True)
        )
        raise _failure(rule, [next(values) if word is None else word for word in words], way_out) from error


def _failure(rule, received, way_out):
    return UserError(f"{rule} Received: {' '.join(map(_plain, received))}. {way_out}")


def _plain(part):
    """A float without the digits that only its type adds; other values unchanged."""
    return f"{part:g}" if isinstance(part, np.floating) else tf.compat.as_str_any(part)
