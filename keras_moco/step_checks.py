"""Conditions on values that are known only while a step runs, and how their failure reaches the user."""

import contextlib
import re

import numpy as np
import tensorflow as tf

from keras_moco.errors import UserError


def require(condition, rule, received, way_out):
    """Stops a step with one sentence unless a condition holds.

    XLA leaves such checks out, so nothing is checked on TPU, or in a layer that does not set `supports_jit = False`.

    Args:
        condition: scalar bool tensor.
        rule: str, what must hold; like `way_out` without square brackets.
        received: scalar tensor, what does not; or a tuple of such and of words, which are said one after the other.
        way_out: str, what to do.

    Returns:
        The operation on which depends what must not happen otherwise; `None` outside of a graph.

    Raises:
        ValueError: outside of a graph, at once; within one the step fails, see `plain_failures`.
    """
    received = received if isinstance(received, tuple) else (received,)
    if tf.executing_eagerly():
        if not condition:
            raise _failure(rule, [part.numpy() if tf.is_tensor(part) else part for part in received], way_out)
        return None
    return tf.debugging.Assert(condition, [rule, *received, way_out])


@contextlib.contextmanager
def plain_failures():
    """Turns the failure of a `require` in this block into a `ValueError` of its one sentence."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"assertion failed: ((?:\[[^\[\]]*\] ?){3,})", str(error))
        if not found:
            raise
        rule, *received, way_out = re.findall(r"\[([^\[\]]*)\]", found[1])
        raise _failure(rule, received, way_out) from error


def _failure(rule, received, way_out):
    return UserError(f"{rule} Received: {' '.join(map(_plain, received))}. {way_out}")


def _plain(part):
    """A number without the digits that only its type adds."""
    return f"{part:g}" if isinstance(part, np.floating) else str(part)
