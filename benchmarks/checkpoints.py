"""What it costs to lose nothing: checkpoints at the default interval, and the look at every step for NaN.

    python benchmarks/checkpoints.py [--quick] [--json PATH]

runs    trainings of configs/quickstart.cfg without checkpoints, with those of the default settings and with one after
        every epoch, interleaved; beside the ratio of their times the share of the training that went by inside the
        callback, which a noisy machine does not blur: everything of a checkpoint is done there
sizes   seconds to save and to restore a checkpoint, and its size, up to ResNet-50 with a queue of 65,536
steps   training steps without the look at loss and gradients, with it, and with --on_nan=skip, interleaved
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_moco import callbacks, data, distribution
from keras_moco.config import Config
from keras_moco.config.training import read_flagfile
from keras_moco.runs import build

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEFAULTS = Config()
RUNS = {"none": None, "default": DEFAULTS.checkpoint_share, "every epoch": 1.0}
STEPS = {"unguarded": None, "guarded": False, "skipping": True}


class Timed(callbacks.Checkpoint):
    """Counts the seconds inside of it."""

    seconds = 0.0
    count = 0

    def save(self, epoch, step_in_epoch):
        self.count += 1
        return super().save(epoch, step_in_epoch)

    def _time(self, hook, *args):
        start = time.perf_counter()
        hook(*args)
        self.seconds += time.perf_counter() - start

    def on_train_batch_end(self, batch, logs=None):
        self._time(super().on_train_batch_end, batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._time(super().on_epoch_end, epoch, logs)


def model_of(config, examples, channels):
    plan = build.Plan(config, examples, channels, replicas=1)
    return plan, build.build_model(plan, distribution.make_strategy("one"))


def measure_runs(epochs, rounds):
    """Medians over rounds: seconds of a training, its ratio to none, share of the time in the callback."""
    config = replace(read_flagfile(CONFIGS / "quickstart.cfg"), epochs=epochs)
    source = data.open_source("digits")
    plan, model = model_of(config, source.num_examples, 1)
    batches = data.pretrain_dataset(source, build.build_augmentation(config), config.batch_size)

    def fit(share):
        with tempfile.TemporaryDirectory() as folder:
            settings = {"every_minutes": DEFAULTS.checkpoint_minutes, "keep": DEFAULTS.keep_checkpoints}
            checkpoint = Timed(folder, max_share=share, **settings) if share else None
            start = time.perf_counter()
            chosen = [checkpoint] if checkpoint else []
            model.fit(batches, steps_per_epoch=plan.steps_per_epoch, epochs=epochs, verbose=0, callbacks=chosen)
            seconds = time.perf_counter() - start
        return seconds, (checkpoint.seconds / seconds, checkpoint.count) if checkpoint else (0.0, 0)

    fit(None)  # traces
    found = {name: [] for name in RUNS}
    for _ in range(rounds):
        for name, share in RUNS.items():
            found[name].append(fit(share))
    report = {}
    for name, turns in found.items():
        ratio = statistics.median(ours / theirs for (ours, _), (theirs, _) in zip(turns, found["none"], strict=True))
        seconds = statistics.median(seconds for seconds, _ in turns)
        share = statistics.median(share for _, (share, _) in turns)
        report[name] = {"seconds": seconds, "ratio": ratio, "share": share, "checkpoints": turns[-1][1][1]}
        print(
            f"run {name:<12} {seconds:7.2f} s  {ratio:.3f} of none  {100 * share:5.2f} % in the callback, "
            f"{turns[-1][1][1]} checkpoints in {epochs} epochs"
        )
    return report


def measure_sizes(repetitions):
    report = {}
    for name, examples, channels in (
        ("quickstart", 1437, 1),
        ("fashion_mnist", 60_000, 1),
        ("imagenet_v2", 1_281_167, 3),
    ):
        _, model = model_of(replace(read_flagfile(CONFIGS / f"{name}.cfg"), precision="float32"), examples, channels)
        saving, restoring = [], []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(repetitions):
                start = time.perf_counter()
                path = callbacks.save(model, folder)
                saved = time.perf_counter()
                callbacks.restore(model, folder)
                saving.append(saved - start)
                restoring.append(time.perf_counter() - saved)
            size = sum(file.stat().st_size for file in path.iterdir())
        report[name] = {
            "save": statistics.median(saving),
            "restore": statistics.median(restoring),
            "megabytes": size / 1e6,
        }
        print(
            f"checkpoint of {name:<14} {size / 1e6:7.1f} MB  saved in {report[name]['save']:.2f} s, restored in "
            f"{report[name]['restore']:.2f} s"
        )
    return report


def measure_steps(repetitions):
    config = read_flagfile(CONFIGS / "quickstart.cfg")
    views = np.random.default_rng(0).uniform(0, 255, (128, 16, 16, 1)).astype("float32")
    endless = tf.data.Dataset.from_tensors({"query": views, "key": views}).repeat()
    steps = {}
    for name, skip in STEPS.items():
        _, model = model_of(config, 1437, 1)
        model.skip_not_finite = bool(skip)
        if skip is None:
            model._all_finite = lambda *_: tf.constant(True)
        model.make_train_function()
        model._epoch_length = None
        iterator = iter(endless)
        steps[name] = lambda model=model, iterator=iterator: model.train_function(iterator)
    times = {name: [] for name in steps}
    for repetition in range(repetitions + 3):
        for name, step in steps.items():
            start = time.perf_counter()
            np.array(step()["loss"])
            if repetition >= 3:  # warming up
                times[name].append(time.perf_counter() - start)
    report = {}
    for name, values in times.items():
        ratio = statistics.median(ours / base for ours, base in zip(values, times["unguarded"], strict=True))
        report[name] = {"seconds": statistics.median(values), "ratio": ratio}
        print(f"step {name:<10} {1000 * report[name]['seconds']:7.1f} ms  {ratio:.3f} of unguarded")
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    arguments = parser.parse_args()
    quick = arguments.quick
    report = {
        "runs": measure_runs(epochs=10 if quick else 40, rounds=2 if quick else 5),
        "sizes": measure_sizes(repetitions=1 if quick else 3),
        "steps": measure_steps(repetitions=20 if quick else 100),
    }
    report["ratios"] = {
        **{f"run_{name}_over_none": turn["ratio"] for name, turn in report["runs"].items()},
        **{f"step_{name}_over_unguarded": turn["ratio"] for name, turn in report["steps"].items()},
        "share_of_checkpoints_by_default": report["runs"]["default"]["share"],
    }
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
