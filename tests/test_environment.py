"""The test environment that `conftest.py` sets up."""

import keras
import numpy as np
import pytest
import tensorflow as tf

DRAWS = []


@pytest.mark.parametrize("turn", range(2))
def test_every_test_starts_from_the_same_seed(turn):
    DRAWS.append((np.random.uniform(), float(keras.random.uniform(())), float(tf.random.uniform(()))))
    assert DRAWS[-1] == DRAWS[0]


@pytest.mark.parametrize("turn", range(2))
def test_a_dtype_policy_is_reset_after_each_test(turn):
    assert keras.config.dtype_policy().name == "float32"
    keras.config.set_dtype_policy("mixed_bfloat16")


def test_two_strategies_do_not_share_collectives():
    def add():
        return [tf.distribute.get_replica_context().all_reduce("sum", tf.ones(())) for _ in range(8)]

    def gather():
        return [tf.distribute.get_replica_context().all_gather(tf.ones(1), axis=0) for _ in range(8)]

    for operation in (add, gather):
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        results = tf.function(lambda run=strategy.run, step=operation: run(step))()
        for result in results:
            assert all(np.sum(local) == 2 for local in strategy.experimental_local_results(result))
