"""`train.py` with the small network of `tests.tiny`; on two logical CPUs where it trains on two replicas alone.

python -m tests.multiworker.train_tiny --flag=value ...
"""

import signal
import sys

import tensorflow as tf

from keras_moco.commands.registry import COMMANDS
from tests import tiny  # noqa: F401, for the backbone

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which background processes ignore by default
    if "--strategy=mirrored" in sys.argv:
        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
    COMMANDS["pretrain"].main(sys.argv[1:])
