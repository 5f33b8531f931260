"""The contrastive mechanisms on one bench: accuracy over the number of negatives, and what it costs (MoCo, Fig. 3).

    python benchmarks/mechanisms.py [--data_dir DIR] [--study accuracy|cost] [--quick] [--json PATH]
    python benchmarks/plot_mechanisms.py

Every cell is one training with one seed (accuracy), or one measurement of step time and peak memory in a process of its
own (cost). A finished cell is a line of JSON in PATH (docs/mechanisms.jsonl) and is not run again, so that a stopped
benchmark goes on where it was; delete a line to repeat its cell. All seeds' first cells come before any second ones, so
that what is there is always a whole picture. `--quick` runs a few tiny cells on the digits, into another file.
"""

import argparse
import dataclasses
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_moco import data, distribution
from keras_moco.config import Config
from keras_moco.evaluation import extract_features, knn_accuracy, linear_accuracy
from keras_moco.networks.shuffle_bn import Split
from keras_moco.runs.build import build_augmentation, build_model
from keras_moco.runs.plan import Plan

SEEDS = (0, 1, 2)
SIZES = (256, 512, 1024, 4096, 16384)
BATCHES = (256, 512, 1024, 4096)  # 16384 of 20,480 images would be one step per epoch
DEFAULT_K = 4096
EPOCHS, LONG = 8, 32

# The recipe of configs/fashion_mnist.cfg on a third of the images, by a quarter of the channels at half the size.
RECIPE = Config(
    dataset="tfds:fashion_mnist",
    image_mean=(0.286,),
    image_std=(0.353,),
    backbone="resnet10",
    backbone_width=8,
    stem="half",
    image_size=28,
    augment="moco_cifar",
    augment_exact=True,
    crop_min_area=0.2,
    temperature=0.1,
    batch_size=256,
    base_learning_rate=0.06,
    weight_decay=5e-4,
    schedule="cosine",
    schedule_per_step=True,
    strategy="one",
)
IMAGES = 20480
# For costs, the network of configs/fashion_mnist.cfg itself: beside a tiny one any dictionary is large.
COST_NETWORK = {"backbone_width": 32, "stem": "cifar"}
QUICK = {"dataset": "digits", "image_size": 8, "batch_size": 64}


class StepTimes(keras.callbacks.Callback):
    """The seconds of every step."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


class Unshuffled(Split):
    """Query and key of an image are normalised in the same group, as on devices that do not shuffle."""

    def shuffle(self, images, seed, step):
        return images, None

    def unshuffle(self, keys, order):
        return distribution.all_gather(keys)


def settings_of(cell):
    """The fields of `Config` that a cell changes."""
    k = cell["K"]
    changes = {
        "untrained": lambda: {},
        "moco": lambda: {
            "queue_size": k,
            "key_momentum": cell["momentum"],
            "bn_mode": "plain" if cell["batch_norm"] == "plain" else "split",
        },
        "memory_bank": lambda: {"num_negatives": k},
        "end_to_end": lambda: {"batch_size": k},
        "simclr": lambda: {"batch_size": k},
    }[cell["method"]]()
    method = "end_to_end" if cell["method"] == "untrained" else cell["method"]  # its encoder is all that is used
    return {"method": method, "epochs": cell["epochs"], "seed": cell["seed"], **changes}


def accuracy_cell(method, k, seed, epochs=EPOCHS, momentum=None, batch_norm=None):
    if method == "moco":
        momentum, batch_norm = momentum if momentum is not None else 0.99, batch_norm or "split"
    return {
        "study": "accuracy",
        "method": method,
        "K": k,
        "epochs": epochs,
        "momentum": momentum,
        "batch_norm": batch_norm,
        "seed": seed,
    }


def accuracy_cells(seeds=SEEDS, sizes=SIZES, batches=BATCHES, k=DEFAULT_K, epochs=EPOCHS, long=LONG):
    """All trainings, seed after seed, and a few longer ones after the first."""

    def cell(*arguments, **settings):
        return accuracy_cell(*arguments, **{"epochs": epochs, **settings})

    for seed in seeds:
        yield cell("untrained", 0, seed)
        for size in sizes:
            yield cell("moco", size, seed)
            if size in batches:
                yield cell("end_to_end", size, seed)
            yield cell("memory_bank", size, seed)
        for momentum in (0.0, 0.9, 0.999):
            yield cell("moco", k, seed, momentum=momentum)
        for batch_norm in ("plain", "unshuffled"):
            yield cell("moco", k, seed, batch_norm=batch_norm)
        for batch in batches[:3]:
            yield cell("simclr", batch, seed)
        if seed == seeds[0]:
            for method, size in (("moco", k), ("moco", sizes[0]), ("memory_bank", k), ("end_to_end", batches[0])):
                yield cell(method, size, seed, epochs=long)


def cost_cells(rounds=SEEDS, sizes=SIZES, batches=BATCHES):
    """All measurements of cost; rounds after each other, so that a change of the machine's speed meets all alike."""
    for seed, method, size in itertools.product(rounds, ("moco", "memory_bank", "end_to_end"), sizes):
        if method != "end_to_end" or size in batches:
            yield {**accuracy_cell(method, size, seed), "study": "cost"}


def subset(source, count):
    """The first images of a source, in memory."""
    examples = list(source.examples().take(count))
    images, labels = ([example[name].numpy() for example in examples] for name in ("image", "label"))
    return data.array_source(np.stack(images), labels, source.class_names, source.name, source.split)


def run_accuracy(cell, config, train, test):
    """Trains a cell and evaluates what it has learnt."""
    plan = Plan.of(config, train, replicas=1)
    model = build_model(plan, distribution.make_strategy("one"))
    if cell["batch_norm"] == "unshuffled":
        model.batch_norm = Unshuffled(config.bn_splits)
    start, logs = time.perf_counter(), {}
    if cell["method"] != "untrained":
        history = model.fit(
            data.pretrain_dataset(
                *(train, build_augmentation(config), config.batch_size, config.seed), entries=model.required
            ),
            steps_per_epoch=plan.steps_per_epoch,
            epochs=config.epochs,
            verbose=0,
            shuffle=False,
        ).history
        logs = {name: [round(float(x), 4) for x in history[name]] for name in ("loss", "contrast_top1")}
    seconds = time.perf_counter() - start
    results = {}
    splits = [data.evaluation_dataset(source, config.image_size) for source in (train, test)]
    for level, embed in {"embedding": model.encoder, "backbone": model.encoder.features}.items():
        bank, queries = (extract_features(embed, split) for split in splits)
        rows = (bank.features, bank.labels, queries.features, queries.labels)
        results[f"knn_{level}"] = round(knn_accuracy(*rows, train.num_classes, k=min(200, len(bank.labels))).top1, 2)
    results["linear"] = round(linear_accuracy(bank, queries, c_values=(0.1,)).accuracy, 2)
    return {**results, "steps": plan.total_steps, "seconds": round(seconds, 1), **logs}


def measure_cost(config, train, repetitions):
    """Times steps in this process, and takes the most memory that it ever had."""
    before = _peak_mebibytes()
    plan = Plan.of(config, train, replicas=1)
    model = build_model(plan, distribution.make_strategy("one"))
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.image_size, config.image_size, plan.channels)
    views = {name: rng.uniform(0, 255, shape).astype("float32") for name in ("query", "key")}
    views["index"] = np.arange(config.batch_size)
    batches = tf.data.Dataset.from_tensors(views).repeat()
    times = StepTimes()
    model.fit(batches, steps_per_epoch=repetitions + 1, verbose=0, shuffle=False, callbacks=[times])
    return {
        "batch_size": config.batch_size,
        "step_seconds": round(statistics.median(times.seconds[1:]), 4),  # the first one compiles
        "peak_mebibytes": round(_peak_mebibytes() - before),
    }


def _peak_mebibytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_cost(cell, arguments):
    """Measures a cell in a process of its own, since a process never gives its peak of memory back."""
    command = [sys.executable, __file__, "--cost_cell", json.dumps(cell), *(["--quick"] if arguments.quick else [])]
    command += ["--data_dir", arguments.data_dir] if arguments.data_dir else []
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="where tfds data sets lie")
    parser.add_argument("--study", choices=("accuracy", "cost"), help="one of both only")
    parser.add_argument("--quick", action="store_true", help="a few tiny cells")
    parser.add_argument("--json", metavar="PATH", help="where cells are kept")
    parser.add_argument("--cost_cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.json = Path(arguments.json or ("mechanisms_quick.jsonl" if arguments.quick else "docs/mechanisms.jsonl"))
    return arguments


def all_cells(quick):
    """The cells in the order in which they are run."""
    few = {"sizes": (128,), "batches": (128,)} if quick else {}
    seeds = (0,) if quick else SEEDS
    accuracy = accuracy_cells(seeds, **few, **({"k": 96, "epochs": 1, "long": 2} if quick else {}))
    return [*accuracy, *cost_cells(seeds, **few)]


def finished(path):
    """The stored cells, without their results."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [{name: row[name] for name in accuracy_cell("moco", 0, 0)} for row in map(json.loads, lines)]


def store(path, row):
    """Adds a line. Whoever is stopped here leaves the old file or the new one, no half of a line."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text((path.read_text() if path.exists() else "") + json.dumps(row) + "\n")
    os.replace(temporary, path)


def main():
    arguments = parse_arguments()
    if not arguments.json.parent.is_dir():
        raise ValueError(
            f"`json` must lie in an existing folder. Received: {arguments.json}. Create the folder, or run this in the "
            "checkout."
        )
    recipe = dataclasses.replace(RECIPE, data_dir=arguments.data_dir, **(QUICK if arguments.quick else {}))
    train = subset(data.open_source(recipe.dataset, "train", recipe.data_dir), IMAGES)
    if arguments.cost_cell:
        cell = json.loads(arguments.cost_cell)
        config = dataclasses.replace(recipe, **settings_of(cell), **({} if arguments.quick else COST_NETWORK))
        print(json.dumps(measure_cost(config, train, repetitions=3)))
        return
    test = subset(data.open_source(recipe.dataset, "test", recipe.data_dir), IMAGES)
    cells, done = all_cells(arguments.quick), finished(arguments.json)
    for number, cell in enumerate(cells):
        if cell in done or arguments.study not in (None, cell["study"]):
            continue
        if cell["study"] == "cost":
            results = run_cost(cell, arguments)
        else:
            results = run_accuracy(cell, dataclasses.replace(recipe, **settings_of(cell)), train, test)
        store(arguments.json, {**cell, **results})
        figures = {name: value for name, value in results.items() if not isinstance(value, list)}
        print(f"{number + 1}/{len(cells)}", *(f"{k}={v}" for k, v in {**cell, **figures}.items()), flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted. The same command goes on with the cells that are not finished.")
