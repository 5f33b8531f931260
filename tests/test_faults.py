"""A run that is killed, stopped, out of disk or of finite numbers goes on, and ends in the same bits.

All from outside: `python train.py` as a process, or its command line in this one, which saves the seconds of starting.
A run here is a hundredth of a ResNet on images of 8 x 8 that saves a checkpoint behind nearly every step.
"""

import concurrent.futures
import contextlib
import csv
import dataclasses
import errno
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import absl.flags
import absl.logging
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import train
from keras_moco import command_line, training
from keras_moco.callbacks import Stopped
from keras_moco.models import MoCo

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300  # seconds beyond which something waits for ever
EPOCHS, STEPS = 5, 1437 // 128
TIMES = ("images_per_second", "step_seconds", "data_wait_seconds")  # columns of the log that no two runs share
COMMON = [
    *("--dataset=digits", "--image_size=8", "--image_mean=0.3", "--image_std=0.38", "--backbone=resnet10"),
    *("--backbone_width=4", "--stem=cifar", "--head=mlp", "--embedding_dim=16", "--temperature=0.1"),
    *("--augment=moco_cifar", "--crop_min_area=0.4", "--batch_size=128", "--base_learning_rate=0.02"),
    *("--schedule=cosine", "--schedule_per_step", "--knn_k=20", "--knn_features=backbone", "--log_steps=1"),
]
MOCO = [*COMMON, f"--epochs={EPOCHS}", "--queue_size=500", "--key_momentum=0.99", "--bn_splits=4", "--strategy=one"]
EVERY_STEP = ["--checkpoint_share=1", "--checkpoint_minutes=0.002"]


# A run from outside


class Process:
    """`train.py` as a process, with its output in files.

    Args:
        workdir: path, of the run.
        *flags: str.
        output: path of the folder of these files. Defaults to that of `workdir`.
        replicas: int, logical CPUs to train on; with 2 the strategy is a mirrored one.
        **settings: of `subprocess.Popen`.
    """

    def __init__(self, workdir, *flags, output=None, replicas=1, **settings):
        self.workdir = Path(workdir)
        self.files = [(output or self.workdir.parent) / f"{self.workdir.name}.{name}" for name in ("stdout", "stderr")]
        self._before = unfinished(self.workdir)
        command = ["train.py"] if replicas == 1 else ["-c", ON_TWO_CPUS]
        flags = [*flags, *([] if replicas == 1 else ["--strategy=mirrored", f"--replicas={replicas}"])]
        with open(self.files[0], "w") as stdout, open(self.files[1], "w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *command, *flags, f"--workdir={workdir}"],
                cwd=ROOT,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdout=stdout,
                stderr=stderr,
                **settings,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    @property
    def stdout(self):
        return self.files[0].read_text()

    @property
    def stderr(self):
        return self.files[1].read_text()

    def wait(self):
        return self.process.wait(timeout=LIMIT)

    def reaches(self, happened):
        """Waits until something has happened: whether it did before the process ended."""
        end = time.monotonic() + LIMIT
        while not happened():
            if self.process.poll() is not None:
                return happened()
            assert time.monotonic() < end, self.stdout
            time.sleep(0.002)
        return True

    def prints(self, pattern):
        """Waits until a line matches: whether it did before the process ended."""
        return self.reaches(lambda: re.search(pattern, self.stdout, re.M))

    def writes_a_checkpoint(self):
        """Waits until a checkpoint is under way: whether one was before the process ended."""
        return self.reaches(lambda: unfinished(self.workdir) - self._before)

    def leaves_unfinished(self):
        """Whether the process, which is dead, has left a checkpoint that it began."""
        return bool(unfinished(self.workdir) - self._before)

    def outcome(self):
        """Waits for the end."""
        return Outcome(self.wait(), self.stdout, self.stderr)

    def send(self, number):
        self.process.send_signal(number)


ON_TWO_CPUS = """
import runpy, sys, tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def unfinished(workdir):
    """The checkpoints in a run's folder that were begun and not finished, each with the time of that."""
    found = set()
    for path in (workdir / "checkpoints").glob(".unfinished-*"):
        with contextlib.suppress(FileNotFoundError):  # finished meanwhile
            found.add((path.name, path.stat().st_ctime_ns))
    return found


@dataclasses.dataclass
class Outcome:
    """What came of a command."""

    status: int
    stdout: str
    stderr: str

    @property
    def sentence(self):
        """All that a person reads on stderr, which has to be one line."""
        noise = r"WARNING: All log messages before absl|[IWE]\d{4} [\d:.]+ |\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] "
        assert "Traceback" not in self.stderr
        (line,) = [line for line in self.stderr.splitlines() if not re.match(noise, line)]
        return line

    @property
    def refusal(self):
        """The sentence of a command that was refused."""
        assert self.status == 2
        assert self.sentence.startswith("error: ")
        return self.sentence.removeprefix("error: ")

    def notes(self, words):
        """Lines of the output with these words."""
        return [line for line in self.stdout.splitlines() if words in line]


def train_here(workdir, *flags, fit=None):
    """`train.py` in this process, without export and pictures, which take seconds: an `Outcome`.

    Args:
        workdir: path, of the run.
        *flags: str.
        fit: function in the place of `MoCo.fit`.
    """
    argv = ["train.py", *flags, f"--workdir={workdir}"]
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(absl.flags, "FLAGS", absl.flags.FlagValues())
        patch.setattr(absl.logging, "set_verbosity", lambda _: None)
        # What `absl.app.run` comes down to, which can be had only once in a process.
        patch.setattr(command_line.app, "run", lambda main, flags_parser: main(flags_parser(argv)))
        for name in ("export_backbone", "show_end"):
            patch.setattr(training, name, lambda *_: None)
        if fit:
            patch.setattr(MoCo, "fit", fit)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                command_line.run(train.main, train.Config)
            except SystemExit as exit:
                status = exit.code
    return Outcome(status, stdout.getvalue(), stderr.getvalue())


def begin_here(workdir, *flags):
    """`train_here` up to the first step."""

    def fit(*_, **__):
        raise Stopped("Here.")

    outcome = train_here(workdir, *flags, fit=fit)
    assert outcome.status == 75, outcome.stderr
    return outcome


# What a run has come to


def checkpoints(workdir):
    return sorted((workdir / "checkpoints").glob("step-*"))


def arrays(path):
    """All arrays of a checkpoint by name."""
    found = {}
    with h5py.File(path / "model.weights.h5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def log(workdir):
    """Rows of the log, without what no two runs share."""
    with open(workdir / "log.csv", newline="") as file:
        return [{name: text for name, text in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def losses(workdir):
    """`(epoch, loss)` of all events in the order in which they were written."""
    found = []
    for path in sorted((workdir / "tensorboard" / "train").glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            values = [value for value in event.summary.value if value.tag == "contrast/loss"]
            found += [(event.step, float(tf.make_ndarray(value.tensor))) for value in values]
    return found


def results(workdir, *ignored):
    found = json.loads((workdir / "results.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", *ignored)}


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def expect_same_arrays(workdir, undisturbed):
    ours, theirs = (arrays(checkpoints(path)[-1]) for path in (workdir, undisturbed))
    assert ours.keys() == theirs.keys() and len(ours) > 50
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []


def expect_same(workdir, undisturbed, epochs=EPOCHS):
    """Checks that a run has come to what an undisturbed one has, to the bit, and has left nothing else."""
    expect_same_arrays(workdir, undisturbed)
    assert [row["epoch"] for row in log(workdir)] == [str(epoch) for epoch in range(epochs)]
    assert log(workdir) == log(undisturbed)
    expected = [(epoch, np.float32(row["loss"])) for epoch, row in enumerate(log(undisturbed))]
    assert losses(workdir) == losses(undisturbed) == expected
    assert results(workdir) == results(undisturbed)
    assert [path for path in workdir.rglob(".*")] == []  # names of what is not complete


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run in one go, with few checkpoints."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train_here(workdir, *MOCO).status == 0
    return workdir


# Killed and stopped


@dataclasses.dataclass
class Disturbed:
    """A run that was disturbed in several ways, one after the other.

    Attributes:
        workdir: `pathlib.Path`.
        early: `pathlib.Path`, a copy of it in the middle of its second epoch.
        terminated, limited, end: `Outcome` of the starts that SIGTERM, the limit of time and nothing has ended.
        unfinished: bool, whether the kill during a checkpoint has left one unfinished.
    """

    workdir: Path
    early: Path
    terminated: Outcome
    limited: Outcome
    end: Outcome
    unfinished: bool


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disturbed")
    workdir, early, command = folder / "run", folder / "early", [*MOCO, *EVERY_STEP]
    with Process(workdir, *command) as process:
        assert process.prints("^epoch 2/5 step 3/"), process.stderr
        process.send(signal.SIGTERM)
        terminated = process.outcome()
    shutil.copytree(workdir, early)
    with Process(workdir, *command) as process:
        assert process.prints("^epoch 3/5 step 2/") and process.writes_a_checkpoint(), process.stderr
        process.send(signal.SIGKILL)
        process.wait()
        left = process.leaves_unfinished()
    with Process(workdir, *command) as process:
        rng = np.random.default_rng()
        moment, more = f"epoch 4/5 step {rng.integers(1, STEPS)}/", rng.uniform(0, 0.1)
        assert process.prints(f"^{moment}"), process.stderr
        time.sleep(more)
        process.send(signal.SIGKILL)
        print(f"killed {more:.3f} s after {moment}: status {process.wait()}")
    limited = train_here(workdir, *command, "--max_minutes=0.02")
    return Disturbed(workdir, early, terminated, limited, train_here(workdir, *MOCO), left)


def test_a_run_that_was_killed_and_stopped_ends_in_the_same_bits(disturbed, undisturbed):
    assert disturbed.end.status == 0, disturbed.end.stderr
    assert disturbed.unfinished
    expect_same(disturbed.workdir, undisturbed)


def expect_stopped(outcome, workdir, cause):
    """Checks that a run was stopped with everything saved, and returns the step behind which it was."""
    assert outcome.status == 75
    found = re.fullmatch(
        rf"stopped by {cause} behind step (\d+) \(epoch (\d+), (\d+) of 11 steps\), which is saved in (.+)\. "
        "The same command goes on.",
        outcome.sentence,
    )
    assert found, outcome.sentence
    step = int(found[1])
    assert (int(found[2]) - 1, int(found[3])) == divmod(step, STEPS)
    assert found[4] == str(workdir / "checkpoints" / f"step-{step:09d}")
    return step


def test_a_signal_ends_a_run_with_everything_saved(disturbed):
    step = expect_stopped(disturbed.terminated, disturbed.workdir, "SIGTERM")
    assert STEPS + 3 <= step < 2 * STEPS
    assert checkpoints(disturbed.early)[-1].name == f"step-{step:09d}"


def test_the_limit_of_time_ends_a_run_with_everything_saved(disturbed):
    assert expect_stopped(disturbed.limited, disturbed.workdir, "the limit of 0.02 minutes") > 3 * STEPS


@pytest.mark.slow
def test_a_signal_at_the_very_end_loses_nothing(tmp_path):
    """Whether it comes too late or not: what is left to do, the next start does."""
    command, fit = [*MOCO, "--epochs=1"], MoCo.fit

    class Signal(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == STEPS - 2:
                os.kill(os.getpid(), signal.SIGTERM)

    def fit_and_stop(self, *args, callbacks, **kwargs):
        return fit(self, *args, callbacks=[Signal(), *callbacks], **kwargs)

    assert train_here(tmp_path / "run", *command, fit=fit_and_stop).status in (0, 75)
    assert train_here(tmp_path / "run", *command).status == 0
    assert results(tmp_path / "run")["steps"] == STEPS
    assert len(log(tmp_path / "run")) == len(losses(tmp_path / "run")) == 1


# Damaged checkpoints


@pytest.fixture
def early(disturbed, tmp_path):
    """A run in the middle of its second epoch, with several checkpoints, in a folder that a test may write to."""
    workdir = shutil.copytree(disturbed.early, tmp_path / "run")
    configuration = (workdir / "flags.cfg").read_text()
    (workdir / "flags.cfg").write_text(configuration.replace(str(disturbed.workdir), str(workdir)))
    return workdir


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": lambda path: path.unlink(),
}
FILES = ("model.weights.h5", "state.json", "manifest.json")


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_with_a_damaged_checkpoint_a_run_goes_on_from_the_one_before(name, how, early):
    *_, before, newest = checkpoints(early)
    DAMAGES[how](newest / name)
    outcome = begin_here(early, *MOCO, *EVERY_STEP)
    (note,) = outcome.notes("is damaged")
    aside = newest.with_name(f"damaged-{newest.name}")
    assert re.fullmatch(rf"note: {newest} is damaged \({name} .+\), now {aside}; the one before it is used\.", note)
    assert outcome.notes(f"resumed from {before} after 1 of 5 epochs")
    assert aside.is_dir() and checkpoints(early)[-1] == before


def test_a_run_with_a_damaged_checkpoint_ends_in_the_same_bits(early, undisturbed):
    newest = checkpoints(early)[-1]
    DAMAGES["zeroed"](newest / "model.weights.h5")
    assert train_here(early, *MOCO).status == 0
    expect_same(early, undisturbed)
    assert [path.name for path in early.glob("checkpoints/damaged-*")] == [f"damaged-{newest.name}"]


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_stays_as_it_is(early):
    assert len(checkpoints(early)) > 1
    for path, name, how in zip(checkpoints(early), FILES, DAMAGES, strict=False):
        DAMAGES[how](path / name)
    before = contents(early)
    refusal = train_here(early, *MOCO, *EVERY_STEP).refusal
    assert refusal.startswith("A checkpoint must have all its files as they were saved. Received: ")
    assert all(f"{path} (" in refusal for path in checkpoints(early))
    assert refusal.endswith(f"or delete {early / 'checkpoints'} to train from the start.")
    assert contents(early) == before


def test_a_run_whose_only_checkpoint_is_damaged_is_refused_and_stays_as_it_is(early):
    *older, newest = checkpoints(early)
    for path in older:
        shutil.rmtree(path)
    DAMAGES["deleted"](newest / "manifest.json")
    before = contents(early)
    refusal = train_here(early, *MOCO, *EVERY_STEP, "--log_steps=2").refusal
    assert f"Received: {newest} (manifest.json is missing), and no other. " in refusal
    assert contents(early) == before


# No room on the disk


def limit_files(size):
    """Makes the system refuse files beyond `size` bytes, as a full disk would."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_what_cannot_be_written_is_told_and_training_goes_on(tmp_path):
    """Below the size of the weights, above that of all else."""
    with Process(
        tmp_path / "run", *MOCO, *EVERY_STEP, "--epochs=1", preexec_fn=limit_files(540_000), start_new_session=True
    ) as process:
        outcome = process.outcome()
    assert outcome.status == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    told = outcome.notes("warning: the checkpoint of step ")
    assert len(told) > 1
    for line in told:
        assert re.search(r" was not written \(.+\); there is none yet, and training goes on\.$", line), line
    assert outcome.notes("epoch 1/1 done ") and len(log(tmp_path / "run")) == 1
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_without_a_place_for_checkpoints_training_goes_on(tmp_path):
    """Once there is one, it begins again."""
    command = [*MOCO, *EVERY_STEP, "--epochs=1"]
    begin_here(tmp_path / "run", *command)
    (tmp_path / "run" / "checkpoints").write_text("a file")
    outcome = train_here(tmp_path / "run", *command)
    assert outcome.status == 0, outcome.stderr
    assert len(outcome.notes("; there is none yet, and training goes on.")) > 1
    assert results(tmp_path / "run")["steps"] == STEPS
    assert (tmp_path / "run" / "checkpoints").read_text() == "a file"


# Not finite

ABSURD = [*MOCO, *EVERY_STEP, "--base_learning_rate=1e30"]


def finite(workdir):
    return all(
        np.isfinite(array).all()
        for path in checkpoints(workdir)
        for array in arrays(path).values()
        if array.dtype.kind == "f"
    )


def test_a_training_beyond_the_finite_numbers_ends_in_one_sentence(tmp_path):
    outcome = train_here(tmp_path / "run", *ABSURD)
    found = re.fullmatch(
        r"Loss and gradients must be finite\. Received: NaN or infinity in step (\d+) of epoch 1, at learning rate "
        r"[45]\.?\d*e\+29\. (The same command goes on from the last good checkpoint, (.+)|None is saved yet)\. "
        r"Lower the learning rate, or skip such steps \(--on_nan=skip\)\.",
        outcome.refusal,
    )
    assert found, outcome.refusal
    assert 2 <= int(found[1]) <= STEPS
    saved = checkpoints(tmp_path / "run")
    assert found[3] == (str(saved[-1]) if saved else None)
    assert finite(tmp_path / "run")


def test_steps_beyond_the_finite_numbers_are_skipped_ten_times_in_a_row(tmp_path):
    outcome = train_here(tmp_path / "run", *ABSURD, "--on_nan=skip")
    assert re.match(
        r"Loss and gradients must be finite\. Received: NaN or infinity in step \d+ of epoch [12], at learning rate "
        r"\S+, as in the 10 steps up to it\. .+ Look at the images, and lower the learning rate\.$",
        outcome.refusal,
    ), outcome.refusal
    told = outcome.notes("skipped: loss or gradients were not finite.")
    assert len(told) == 9 and told[-1].startswith("note: step ")
    assert finite(tmp_path / "run")


# Another configuration


def test_a_changed_setting_is_refused_until_it_is_allowed(early):
    changed = [*MOCO, "--epochs=3"]
    before = contents(early)
    refusal = train_here(early, *changed).refusal
    assert f"Received: {early} with epochs: 5 -> 3. " in refusal
    assert refusal.endswith("or the old values, or --allow_config_change=epochs.")
    refusal = train_here(early, *changed, "--embedding_dim=8").refusal
    assert "with embedding_dim: 16 -> 8, epochs: 5 -> 3" in refusal and "allow_config_change" not in refusal
    refusal = train_here(early, *changed, "--allow_config_change=epochs,embedding_dim").refusal
    assert re.match(r"`allow_config_change` must name settings that can .*epochs.* Received: embedding_dim\.", refusal)
    assert contents(early) == before

    step = int(checkpoints(early)[-1].name.removeprefix("step-"))
    outcome = train_here(early, *changed, "--allow_config_change=epochs")
    assert outcome.status == 0, outcome.stderr
    assert outcome.notes(f"note: from step {step} on the configuration is another one: epochs: 5 -> 3")
    assert results(early)["config_changes"] == [{"step": step, "epochs": "5 -> 3"}]
    assert (results(early)["epochs"], results(early)["steps"]) == (3, 3 * STEPS)
    assert [row["epoch"] for row in log(early)] == ["0", "1", "2"]
    # It is the run's own from now on, and the old one would be the change.
    assert train_here(early, *changed).status == 0
    assert "epochs: 3 -> 5" in train_here(early, *MOCO).refusal


def test_a_run_can_begin_with_the_weights_of_another(undisturbed, tmp_path):
    outcome = begin_here(tmp_path / "run", *MOCO, f"--init_from={undisturbed}", "--seed=1")
    assert results(tmp_path / "run")["knn_top1_initial"] == results(undisturbed)["knn_top1"]
    assert not outcome.notes("resumed")
    assert checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--init_from=nowhere"], "`init_from` must exist. Received: nowhere. Correct --init_from."),
        (["--backbone_width=6"], "`init_from` must be of the same architecture: .+, whose weights have other shapes. "),
    ],
    ids=["missing", "of another width"],
)
def test_weights_that_cannot_be_had_are_told_and_nothing_is_written(flags, expected, undisturbed, tmp_path):
    before = contents(undisturbed)
    outcome = train_here(tmp_path / "run", *MOCO, f"--init_from={undisturbed}", *flags)
    assert re.match(expected, outcome.refusal), outcome.refusal
    assert contents(tmp_path) == {}
    assert contents(undisturbed) == before


# Many kills


KILLS = 8  # of each
MANY_EPOCHS = 12
MANY = {"moco": MOCO, "memory_bank": [*COMMON, "--method=memory_bank", "--num_negatives=300", "--strategy=one"]}
KINDS = [(method, replicas) for method in MANY for replicas in (1, 2)]


@dataclasses.dataclass
class Killed:
    """A configuration that was run undisturbed and killed.

    Attributes:
        undisturbed: path of the run that was not killed.
        runs: list of paths of those that were, and are at their end.
        kills: list of str, the moments of kills.
        unfinished: int, the kills that have left a checkpoint unfinished.
    """

    undisturbed: Path
    runs: list
    kills: list
    unfinished: int


def kill_many_times(folder, method, replicas):
    """Kills runs of one configuration at random moments, and starts them again until they end: `Killed`."""
    seed = time.time_ns() % 2**32
    rng = np.random.default_rng(seed)
    command = [*MANY[method], *EVERY_STEP, f"--epochs={MANY_EPOCHS}"]
    killed = Killed(folder / "undisturbed", [], [f"seed {seed}"], 0)
    with Process(killed.undisturbed, *command, replicas=replicas) as process:
        assert process.wait() == 0, process.stderr
    kills = 0
    # On a fast machine a run may end before it was killed often enough.
    while kills < KILLS:
        killed.runs.append(folder / f"run{len(killed.runs)}")
        ended = False
        while not ended:
            with Process(killed.runs[-1], *command, replicas=replicas) as process:
                moment = random_moment(process, rng, kills % len(MOMENTS)) if kills < KILLS else None
                if moment is None:
                    assert process.wait() == 0, process.stderr
                    ended = True
                    continue
                process.send(signal.SIGKILL)
                if process.wait() == -signal.SIGKILL:
                    kills += 1
                    killed.unfinished += process.leaves_unfinished()
                    killed.kills.append(moment)
                else:
                    ended = True
    return killed


STEP, EPOCH = r"^epoch \d+/\d+ step .*", r"^epoch \d+/\d+ done .*"
# Before a kill: lines to wait for, at most how many, and at most how many seconds more.
MOMENTS = [
    ("^kNN top-1 before training.*", 1, 8),  # building, tracing, first steps
    (STEP, 25, 0.3),
    (STEP, 25, 0.3),  # and then until a checkpoint is being written
    (EPOCH, 2, 0.2),  # while log, events, curves and checkpoint are being written
]


def random_moment(process, rng, kind):
    """Waits for a moment, and says which; `None` if the process ends before it."""
    line, most, seconds = MOMENTS[kind]
    number, seconds = rng.integers(1, most, endpoint=True), rng.uniform(0, seconds)
    if not process.reaches(lambda: len(re.findall(line, process.stdout, re.M)) >= number):
        return None
    after = re.findall(line, process.stdout, re.M)[-1]
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.process.wait(timeout=seconds)
        return None
    if kind == 2 and not process.writes_a_checkpoint():
        return None
    return f"{seconds:.2f} s after {after[:40]}{', as a checkpoint was written' if kind == 2 else ''}"


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """`Killed` by method and number of replicas. Two at a time, since a process waits for one core mostly."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        futures = {
            kind: pool.submit(kill_many_times, tmp_path_factory.mktemp("killed"), *kind) for kind in reversed(KINDS)
        }
        return {kind: future.result() for kind, future in futures.items()}


@pytest.mark.slow
@pytest.mark.parametrize("method, replicas", KINDS)
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(method, replicas, killed):
    found = killed[method, replicas]
    print(*found.kills, f"{found.unfinished} unfinished", sep="\n")
    assert found.unfinished >= 1
    for workdir in found.runs:
        assert f"on {replicas} replica(s)" in workdir.with_name(f"{workdir.name}.stdout").read_text()
        expect_same(workdir, found.undisturbed, MANY_EPOCHS)


@pytest.mark.slow
def test_those_were_thirty_kills_and_some_of_them_during_a_checkpoint(killed):
    assert sum(len(found.kills) - 1 for found in killed.values()) >= 30
    assert sum(found.unfinished for found in killed.values()) >= 6


# What takes processes, root or both


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_exports_exports_again(undisturbed, tmp_path):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    with Process(workdir, *MOCO) as process:
        assert process.reaches(lambda: list(workdir.glob("export/.export-*"))), process.stderr
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with Process(workdir, *MOCO) as process:
        assert process.wait() == 0, process.stderr
    expect_same(workdir, undisturbed)
    assert (workdir / "export" / "saved_model" / "saved_model.pb").exists()


def heed_interrupts():
    """What runs in the background ignores SIGINT otherwise, and its children with it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_an_interrupt_stops_a_run_and_a_second_signal_ends_it_at_once(early, undisturbed):
    with Process(early, *MOCO, *EVERY_STEP, preexec_fn=heed_interrupts) as process:
        assert process.prints("^epoch 3/5 step 3/"), process.stderr
        process.send(signal.SIGINT)
        assert expect_stopped(process.outcome(), early, "SIGINT") >= 2 * STEPS + 3
    for number in (signal.SIGTERM, signal.SIGINT):
        with Process(early, *MOCO, *EVERY_STEP, preexec_fn=heed_interrupts) as process:
            assert process.prints("^kNN top-1 before training"), process.stderr
            time.sleep(0.5)  # into the first step, which takes seconds to be traced
            process.send(number)
            time.sleep(1)
            assert process.process.poll() is None
            process.send(number)
            assert process.process.wait(timeout=2) == -number
    assert train_here(early, *MOCO).status == 0
    expect_same(early, undisturbed)


@pytest.mark.slow
def test_a_training_beyond_the_finite_numbers_ends_the_process(tmp_path):
    with Process(tmp_path / "run", *ABSURD) as process:
        assert process.outcome().refusal.startswith("Loss and gradients must be finite. Received: NaN or")


@pytest.mark.slow
def test_deterministic_runs_have_the_same_bits_stopped_or_not(tmp_path):
    """They are not those of other runs, since other operations round otherwise, but the numbers are."""
    command = [*MOCO, *EVERY_STEP, "--epochs=1"]
    for name, statuses in {"whole": [0], "stopped": [75, 0]}.items():
        for status in statuses:
            limit = [] if status == 0 else ["--max_minutes=0.001"]
            with Process(tmp_path / name, *command, "--deterministic", *limit) as process:
                assert process.wait() == status, process.stderr
    expect_same(tmp_path / "stopped", tmp_path / "whole", 1)
    assert train_here(tmp_path / "other", *command).status == 0
    ours, theirs = (float(log(tmp_path / name)[0]["loss"]) for name in ("whole", "other"))
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_an_export_that_cannot_be_written_ends_in_one_sentence(tmp_path):
    """Nor any checkpoint."""
    with Process(
        tmp_path / "run", *MOCO, *EVERY_STEP, "--epochs=1", preexec_fn=limit_files(100_000), start_new_session=True
    ) as process:
        outcome = process.outcome()
    assert outcome.refusal
    assert outcome.notes("epoch 1/1 done ") and len(log(tmp_path / "run")) == 1
    assert list((tmp_path / "run").rglob(".*")) == []


@contextlib.contextmanager
def mounted(*arguments):
    """Mounts something, or skips the test where that is not permitted."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount is not permitted: {done.stderr.strip()}")
    try:
        yield Path(arguments[-1])
    finally:
        subprocess.run(["umount", str(arguments[-1])], check=True)


def fill(path):
    """Takes all the room that is left."""
    with open(path, "wb", buffering=0) as file:
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [True, False], ids=["no room for a checkpoint", "no room for a byte"])
def test_a_run_on_a_full_disk_goes_on_and_later_ends_in_the_same_bits(checkpoint, undisturbed, tmp_path):
    command = [*MOCO, "--checkpoint_share=1"]
    (tmp_path / "disk").mkdir()
    # With room for two checkpoints and a half, or filled up after the first one.
    size = "1500k" if checkpoint else "64m"
    with mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path / "disk") as disk:
        workdir = disk / "run"
        with Process(workdir, *command, output=tmp_path) as process:
            if not checkpoint:
                assert process.reaches(lambda: checkpoints(workdir)), process.stderr
                fill(disk / "rubbish")
            outcome = process.outcome()
        print(outcome.stdout, outcome.stderr)
        assert outcome.refusal
        told = outcome.notes("warning: the checkpoint of step ")
        assert told and "No space left on device" in told[0]
        assert outcome.notes("epoch 5/5 done ")
        assert unfinished(workdir) == set()
        kept = checkpoints(workdir)
        assert kept and kept[-1].name < f"step-{EPOCHS * STEPS:09d}"

        (disk / "rubbish").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        with Process(workdir, *command, output=tmp_path) as process:
            again = process.outcome()
        assert again.status == 0, again.stderr
        assert again.notes(f"resumed from {kept[-1]} ") and not again.notes("is damaged")
        expect_same(workdir, undisturbed)


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_read_only_goes_on_and_later_ends_in_the_same_bits(early, undisturbed):
    folder = early / "checkpoints"
    before = contents(folder)
    with mounted("--bind", folder, folder):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        outcome = train_here(early, *MOCO, *EVERY_STEP)
        print(outcome.stdout)
        assert outcome.status == 0, outcome.stderr
        told = outcome.notes("warning: the checkpoint of step ")
        assert told and all(os.strerror(errno.EROFS) in line for line in told)
    assert contents(folder) == before
    assert results(early)["steps"] == EPOCHS * STEPS
    again = train_here(early, *MOCO, *EVERY_STEP)
    assert again.status == 0 and again.notes("resumed from ")
    expect_same(early, undisturbed)
