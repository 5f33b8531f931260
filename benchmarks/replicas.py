"""What it costs to train on several replicas: shuffling keys across them, and averaging BatchNorm's statistics.

    python benchmarks/replicas.py [--quick] [--json PATH]

Times whole training steps on two logical CPU devices. Candidates differ in how keys get into other company than their
queries, and repetitions of all are interleaved, so that a change of the machine's speed meets all of them alike:

gather      the step gathers all replicas' key images, and each replica encodes its share of the shuffled batch (what
            `bn_mode="shuffle"` does)
permuted    the input pipeline hands out key images in shuffled order, so that the step gathers features alone
plain       nothing is shuffled: the lower bound
unaveraged  as gather, without the average of BatchNorm's moving statistics over replicas in every step

Logical devices share memory, so a transfer is a copy; between GPUs or machines its share of a step is another.
"""

import argparse
import json
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from keras_moco import SGD, Encoder, MoCo, linear_head, resnet
from keras_moco.distribution import all_gather, make_strategy, permutation
from keras_moco.methods import contrastive_model
from keras_moco.networks.shuffle_bn import BatchNorm, Shuffle

# (pixels, width, batch): as large as two CPU cores take in about a second, the stem as for such images.
SETTINGS = {"224": (224, 16, 32, "imagenet"), "32": (32, 16, 128, "cifar")}


class Permuted(BatchNorm):
    """Key images come in the order that `Shuffle` would give them."""

    def shuffle(self, images, seed, step):
        return images, permutation(images.shape[0] * 2, seed, step)

    def unshuffle(self, keys, order):
        return tf.gather(all_gather(keys), tf.argsort(order))

    def describe(self):
        return "permuted"


def make_step(name, pixels, width, batch, stem):
    """A function that takes one training step."""
    strategy = make_strategy("mirrored", replicas=2)
    with strategy.scope():
        backbone = resnet("resnet10", width=width, stem=stem, input_shape=(pixels, pixels, 3))
        mode = "plain" if name == "plain" else "shuffle"
        model = MoCo(Encoder(backbone, linear_head(8 * width)), queue_size=4096, bn_mode=mode)
        model.batch_norm = {"permuted": Permuted(), "plain": model.batch_norm}.get(name, Shuffle())
        model.compile(optimizer=SGD())
    images = np.random.default_rng(0).uniform(0, 255, (batch, pixels, pixels, 3)).astype("float32")

    def views(step):
        key = tf.constant(images)
        return {"query": tf.constant(images), "key": tf.gather(key, permutation(batch, 0, step))}

    def plain_views(_):
        return {"query": tf.constant(images), "key": tf.constant(images)}

    data = tf.data.Dataset.counter().map(views if name == "permuted" else plain_views).prefetch(4)
    iterator = iter(strategy.experimental_distribute_dataset(data))
    model.make_train_function()
    model._epoch_length, model._steps_taken = None, 0
    return lambda: model.train_function(iterator)


def candidates(setting):
    """name: step. One that leaves the average out is traced while it is out."""
    steps = {name: make_step(name, *setting) for name in ("gather", "permuted", "plain", "unaveraged")}
    average = contrastive_model.distribution.average
    for name, step in steps.items():
        contrastive_model.distribution.average = (lambda _: None) if name == "unaveraged" else average
        step()
    contrastive_model.distribution.average = average
    return steps


def measure(setting, repetitions):
    """Median seconds of a step of each candidate, and the median of its ratios to `gather` in the same round."""
    steps = candidates(setting)
    times = {name: [] for name in steps}
    for repetition in range(repetitions + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            np.array(step()["loss"])
            if repetition >= 2:  # warming up
                times[name].append(time.perf_counter() - start)
    ratios = {
        name: statistics.median(ours / theirs for ours, theirs in zip(values, times["gather"], strict=True))
        for name, values in times.items()
    }
    return {name: statistics.median(values) for name, values in times.items()}, ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    arguments = parser.parse_args()
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
    keras.utils.set_random_seed(0)
    report = {"milliseconds": {}, "ratios": {}}
    for label, setting in SETTINGS.items():
        times, ratios = measure(setting, repetitions=5 if arguments.quick else 25)
        for name in times:
            report["milliseconds"][f"{label}_{name}"] = 1000 * times[name]
            report["ratios"][f"{label}_{name}_over_gather"] = ratios[name]
            print(f"{label:>3} px {name:<10} {1000 * times[name]:8.1f} ms  {ratios[name]:.3f} of gather")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
