"""Seconds until `keras-moco` answers, each time in a process of its own.

    python benchmarks/command_line.py [--times N]

The answers take turns, so that changes of the machine's speed affect all of them alike. `python` is a process that does
nothing; `import keras_moco` is what a command has to do before it works, and an answer does not wait for.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What pip's script does, without needing it.
COMMAND = "import sys; from keras_moco_command import main; sys.exit(main())"
ANSWERS = {
    "python": ["-c", "pass"],
    "keras-moco --help": ["-c", COMMAND, "--help"],
    "keras-moco pretrain --help": ["-c", COMMAND, "pretrain", "--help"],
    "python train.py --help": [str(ROOT / "train.py"), "--help"],
    "python -m keras_moco --help": ["-m", "keras_moco", "--help"],
    "keras-moco recipes": ["-c", COMMAND, "recipes"],
    "keras-moco evaluate fly": ["-c", COMMAND, "evaluate", "fly"],
    "keras-moco completion bash LINE": ["-c", COMMAND, "completion", "bash", "keras-moco pretrain --rec"],
    "import keras_moco": ["-c", "import keras_moco"],
}


def seconds_of(arguments):
    """The seconds of a process."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=9, help="processes for each answer (default 9)")
    times = parser.parse_args().times
    found = {name: [] for name in ANSWERS}
    for turn in range(-1, times):  # the first one reads the files from the disk
        for name, arguments in ANSWERS.items():
            found[name] += [seconds_of(arguments)] * (turn >= 0)
    print("| answer | median s | longest s |\n| --- | --: | --: |")
    for name, seconds in found.items():
        print(f"| `{name}` | {statistics.median(seconds):.2f} | {max(seconds):.2f} |")


if __name__ == "__main__":
    main()
