"""The test environment: stricter than production, and the same for every test."""

import itertools
import os

# Before TensorFlow is imported: its C++ side reads this once, while it is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest
import tensorflow as tf

LOGICAL_CPUS = 4
# Strategies of one process number their collectives alike, so the second one meets those of the first.
# TensorFlow's own tests move this base by hand (`strategy_combinations.py`); here each gets another.
_bases = itertools.count(0, 100_000)
tf.distribute.MirroredStrategy._collective_key_base = property(lambda self: next(_bases))


def pytest_configure():
    """Splits the CPU in four before any test touches a device, so that replicas need no second machine."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * LOGICAL_CPUS)


@pytest.fixture(autouse=True)
def fresh_keras():
    """Every test starts from one seed, fresh layer names and float32, whatever ran before it."""
    keras.backend.clear_session(free_memory=False)
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
