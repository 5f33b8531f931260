"""Training steps to be timed: built, and kept, in processes of their own (`benchmarks/train_step.py`)."""

import argparse
import contextlib
import importlib
import multiprocessing
import resource
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """What is trained: a ResNet with a linear head to 128 numbers, by MoCo's step of one query and one key view."""

    backbone: str
    stem: str
    pixels: int
    batch: int
    queue_size: int
    features: int
    bn_splits: int = 8

    @property
    def image_shape(self):
        return (self.pixels, self.pixels, 3)


CASES = {
    "resnet18": Case("resnet18", "cifar", pixels=32, batch=128, queue_size=4096, features=512),
    "resnet50": Case("resnet50", "imagenet", pixels=224, batch=16, queue_size=65536, features=2048),
}
DIM, LEARNING_RATE, WEIGHT_DECAY, MOMENTUM, TEMPERATURE = 128, 0.03, 1e-4, 0.999, 0.07

_steps = {}


@contextlib.contextmanager
def processes_of(names):
    """name: executor of a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    # Ctrl-C reaches every process; only the one that was started answers.
    deaf = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    processes = {name: ProcessPoolExecutor(1, mp_context=spawn, **deaf) for name in names}
    try:
        yield processes
    except KeyboardInterrupt:
        sys.exit("Interrupted before everything was measured; no file was written. Run it again from the start.")
    finally:
        for process in processes.values():
            process.shutdown(wait=False, cancel_futures=True)  # ending takes seconds: all at once


def prepare(framework, name, case, precision):
    """Builds a step in this process and takes it once: seconds of both together."""
    make = importlib.import_module(f"steps.in_{framework}").CANDIDATES[name]
    start = time.perf_counter()
    _steps[name, case, precision] = make(case, precision)
    _steps[name, case, precision]()
    return time.perf_counter() - start


def take(name, case, precision):
    """Takes the step once more: its seconds."""
    return _steps[name, case, precision]()


def new_file(path):
    """For argparse: the path of a file that can be written, found out before hours are spent."""
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"must be in an existing folder. Received: {path}. Make {folder} first.")
    return path


def divisor_of_batches(text):
    """For argparse: groups of BatchNorm, into which the batch of every case can be split."""
    if not text.isdigit() or int(text) < 1 or any(case.batch % int(text) for case in CASES.values()):
        batches = " and ".join(str(case.batch) for case in CASES.values())
        raise argparse.ArgumentTypeError(f"must divide the batches, {batches}. Received: {text}. Give 1, 2, 4 or 8.")
    return int(text)


def device():
    """What Keras computes on, by name."""
    return importlib.import_module("steps.in_keras").device()


def peak_memory():
    """Of this process since its beginning, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
