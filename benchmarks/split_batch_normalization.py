"""Split BatchNorm against Keras's BatchNorm and against the same formula with broadcast groups.

    python benchmarks/split_batch_normalization.py [--quick] [--json PATH]

Times forward and backward passes in training mode; repetitions of all candidates are interleaved, so that a change of
the machine's speed meets all of them alike. Only the ratios travel to other machines.
"""

import argparse
import json
import statistics
import time

import keras
import tensorflow as tf
from keras import ops

from keras_moco.layers import SplitBatchNormalization

SPLITS = 8
# Activations of a ResNet-18 with the CIFAR stem at 32 pixels, batch 128: its first and its last stage.
SHAPES = [(128, 32, 32, 64), (128, 4, 4, 512)]


class Broadcast(keras.layers.Layer):
    """The formula on the whole batch at once, groups on an axis of their own."""

    def call(self, inputs, training=True):
        n, height, width, channels = inputs.shape
        groups = ops.reshape(inputs, (n // SPLITS, SPLITS, height * width, channels))
        mean, variance = ops.moments(groups, axes=(0, 2), keepdims=True)
        return ops.reshape((groups - mean) * ops.rsqrt(variance + 1e-5), inputs.shape)


def candidates():
    return {
        "split": SplitBatchNormalization(SPLITS),
        "one_group": SplitBatchNormalization(1),
        "keras": keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
        "broadcast": Broadcast(),
    }


def make_step(layer, inputs):
    layer.build(inputs.shape)

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(layer(inputs, training=True) * inputs * inputs)
        return tape.gradient(loss, inputs)

    return step


def measure(shape, repetitions):
    """Median milliseconds of each candidate."""
    inputs = tf.random.normal(shape)
    steps = {name: make_step(layer, inputs) for name, layer in candidates().items()}
    times = {name: [] for name in steps}
    for repetition in range(repetitions + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step(inputs).numpy()
            if repetition >= 2:  # the first two compile and warm up
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    arguments = parser.parse_args()
    report = {"milliseconds": {}, "ratios": {}}
    for shape in SHAPES:
        label = "x".join(map(str, shape))
        times = measure(shape, repetitions=5 if arguments.quick else 25)
        report["milliseconds"][label] = times
        for other in ("one_group", "keras", "broadcast"):
            report["ratios"][f"{label}_{other}_over_split"] = times[other] / times["split"]
        print(label, "  ".join(f"{name} {value:.1f} ms" for name, value in times.items()))
    for name, ratio in report["ratios"].items():
        print(f"{name} {ratio:.2f}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
