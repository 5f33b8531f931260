"""Conditions on values that are known only while a step runs, and how their failure reaches the user."""

import base64
import contextlib
import json
import re

import numpy as np
import tensorflow as tf

from keras_moco.errors import UserError

# Around what was received, which TensorFlow prints as it is: with any brackets that it has.
_BEGIN, _END = "keras_moco:", "keras_moco."


def require(condition, rule, received, way_out):
    """Stops a step with one sentence unless a condition holds.

    XLA leaves such checks out, so nothing is checked on TPU, or in a layer that does not set `supports_jit = False`.

    Args:
        condition: scalar bool tensor.
        rule: str, what must hold.
        received: scalar tensor, what does not; or a tuple of such and of words, which are said one after the other.
        way_out: str, what to do.

    Returns:
        The operation on which depends what must not happen otherwise; `None` outside of a graph.

    Raises:
        ValueError: outside of a graph, at once; within one the step fails, see `plain_failures`.
    """
    parts = received if isinstance(received, tuple) else (received,)
    if tf.executing_eagerly():
        if not condition:
            raise _failure(rule, [part.numpy() if tf.is_tensor(part) else part for part in parts], way_out)
        return None
    # TensorFlow puts each into brackets and escapes quotes. What is known now goes through as letters and digits; text
    # that is known only in the step as well.
    words = [None if tf.is_tensor(part) else part for part in parts]
    tensors = [part for part in parts if tf.is_tensor(part)]
    are_text = [tensor.dtype == tf.string for tensor in tensors]
    told = base64.urlsafe_b64encode(json.dumps([rule, words, are_text, way_out]).encode()).decode()
    printed = [tf.io.encode_base64(each) if text else each for each, text in zip(tensors, are_text, strict=True)]
    return tf.debugging.Assert(condition, [rule, f"{_BEGIN}{told}", *printed, _END, way_out])


@contextlib.contextmanager
def plain_failures():
    """Turns the failure of a `require` in this block into a `ValueError` of its one sentence."""
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
    """A number without the digits that only its type adds; text as such."""
    return f"{part:g}" if isinstance(part, np.floating) else tf.compat.as_str_any(part)
