"""Models that train in milliseconds, their batches and their whole state, for tests of `fit` and callbacks."""

import re

import keras
import numpy as np
import tensorflow as tf
from keras.optimizers.schedules import CosineDecay

from keras_moco.methods import MemoryBank, MoCo
from keras_moco.optimizers import SGD
from tests.small_encoder import SHAPE, small_encoder

BATCH, IMAGES = 8, 40  # 5 batches until images repeat
METHODS = {
    "moco": lambda encoder: MoCo(encoder, queue_size=21, momentum=0.9, temperature=0.2, bn_splits=2),
    "memory_bank": lambda encoder: MemoryBank(encoder, bank_size=IMAGES, num_negatives=7, temperature=0.2),
}


def strategy_of(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{replica}" for replica in range(replicas)])


def make_model(method="moco", replicas=1, seed=0, optimizer=None, **compile):
    """A model whose optimizer, made by a function, is built; its learning rate differs from step to step."""
    keras.utils.set_random_seed(seed)
    with strategy_of(replicas).scope():
        model = METHODS[method](small_encoder(batch_norm=True))
        made = optimizer() if optimizer else SGD(CosineDecay(0.1, 100), weight_decay=1e-3)
        model.compile(optimizer=made, **{"jit_compile": False, **compile})
        model.optimizer.build(model.trainable_variables)
    return model


def batches(first_step=0, poison=None, steps=200):
    """Batches from a step on; `poison` is a dict of step to what an image of it is multiplied by."""
    images = np.random.default_rng(0).uniform(0, 255, (steps, 2, BATCH, *SHAPE)).astype("float32")
    for step, factor in (poison or {}).items():
        images[step, :, BATCH - 1] *= factor  # only in the last replica
    index = np.arange(steps * BATCH).reshape(steps, BATCH) % IMAGES
    views = {"query": images[:, 0], "key": images[:, 1], "index": index}
    return without_autotune(tf.data.Dataset.from_tensor_slices(views).skip(first_step))


def random_batches(steps, batch, seed=0, images=None):
    """Views of random images for a number of steps; each of the `images` comes once before it comes again."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(0, 255, (2, steps * batch, *SHAPE)).astype("float32")
    index = np.resize(rng.permutation(images or steps * batch), steps * batch)
    views = {"query": first, "key": second, "index": index}
    return without_autotune(tf.data.Dataset.from_tensor_slices(views).batch(batch, drop_remainder=True))


def without_autotune(dataset):
    """Without the thread that tunes a data set, which may take a minute to end when its iterator is disposed of."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def variables(model):
    return [*model.variables, *model.optimizer.variables]


def state(model):
    """Every variable of model and optimizer on every replica, as bytes."""
    found = {}
    for place, variable in enumerate(variables(model)):
        path = re.sub(r"_\d+", "", variable.path)  # without the numbers that Keras adds to repeated names
        for replica, value in enumerate(model.distribute_strategy.experimental_local_results(variable.value)):
            found[f"{place} {path} on {replica}"] = np.array(value).tobytes()
    return found


def differing(before, after):
    """Names of the variables that are not identical to the bit."""
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


class Crash(Exception):
    """Raised by a test in the middle of training."""


class CrashAt(keras.callbacks.Callback):
    """Ends `fit` by a `Crash` as soon as that number of steps is done."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.steps_done >= self.step:
            raise Crash


def scramble(model, number=0.5):
    """Gives every variable of model and optimizer another value, the step `int(number)`."""
    for place, variable in enumerate(variables(model)):
        variable.assign(np.full(variable.shape, number + place))
