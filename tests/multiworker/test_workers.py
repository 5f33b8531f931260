"""Two processes train as two devices of one do, and resume after one is lost."""

import json
import re
import signal
import time

import h5py
import numpy as np
import pytest
import tensorflow as tf

from tests.multiworker import fit
from tests.multiworker.launch import LIMIT, Workers
from tests.tiny import TINY_RUN

pytestmark = pytest.mark.multiworker

# `fit` in one's own code.


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_norm": True, "steps_per_execution": 3},
        {"repeat": True, "batch_norm": True, "precision": "mixed_float16"},
        {"make": "memory_bank"},
    ],
    ids=["several steps at once", "endless data and float16", "memory bank"],
)
def test_two_workers_train_as_two_mirrored_replicas(settings, tmp_path):
    command = ["-m", "tests.multiworker.fit", json.dumps(settings), "result.npz"]
    with Workers(tmp_path, command) as workers:
        expected = fit.train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), **settings)
        workers.succeed()
    chief, other = (np.load(folder / "result.npz") for folder in workers.folders)
    tolerance = 5e-3 if "precision" in settings else 1e-5  # rounding of half precision, and of float32
    assert {"features", "step", "kernel", "iteration"} <= {name.split("/")[-1] for name in expected}
    for (name, theirs), ours, others in zip(expected.items(), chief.values(), other.values(), strict=True):
        np.testing.assert_array_equal(ours, others, err_msg=name)  # to the bit
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=name)
    steps = [value for name, value in expected.items() if name.endswith("/step")]
    assert steps == [20] and np.ptp(expected["losses"]) > 0.05


# A whole run

EPOCHS, STEPS_PER_EPOCH = 3, 1437 // 32
SETTINGS = {**TINY_RUN, "batch_size": 32, "queue_size": 280, "head": "mlp", "epochs": EPOCHS, "bn_splits": 8}
SETTINGS |= {"strategy": "multiworker", "log_steps": 1, "knn_every_epochs": 0, "workdir": "run"}


def command(**settings):
    def text(value):
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()

    both = {**SETTINGS, **settings}.items()
    return ["-m", "tests.multiworker.train_tiny", *(f"--{name}={text(value)}" for name, value in both)]


def arrays(folder):
    """All arrays of the last checkpoint by name."""
    found = {}
    with h5py.File(max((folder / "run/checkpoints").glob("step-*")) / "model.weights.h5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def resume_to_the_same_bits(folder, uninterrupted):
    """Runs the same command again; returns the step that it resumed from."""
    with Workers(folder, command()) as again:
        again.succeed()
    [line] = [line for line in again.output(0).splitlines() if line.startswith("resumed")]
    step = int(re.search(r"run/checkpoints/step-(\d+)", line)[1])
    epochs, steps = divmod(step, STEPS_PER_EPOCH)
    assert f"{epochs} of {EPOCHS} epochs" in line
    assert steps == 0 or f"{steps} of {STEPS_PER_EPOCH} steps" in line
    ours, theirs = arrays(again.folders[0]), arrays(uninterrupted.folders[0])
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []
    results = [json.loads((run.folders[0] / "run" / "results.json").read_text()) for run in (again, uninterrupted)]
    assert results[0]["knn_top1"] == results[1]["knn_top1"]
    return step


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    with Workers(tmp_path_factory.mktemp("uninterrupted"), command()) as workers:
        return workers.succeed()


def test_chief_alone_writes_and_reports(uninterrupted):
    chief, other = uninterrupted.folders
    assert sorted(path.name for path in other.iterdir()) == ["stderr", "stdout"]
    results = json.loads((chief / "run" / "results.json").read_text())
    assert (results["epochs"], results["steps"]) == (EPOCHS, EPOCHS * STEPS_PER_EPOCH)
    assert results["knn_top1"] > 20  # chance is 10
    assert len((chief / "run" / "log.csv").read_text().splitlines()) == 1 + EPOCHS
    for name in ("export/saved_model/saved_model.pb", "views.png", "neighbours.png", "embedding.png"):
        assert (chief / "run" / name).exists()
    assert "2 CPU(s) of 2 worker(s)" in uninterrupted.output(0)


def test_run_is_that_of_two_mirrored_replicas(uninterrupted, tmp_path):
    with Workers(tmp_path, command(strategy="mirrored", replicas=2), number=1) as mirrored:
        mirrored.succeed()
    ours, theirs = arrays(uninterrupted.folders[0]), arrays(mirrored.folders[0])
    assert ours.keys() == theirs.keys() and len(ours) > 30
    counters = [name for name, array in theirs.items() if array.dtype.kind in "iu"]
    assert len(counters) >= 3  # steps, optimizer steps, keys
    for name, array in theirs.items():
        # Batch norm over groups of 16 magnifies the rounding of 132 steps.
        tolerance = 0 if name in counters else 2e-3
        np.testing.assert_allclose(ours[name], array, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("victim", [1, 0], ids=["second worker", "chief"])
def test_killed_worker_ends_the_others_and_the_run_resumes(victim, uninterrupted, tmp_path):
    with Workers(tmp_path, command()) as workers:
        workers.wait_for("epoch 2/3 step 5/")
        workers.kill(victim)
        survivor = 1 - victim
        assert workers.processes[survivor].wait(timeout=LIMIT) == 75
    error = workers.output(survivor, "stderr")
    [message] = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "UnavailableError" in message and "Traceback" not in error
    assert STEPS_PER_EPOCH <= resume_to_the_same_bits(tmp_path, uninterrupted) < EPOCHS * STEPS_PER_EPOCH


def test_mistake_ends_all_workers(tmp_path):
    """All workers find bad input alike, and none waits for the others."""
    with Workers(tmp_path, command(batch_size=33)) as workers:
        assert workers.codes() == [2, 2]
    for index in range(2):
        assert "error: `batch_size`" in workers.output(index, "stderr")
        assert not (workers.folders[index] / "run").exists()


def test_worker_that_cannot_start_ends_the_others(tmp_path):
    with Workers(tmp_path, lambda index: command(**({"dataset": "folder:nowhere"} if index else {}))) as workers:
        assert workers.codes() == [75, 2]
    assert "error: `path` of folder:<path>" in workers.output(1, "stderr")
    assert "error: " in workers.output(0, "stderr")


def test_one_worker_that_is_stopped_stops_all_and_the_run_resumes(uninterrupted, tmp_path):
    """TensorFlow takes SIGTERM for a note of preemption, and would train on."""
    with Workers(tmp_path, command()) as workers:
        workers.wait_for("epoch 2/3 step 5/")
        workers.processes[1].terminate()
        assert workers.codes() == [75, 75]
    chief, other = (workers.output(index, "stderr").splitlines()[-1] for index in range(2))
    where = r"step (\d+) \(epoch (\d), (\d+) of 44 steps\)"
    [[step, epoch, done]] = re.findall(where, other)
    assert STEPS_PER_EPOCH + 5 <= int(step) == (int(epoch) - 1) * STEPS_PER_EPOCH + int(done)
    assert "SIGTERM" in other and re.findall(where, chief) == re.findall(where, other)
    assert resume_to_the_same_bits(tmp_path, uninterrupted) == int(step)


def test_worker_that_waits_for_others_can_be_interrupted(tmp_path):
    with Workers(tmp_path, lambda index: ["-c", "import time; time.sleep(300)"] if index else command()) as workers:
        workers.wait_for("worker 1 of 2")
        time.sleep(3)  # into TensorFlow's own code
        workers.processes[0].send_signal(signal.SIGINT)
        assert workers.processes[0].wait(timeout=LIMIT) == -signal.SIGINT
    assert not (workers.folders[0] / "run").exists()
