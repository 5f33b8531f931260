"""Conditions on values that are known only while a step runs, and how their failure reaches the user."""

import contextlib
import re

import tensorflow as tf


def require(condition, rule, received, way_out):
    """An operation that stops the step unless a condition holds; what must not happen first depends on it.

    XLA leaves such operations out, so with `jit_compile=True`, and on TPU, nothing is checked.

    Args:
        condition: scalar bool tensor.
        rule: str, what must hold; like `way_out` without square brackets.
        received: scalar tensor, what does not.
        way_out: str, what to do.
    """
    return tf.debugging.Assert(condition, [f"{rule} Received:", received, f"{way_out}"])


@contextlib.contextmanager
def plain_failures():
    """Turns the failure of a `require` in this block into a `ValueError` of its one sentence."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"assertion failed: ((?:\[[^\[\]]*\] ?){3})", str(error))
        if not found:
            raise
        rule, received, way_out = re.findall(r"\[([^\[\]]*)\]", found[1])
        raise ValueError(f"{rule} {received}. {way_out}") from error
