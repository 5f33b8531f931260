"""Runs in this process, from Python or the command line, and the contents of their folders."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import absl.flags
import absl.logging
import h5py
import numpy as np
import pytest
import tensorflow as tf

from keras_moco import callbacks
from keras_moco.command_line import settings_command
from keras_moco.commands import pretrain as pretraining
from keras_moco.commands.registry import COMMANDS
from keras_moco.config.settings import to_text
from tests.tiny import TINY_RUN

STEPS = 1437 // 128  # per epoch of `TINY_RUN`
TINY_FLAGS = [f"--{name}={to_text(value)}" for name, value in TINY_RUN.items()]
NAMES = {"train": "pretrain", "evaluate": "evaluate"}  # of the scripts, which are commands
NO_TWO_RUNS_SHARE = ("images_per_second", "step_seconds", "data_wait_seconds", "seconds")


@dataclasses.dataclass
class Outcome:
    """How a command ended, and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def sentence(self):
        """The one line that stderr must hold."""
        noise = r"WARNING: All log messages before absl|[IWE]\d{4} [\d:.]+ |\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] "
        assert "Traceback" not in self.stderr
        (line,) = [line for line in self.stderr.splitlines() if not re.match(noise, line)]
        return line

    @property
    def refusal(self):
        """The sentence of a command that was refused."""
        assert self.status == 2, self
        assert self.sentence.startswith("error: ")
        return self.sentence.removeprefix("error: ")

    def notes(self, words):
        """Lines of the output with these words."""
        return [line for line in self.stdout.splitlines() if words in line]


def call(module, *arguments):
    """The command of `train` or `evaluate` in this process, which saves the seconds of starting one: an `Outcome`."""
    command = COMMANDS[NAMES[module.__name__]]
    status = 0
    with pytest.MonkeyPatch.context() as patch, without_pictures_and_export():
        patch.setattr(absl.flags, "FLAGS", absl.flags.FlagValues())
        patch.setattr(absl.logging, "set_verbosity", lambda _: None)
        # What `absl.app.run` comes down to, which can be had only once in a process.
        patch.setattr(settings_command.app, "run", lambda main, argv, flags_parser: main(flags_parser(argv)))
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                command.main([*map(str, arguments)])
            except SystemExit as exit:
                status = exit.code
    return Outcome(status, stdout.getvalue(), stderr.getvalue())


@contextlib.contextmanager
def without_pictures_and_export():
    """They take most of the time of a short run, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("export_backbone", "show_start", "show_end"):
            patch.setattr(pretraining, name, lambda *_: None)
        patch.setattr(callbacks.Curves, "draw", lambda _: None)
        yield


def pretrain(config, at_the_end=without_pictures_and_export):
    """Runs a configuration, by default without export and pictures: what it was, and what came of it."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, at_the_end():
        found = pretraining.pretrain(config)
    return SimpleNamespace(config=config, path=Path(config.workdir), results=found, printed=printed.getvalue())


def begin(config):
    """A run up to its first step: what it prints until then."""
    measure_start = pretraining.measure_start

    def measure_and_stop(*arguments):
        measure_start(*arguments)
        raise callbacks.Stopped("Here.")

    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "measure_start", measure_and_stop)
        with pytest.raises(callbacks.Stopped, match="Here"):
            pretraining.pretrain(config)
    return printed.getvalue()


class SignalInMidEpoch(callbacks.Checkpoint):
    """As `kill` sends it, three steps before the end of the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if (self._epoch, batch) == (1, STEPS - 4):
            os.kill(os.getpid(), signal.SIGTERM)


def stop_in_mid_epoch(config):
    """A run that is stopped by a signal after step 19: the message."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(callbacks.Stopped) as stop:
        patch.setattr(callbacks, "Checkpoint", SignalInMidEpoch)
        pretrain(config)
    assert signal.getsignal(signal.SIGTERM) is handler
    return str(stop.value)


# What a folder holds


def contents(folder):
    """Everything below a folder, with the bytes of the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def checkpoints(workdir):
    return sorted((workdir / "checkpoints").glob("step-*"))


def arrays(checkpoint):
    """All arrays of a checkpoint by name."""
    found = {}
    with h5py.File(checkpoint / "model.weights.h5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def log(workdir):
    """Rows of the log, text by column."""
    with open(workdir / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def events(workdir):
    """`(tag, step, value)` of all that TensorBoard shows, in the order of writing; the value only of numbers."""
    found = []
    for path in sorted((workdir / "tensorboard" / "train").glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                tensor = tf.make_ndarray(value.tensor) if value.HasField("tensor") else np.array(b"")
                number = float(tensor) if tensor.ndim == 0 and tensor.dtype.kind == "f" else None
                found.append((value.tag, event.step, number))
    return found


def epochs_in_tensorboard(workdir):
    """The numbers of all epochs, with repetitions, without those that differ between runs."""
    numbers = [event for event in events(workdir) if event[2] is not None]
    return sorted(event for event in numbers if event[0].rpartition("/")[2] not in NO_TWO_RUNS_SHARE)


def comparable(row):
    """A row of a log or results, without the values that differ between runs."""
    return {name: value for name, value in row.items() if name not in NO_TWO_RUNS_SHARE}


def expect_same(workdir, undisturbed):
    """Checks that a run ended like an uninterrupted one, to the bit, and left no temporary files."""
    ours, theirs = (arrays(checkpoints(path)[-1]) for path in (workdir, undisturbed))
    assert ours.keys() == theirs.keys() and len(ours) > 25
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []
    assert list(map(comparable, log(workdir))) == list(map(comparable, log(undisturbed)))
    assert comparable(results(workdir)) == comparable(results(undisturbed))
    assert epochs_in_tensorboard(workdir) == epochs_in_tensorboard(undisturbed)
    assert list(workdir.rglob(".*")) == []
