"""Whether TensorFlow computes in half precision here, which it must in tests of it.

It asks the processor what it can do, and oneDNN then refuses what `ONEDNN_MAX_CPU_ISA` withholds: a plain convolution
fails, before any code of this package.
"""

import functools

import pytest
import tensorflow as tf


@functools.cache
def _computes(dtype):
    @tf.function
    def layer(images, kernel, bias):
        return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(images, kernel, 1, "SAME"), bias))

    shapes = [(2, 4, 4, 3), (2, 2, 3, 4), (4,)]
    try:
        layer(*(tf.ones(shape, dtype) for shape in shapes))
    except (tf.errors.AbortedError, tf.errors.UnimplementedError):
        return False
    return True


def require(policy):
    """Skips the test unless a convolution works in the type that a dtype policy computes in."""
    dtype = policy.removeprefix("mixed_")
    if not _computes(dtype):
        pytest.skip(f"TensorFlow's own convolution fails in {dtype} here: ONEDNN_MAX_CPU_ISA withholds what it needs")
