"""MoCo's step in `fit`, the least that it must compute, and supervised training by Keras."""

import platform
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_moco import SGD, Encoder, MoCo, linear_head, resnet
from keras_moco.layers import split_batch
from keras_moco.networks import shuffle_bn
from keras_moco.networks.weights import duplicate
from steps import LEARNING_RATE, MOMENTUM, TEMPERATURE, WEIGHT_DECAY

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def model_and_step(case, precision, jit_compile=False):
    """A `MoCo`, and its step in `fit`, from the moment this asks for a batch until it has the logs."""
    model = MoCo(_encoder(case, precision), case.queue_size, MOMENTUM, TEMPERATURE, bn_splits=case.bn_splits)
    model.compile(optimizer=SGD(LEARNING_RATE, weight_decay=WEIGHT_DECAY), jit_compile=jit_compile)
    query, key = _views(case)
    return model, _step_of_fit(model, {"query": query, "key": key})


def fit(case, precision):
    return model_and_step(case, precision)[1]


def fit_with_xla(case, precision):
    return model_and_step(case, precision, jit_compile=True)[1]


def limit(case, precision):
    """Forward and backward pass and SGD of the query encoder, forward pass of the key encoder, and nothing else."""
    query_encoder = _encoder(case, precision)
    key_encoder = duplicate(query_encoder, "key_encoder")
    optimizer = SGD(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    optimizer.build(query_encoder.trainable_variables)

    @tf.function
    def step(query, key):
        with split_batch(case.bn_splits):
            keys = tf.stop_gradient(key_encoder(key, training=True))
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(query_encoder(query, training=True) * keys)
            gradients = tape.gradient(loss, query_encoder.trainable_variables)
        optimizer.apply(gradients, query_encoder.trainable_variables)
        return loss

    query, key = map(tf.constant, _views(case))

    def take():
        start = time.perf_counter()
        step(query, key).numpy()
        return time.perf_counter() - start

    return take


def supervised(case, precision):
    """Keras's own `fit` of the same network as a classifier, on one view of as many images."""
    encoder = _encoder(case, precision)
    for layer in shuffle_bn.batch_norm_layers(encoder):
        layer.splits = case.bn_splits
    classify = keras.layers.Dense(10, dtype="float32")
    model = keras.Sequential([encoder.scaling, encoder.backbone, encoder.pool, classify])
    model.compile(keras.optimizers.SGD(LEARNING_RATE, 0.9), keras.losses.SparseCategoricalCrossentropy(True))
    return _step_of_fit(model, (_views(case)[0], np.arange(case.batch) % 10))


CANDIDATES = {"fit": fit, "limit": limit, "supervised": supervised, "fit with XLA": fit_with_xla}


def device():
    """Its name."""
    for gpu in tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{len(models)} cores of {models[0]}" if models else platform.processor()


def _encoder(case, precision):
    keras.config.set_dtype_policy(POLICIES[precision])
    backbone = resnet(case.backbone, stem=case.stem, input_shape=case.image_shape)
    return Encoder(backbone, linear_head(case.features))


def _views(case):
    return np.random.default_rng(0).uniform(0, 255, (2, case.batch, *case.image_shape)).astype("float32")


class _Stopwatch(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # a GPU may not be through yet
        self.seconds = time.perf_counter() - self.start


def _step_of_fit(model, batch):
    data = tf.data.Dataset.from_tensors(batch).repeat()
    stopwatch = _Stopwatch()

    def take():
        model.fit(data, steps_per_epoch=1, verbose=0, shuffle=False, callbacks=[stopwatch])
        return stopwatch.seconds

    return take
