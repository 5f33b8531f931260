"""Commands are killed at 41 places. The same command, run again, ends with the same results."""

import os
import shutil
import signal
import time

import numpy as np
import pytest

from keras_moco.storage.locks import locked
from tests.launcher import Launcher, Place
from tests.whole_runs import TINY_FLAGS, contents, expect_same, results

pytestmark = pytest.mark.slow

EPOCHS = 3
EVERY_STEP = "--checkpoint_minutes=1e-9"  # a checkpoint after each
MOCO = [*TINY_FLAGS, f"--epochs={EPOCHS}", "--log_steps=1"]
OF_MOCO = ("--queue_size", "--key_momentum", "--bn_splits", "--strategy")
MEMORY_BANK = [flag for flag in MOCO if not flag.startswith(OF_MOCO)]
MEMORY_BANK += ["--method=memory_bank", "--num_negatives=300", "--strategy=mirrored", "--replicas=2"]

A_STEP = "keras_moco.callbacks.progress:Progress.on_train_batch_end"
FLUSH = "keras_moco.runs.checkpoints:flush"
# In the order in which a run that is resumed after each comes to them.
BEGINNING = [
    Place("os:replace", "flags.cfg"),
    Place("keras_moco.runs.checkpoints:in_memory"),  # the weights of step 0
    Place("os:rename", ".unfinished-"),
    Place("os:replace", "results.json", 2),
    Place("keras_moco.commands.pretrain:measure_start"),
]
FIRST_EPOCH = [
    Place(A_STEP, number=2),
    Place("keras_moco.runs.checkpoints:measured", "state.json", 3),
    Place(FLUSH, "manifest.json", 2),
    Place("os:rename", ".unfinished-", 2),
    Place("shutil:rmtree", "step-", 2),
    Place("os:replace", "log.csv"),
    Place("keras_moco.callbacks.event_log:flush", "events"),
    Place("os:replace", "events"),  # where those of the first epoch are taken out again
    Place("os:replace", "curves.png"),
    Place(FLUSH, "state.json"),  # of the checkpoint after the epoch
]
LATER = [
    Place(A_STEP, number=7),
    Place("os:replace", "log.csv"),
    Place("os:replace", "curves.png"),
    Place("os:replace", "results.json", 3),  # the seconds of the training
]
EXPORT = [
    Place("keras_moco.export.backbone:write_saved_model"),
    Place("keras_moco.export.backbone:_replace"),
    Place("pathlib:Path.replace", "backbone.keras"),
    Place("os:replace", "results.json", 4),
]


@pytest.fixture(scope="module")
def launcher():
    with Launcher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def whole(launcher, tmp_path_factory):
    """A run of MoCo without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    outcome = launcher.run(folder, "train.py", *MOCO, f"--workdir={folder / 'run'}")
    assert outcome.status == 0, outcome.stderr
    return folder / "run"


def kill_at(launcher, places, folder, *command, **settings):
    """Kills a command at each of these places, and lets it come to its end then."""
    for place in places:
        outcome = launcher.run(folder, *command, hold=place, **settings)
        assert outcome is not None, f"it does not come to {place}"
        assert outcome.status == -9, outcome
    outcome = launcher.run(folder, *command, **settings)
    assert outcome.status == 0, outcome.stderr
    return outcome


def files_in(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


def test_training_ends_in_the_same_bits(launcher, whole, tmp_path):
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    anywhere = [Place(name, number=int(rng.integers(1, 8))) for name in (A_STEP, FLUSH)]
    run = tmp_path / "run"
    command = ["train.py", *MOCO, EVERY_STEP, f"--workdir={run}"]
    kill_at(launcher, [*BEGINNING, *FIRST_EPOCH, *anywhere, *LATER, *EXPORT], tmp_path, *command)
    expect_same(run, whole)
    assert files_in(run / "export") == files_in(whole / "export")


def test_a_memory_bank_on_two_replicas_ends_in_the_same_bits(launcher, tmp_path):
    folders = [tmp_path / "whole", tmp_path / "run"]
    commands = [["train.py", *MEMORY_BANK, f"--workdir={folder}"] for folder in folders]
    kill_at(launcher, [], tmp_path, *commands[0], replicas=2)
    places = [Place(A_STEP, number=2), Place("os:rename", ".unfinished-", 2), Place("os:replace", "log.csv")]
    kill_at(launcher, places, tmp_path, *commands[1], EVERY_STEP, replicas=2)
    expect_same(*reversed(folders))


EVALUATIONS = {
    "knn": (["--pictures=false"], [Place("os:replace", "results.json"), Place("os:replace", "MODEL_CARD.md")]),
    "semi": (
        ["--fractions=10", "--seeds=2", "--epochs=1", "--pictures=false"],
        [Place("os:replace", "results.json", 2), Place("os:replace", "results.json", 2)],
    ),
    "finetune": (
        ["--epochs=3", "--pictures=false"],
        [
            Place("keras_moco.evaluation.modes.tuned:predict_labelled"),
            Place("os:replace", "classifier.keras"),
            Place("os:replace", "results.json"),
        ],
    ),
    "linear": (["--epochs=3"], [Place("os:replace", "confusion"), Place("os:replace", "results.json")]),
    "export": ([], [Place("keras_moco.export.backbone:_replace")]),
}


@pytest.mark.parametrize("mode", EVALUATIONS)
def test_an_evaluation_has_the_same_results(mode, launcher, whole, tmp_path):
    flags, places = EVALUATIONS[mode]
    found = []
    for name, killed in (("undisturbed", []), ("killed", places)):
        run = shutil.copytree(whole, tmp_path / name / "run")
        kill_at(launcher, killed, tmp_path, "evaluate.py", mode, *flags, f"--workdir={run}")
        found.append(results(run))
        assert list(run.rglob(".*")) == [] and not list(run.rglob("unfinished*"))
    assert found[0] == found[1]


def test_a_killed_conversion_leaves_no_incomplete_files(launcher, whole, tmp_path):
    """`convert backbone` of what `convert to_pytorch` wrote."""
    file, folder = tmp_path / "run.safetensors", tmp_path / "backbone"
    convert = ("-m", "keras_moco", "convert")
    kill_at(launcher, [Place("os:replace", file.name)], tmp_path, *convert, "to_pytorch", whole, file)
    places = [Place("keras_moco.export.backbone:write_saved_model"), Place("keras_moco.export.backbone:_replace")]
    for place in places:
        launcher.run(tmp_path, *convert, "backbone", file, folder, hold=place)
        assert not [path for path in folder.iterdir() if not path.name.startswith(".")]
    kill_at(launcher, [], tmp_path, *convert, "backbone", file, folder, "--overwrite")
    assert {path.name for path in folder.iterdir()} == {"backbone.keras", "saved_model"}
    assert list(tmp_path.glob(".*")) == []


# Moved, copied, shared


def test_a_copied_or_moved_run_resumes_in_its_new_place(launcher, whole, tmp_path):
    run, place = tmp_path / "run", Place(A_STEP, number=5)
    stopped = launcher.run(tmp_path, "train.py", *MOCO, f"--workdir={run}", hold=place, number=signal.SIGTERM)
    assert stopped.status == 75, stopped
    copy = shutil.copytree(run, tmp_path / "elsewhere" / "copy")
    before = contents(run)
    kill_at(launcher, [], tmp_path, "train.py", f"--flagfile={copy / 'flags.cfg'}")
    expect_same(copy, whole)
    assert contents(run) == before
    moved = run.rename(tmp_path / "moved")
    kill_at(launcher, [], tmp_path, "train.py", f"--flagfile={moved / 'flags.cfg'}")
    expect_same(moved, whole)
    assert not run.exists()


def test_a_second_training_is_refused_while_the_first_lives(launcher, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    before = contents(run)
    with locked(run / "training"):
        outcome = launcher.run(tmp_path, "train.py", *MOCO, f"--workdir={run}")
    assert f"{run}, where process {os.getpid()} on " in outcome.refusal
    assert contents(run) == before


def test_a_run_without_its_checkpoints_is_refused(launcher, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "checkpoints").rename(tmp_path / "purged")
    before = contents(run)
    outcome = launcher.run(tmp_path, "train.py", *MOCO, f"--workdir={run}")
    assert f"{run / 'checkpoints'} without any, while {run / 'log.csv'} has {EPOCHS} epoch(s)" in outcome.refusal
    assert contents(run) == before
