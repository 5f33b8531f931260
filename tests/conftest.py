"""The test environment: stricter than production, and the same for every test."""

import itertools
import os

# Before TensorFlow is imported: its C++ side reads these once, while it is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several workers share the cores, and four logical CPUs in each of them would start as many threads as there are
    # cores: a thread more than a core only waits for the others.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import pytest

LOGICAL_CPUS = 4


def pytest_configure(config):
    """Prepares the processes that run tests; the one that only distributes them needs no TensorFlow."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", default=None):
        prepare_tensorflow()


def prepare_tensorflow():
    """Splits the CPU in four before any test touches a device, so that replicas need no second machine."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * LOGICAL_CPUS)
    # Strategies of one process number their collectives from the same base, so those of two would collide. TensorFlow's
    # own tests move this base by hand (`strategy_combinations.py`); here each strategy gets another.
    bases = itertools.count(0, 100_000)
    tf.distribute.MirroredStrategy._collective_key_base = property(lambda self: next(bases))
    # The thread that tunes the parallelism of an iterator may take minutes to end when it is disposed of, in whichever
    # test that happens. It changes no value.
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    tf.data.Dataset._apply_debug_options = lambda self: self.with_options(untuned)


@pytest.fixture(autouse=True)
def fresh_keras():
    """Every test starts from one seed, fresh layer names and float32, whatever ran before it."""
    import keras

    keras.backend.clear_session(free_memory=False)
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session", autouse=True)
def without_xla():
    """Augmentations are not compiled by XLA, which would take seconds in every pipeline.

    Yields the function that says whether they are compiled for users.
    """
    from keras_moco.augment import compiled

    has_xla = compiled.has_xla
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "has_xla", lambda: False)
        yield has_xla


@pytest.fixture
def with_xla(without_xla, monkeypatch):
    """Augmentations are compiled, as they are for users."""
    monkeypatch.setattr("keras_moco.augment.compiled.has_xla", without_xla)
