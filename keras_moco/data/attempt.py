"""Try and except within a graph."""

import tensorflow as tf


def attempt(function, element):
    """`function(element)`, and whether it succeeded: try and except within a graph.

    TensorFlow stops at an operation that fails, and `tf.data` drops the example silently. Only a data set of one
    element that ignores errors continues and reports the failure. It is made for every element, so the function should
    do no more than what can fail.

    Args:
        function: function of the element to tensors, in any structure.
        element: tensors, in any structure.

    Returns:
        `(complete, result)`: a bool scalar tensor, and what the function returned, or zeros after a failure.
    """
    tried = tf.data.Dataset.from_tensors(element).map(lambda element: (True, function(element)))
    _, spec = tried.element_spec
    zeros = tf.nest.map_structure(lambda part: tf.zeros([size or 0 for size in part.shape], part.dtype), spec)
    tried = tried.ignore_errors().concatenate(tf.data.Dataset.from_tensors((False, zeros))).take(1)
    options = tf.data.Options()
    # With one element there is nothing to optimise, and trying takes longer than the element itself.
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    complete, result = tried.with_options(options).get_single_element()
    return complete, tf.nest.map_structure(lambda value, part: tf.ensure_shape(value, part.shape), result, spec)
