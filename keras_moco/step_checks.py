"""Conditions on values that are known only while a step runs, and how their failure reaches the user."""

import base64
import contextlib
import json
import re

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
        received: scalar tensor, what does not.
        way_out: str, what to do.

    Returns:
        The operation on which depends what must not happen otherwise; `None` outside of a graph.

    Raises:
        ValueError: outside of a graph, at once; within one the step fails, see `plain_failures`.
    """
    if tf.executing_eagerly():
        if not condition:
            raise _failure(rule, tf.compat.as_str_any(received.numpy()), way_out)
        return None
    # TensorFlow puts each into brackets and escapes quotes. What is known now goes through as letters and digits; text
    # that is known only in the step as well.
    is_text = received.dtype == tf.string
    told = base64.urlsafe_b64encode(json.dumps([rule, way_out, is_text]).encode()).decode()
    printed = tf.io.encode_base64(received) if is_text else received
    return tf.debugging.Assert(condition, [rule, f"{_BEGIN}{told}", printed, _END, way_out])


@contextlib.contextmanager
def plain_failures():
    """Turns the failure of a `require` in this block into a `ValueError` of its one sentence."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        pattern = rf"\[{re.escape(_BEGIN)}([\w=-]+)\] \[(.*?)\] \[{re.escape(_END)}\]"
        found = re.search(pattern, str(error))
        if not found:
            raise
        rule, way_out, is_text = json.loads(base64.urlsafe_b64decode(found[1]))
        received = tf.io.decode_base64(found[2]).numpy().decode() if is_text else found[2]
        raise _failure(rule, received, way_out) from error


def _failure(rule, received, way_out):
    return UserError(f"{rule} Received: {received}. {way_out}")
