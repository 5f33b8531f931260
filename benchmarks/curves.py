"""Short trainings, healthy and sick, whose curves docs/reading_the_curves.md shows.

    python benchmarks/curves.py [NAME ...]    # all, or some, one after the other
    python benchmarks/plot_curves.py

Each is `train.py` on the digits with the settings of configs/quickstart.cfg, but for a flag or two. Its log goes to
docs/curves/NAME.csv, and what it said to docs/curves/runs.json. `first_steps` is the same network step by step.
"""

import argparse
import csv
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "curves"
COMMAND = ["train.py", "--flagfile=configs/quickstart.cfg", "--knn_every_epochs=1", "--checkpoint_epochs=0"]

RUNS = {
    "healthy": [],
    "rate_too_high": ["--base_learning_rate=6"],
    "rate_too_low": ["--base_learning_rate=0.00006"],
    "larger_crops": ["--crop_min_area=0.9"],
    "no_crops": ["--crop_min_area=1"],
    "batch_norm_plain": ["--bn_mode=plain"],
    "no_key_momentum": ["--key_momentum=0"],
    "wrong_scaling": ["--image_mean=76", "--image_std=97"],
}
TIMES = ("images_per_second", "step_seconds", "data_wait_seconds")
FIRST_STEPS = "first_steps"
STEPS = 60


def run(name):
    """Trains one of `RUNS`: rows of its log, and what is to be kept beside them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *COMMAND, *RUNS[name], f"--workdir={folder}/run"]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        log, results = Path(folder, "run", "log.csv"), Path(folder, "run", "results.json")
        if not log.exists():
            raise ValueError(f"{name} must train. Received: status {done.returncode}. {done.stderr.strip()}")
        facts = json.loads(results.read_text())
        with open(log, newline="") as file:
            rows = [rounded(row) for row in csv.DictReader(file)]
    said = {
        "flags": RUNS[name],
        "knn_top1_initial": facts["knn_top1_initial"],
        "status": done.returncode,
        "warnings": [line for line in done.stdout.splitlines() if line.startswith("warning:")],
        "error": next((line for line in done.stderr.splitlines() if line.startswith("error:")), None),
    }
    return rows, said


def rounded(row):
    """A row without times, which are others elsewhere; five digits are enough for a curve."""
    return {name: value if value == "NA" else f"{float(value):.5g}" for name, value in row.items() if name not in TIMES}


def first_steps():
    """The loss of every single step while the queue fills, and after: a queue of 16 batches."""
    from keras_moco import data, distribution
    from keras_moco.config.training import read_flagfile
    from keras_moco.runs.build import build_augmentation, build_model
    from keras_moco.runs.plan import Plan

    recipe = read_flagfile(ROOT / "configs" / "quickstart.cfg")
    config = dataclasses.replace(recipe, queue_size=1024, batch_size=64, schedule="constant")
    train = data.open_source("digits", "train")
    model = build_model(Plan.of(config, train, replicas=1), distribution.make_strategy("one"))
    batches = data.pretrain_dataset(train, build_augmentation(config), config.batch_size)
    # An epoch of a single step has that step's figures, and not means.
    logs = model.fit(batches, steps_per_epoch=1, epochs=STEPS, verbose=0, shuffle=False).history
    names = ("loss", "contrast_top1", "positive_similarity", "negative_similarity", "feature_std", "queue_fill")
    return [{"step": step + 1, **{name: f"{logs[name][step]:.5g}" for name in names}} for step in range(STEPS)]


def write(name, rows):
    with open(FOLDER / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*RUNS, FIRST_STEPS]))
    names = parser.parse_args().names or [*RUNS, FIRST_STEPS]
    unknown = [name for name in names if name not in [*RUNS, FIRST_STEPS]]
    if unknown:
        raise ValueError(f"Runs must be of {', '.join([*RUNS, FIRST_STEPS])}. Received: {', '.join(unknown)}.")
    summary = FOLDER / "runs.json"
    for name in names:
        if name == FIRST_STEPS:
            rows = first_steps()
        else:
            rows, said = run(name)
            known = json.loads(summary.read_text()) if summary.exists() else {}
            summary.write_text(json.dumps({**known, name: said}, indent=1) + "\n")
        write(name, rows)
        print(f"{name}: {len(rows)} rows, last {rows[-1]}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted. The runs before this one are kept.")
