"""What --deterministic costs: training steps in processes with and without it, which take turns.

    python benchmarks/deterministic.py [--quick] [--json PATH]

Each turn is a process of its own, since TensorFlow cannot leave that mode again. A step is that of quickstart.cfg
with its input pipeline, which the mode meets too: what may not run side by side in it runs one after the other.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.cfg"


def turn(deterministic, epochs):
    """Prints the median seconds of a step in this process."""
    from keras_moco import data, distribution
    from keras_moco.config.training import read_flagfile
    from keras_moco.distribution.determinism import make_deterministic
    from keras_moco.runs import build

    if deterministic:
        make_deterministic(0)
    config = read_flagfile(CONFIG)
    source = data.open_source("digits")
    plan = build.Plan(config, source.num_examples, 1, replicas=1)
    model = build.build_model(plan, distribution.make_strategy("one"))
    batches = iter(data.pretrain_dataset(source, build.build_augmentation(config), config.batch_size))
    model.make_train_function()
    model._epoch_length = None
    times = []
    for step in range(epochs * plan.steps_per_epoch + 5):
        start = time.perf_counter()
        float(model.train_function(batches)["loss"])
        if step >= 5:  # tracing, and warming up
            times.append(time.perf_counter() - start)
    print(statistics.median(times))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    parser.add_argument("--turn", choices=("plain", "deterministic"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    epochs = 2 if arguments.quick else 8
    if arguments.turn:
        turn(arguments.turn == "deterministic", epochs)
        return
    found = {"plain": [], "deterministic": []}
    for _ in range(2 if arguments.quick else 7):
        for name, times in found.items():
            command = [sys.executable, __file__, "--turn", name, *(["--quick"] if arguments.quick else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            times.append(float(done.stdout.split()[-1]))
    ratio = statistics.median(ours / theirs for theirs, ours in zip(*found.values(), strict=True))
    report = {name: 1000 * statistics.median(times) for name, times in found.items()}
    for name, milliseconds in report.items():
        print(f"{name:<14} {milliseconds:7.1f} ms per step")
    print(f"deterministic over plain: {ratio:.3f}")
    if arguments.json:
        report = {"milliseconds": report, "ratios": {"deterministic_over_plain": ratio}}
        Path(arguments.json).write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
