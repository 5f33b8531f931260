"""What one worker does in `test_workers.py`: `fit` in a program of one's own, and its numbers in a file.

python -m tests.multiworker.fit '{"batch_norm": true}' result.npz
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_moco import distribution
from keras_moco.methods import MemoryBank, MoCo
from keras_moco.optimizers import SGD
from tests.small_encoder import SHAPE, small_encoder

BATCH, STEPS = 32, 20


def moco(encoder):
    return MoCo(encoder, queue_size=75, momentum=0.9, temperature=0.2, seed=3)


def memory_bank(encoder):
    return MemoryBank(encoder, STEPS // 4 * BATCH, num_negatives=40, temperature=0.2, seed=3)


def train(strategy, make="moco", batch_norm=False, precision="float32", repeat=False, **compile):
    """Trains 20 steps in 4 epochs: a dict of losses and all variables, as arrays."""
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = {"moco": moco, "memory_bank": memory_bank}[make](small_encoder(batch_norm))
        model.compile(optimizer=SGD(0.1, weight_decay=1e-3), **compile)
    images = np.random.default_rng(0).uniform(0, 255, (2, STEPS // 4 * BATCH, *SHAPE)).astype("float32")
    views = {"query": images[0], "key": images[1], "index": np.arange(len(images[0]))}
    data = tf.data.Dataset.from_tensor_slices(views).batch(BATCH, drop_remainder=True)
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread may take a minute to end
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = data.with_options(options)
    # Finite, as most people have it, or endless.
    history = model.fit(data.repeat() if repeat else data, epochs=4, steps_per_epoch=5 if repeat else None, verbose=0)
    variables = [*model.weights, *model.optimizer.variables]
    numbers = {f"{place:03d} {variable.path}": np.array(variable) for place, variable in enumerate(variables)}
    return {**numbers, "losses": history.history["loss"]}


if __name__ == "__main__":
    strategy = distribution.make_strategy("multiworker")
    np.savez(sys.argv[2], **train(strategy, **json.loads(sys.argv[1])))
