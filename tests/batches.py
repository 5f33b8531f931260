"""Helpers for tests of pipelines: concatenated batches, and their comparison to the bit."""

import numpy as np


def take(dataset, steps):
    """The first batches, each entry as one array."""
    batches = list(dataset.take(steps).as_numpy_iterator())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
