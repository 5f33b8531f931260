"""Breaks a copy of the package in one place after the other, and reports which tier notices: a Markdown table.

    python -m tests.mutations                       # all of them, half an hour
    python -m tests.mutations --only=feature_queue  # those of files with that in their path

Each mutation runs the test files that `places.py` names for it, the default tier first and, where that passes, the
tiers slow and torch. It ends with status 1 if a mutation is noticed by none.
"""

import argparse
import concurrent.futures
import queue
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutations.places import MUTATIONS

ROOT = Path(__file__).resolve().parents[2]
TIERS = {"default": [], "slow": ["-m", "slow"], "torch": ["-m", "torch"]}
# What pytest's status says of the package: 1 a test failed, 2 a test file could not even be imported.
NOTICED, PASSED = {1, 2}, {0, 5}
HEAD = "| file | what is broken | noticed by |\n| --- | --- | --- |"


def copy_of_the_checkout(folder):
    ignored = shutil.ignore_patterns(".git", ".venv*", ".ruff_cache", ".mypy_cache", ".pytest_cache", "runs", "data")
    # `data` at the top holds data sets; `keras_moco/data` is a part of the package.
    return shutil.copytree(ROOT, folder, ignore=lambda path, names: ignored(path, names) if Path(path) == ROOT else [])


def status_of(folder, tests, tier):
    """The status of pytest on some test files of one tier."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TIERS[tier], *tests]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode not in NOTICED | PASSED:
        raise RuntimeError(f"pytest must run {' '.join(tests)}. Received: status {done.returncode}.\n{done.stdout}")
    return done.returncode


def noticed_by(mutation, folder):
    """The tier that notices a mutation of this copy, or `None`."""
    path = folder / mutation.file
    source = path.read_text(encoding="utf-8")
    path.write_text(mutation.applied_to(source), encoding="utf-8")
    try:
        return next((tier for tier in TIERS if status_of(folder, mutation.tests, tier) in NOTICED), None)
    finally:
        path.write_text(source, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the path of the files to break")
    parser.add_argument("--jobs", type=int, default=2, help="mutations at a time")
    arguments = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if arguments.only in mutation.file]
    if not chosen:
        parser.error(f"--only must be part of the path of a file with a mutation. Received: {arguments.only}.")
    with tempfile.TemporaryDirectory() as place, concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        copies = queue.SimpleQueue()
        for job in range(arguments.jobs):
            copies.put(copy_of_the_checkout(Path(place) / f"copy{job}"))

        def judge(mutation):
            folder = copies.get()
            try:
                return noticed_by(mutation, folder)
            finally:
                copies.put(folder)

        print(HEAD, flush=True)
        unnoticed = 0
        for mutation, tier in zip(chosen, pool.map(judge, chosen), strict=True):
            unnoticed += tier is None
            print(f"| `{mutation.file}` | {mutation.what} | {tier or 'nobody'} |", flush=True)
    print(f"\n{len(chosen) - unnoticed} of {len(chosen)} mutations noticed")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())
