"""Two processes train as two devices of one do; one is lost, and nothing else is."""

import csv
import json
import re
import signal
import time

import h5py
import numpy as np
import pytest
import tensorflow as tf

from tests.multiworker import fit
from tests.multiworker.launch import ROOT, Workers

pytestmark = pytest.mark.multiworker

# `fit` in one's own code.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repeat": True, "steps_per_execution": 2},
        {"batch_norm": True, "steps_per_execution": 3},
        {"batch_norm": True, "precision": "mixed_float16"},
        {"make": "memory_bank"},
    ],
    ids=["plain", "endless data", "several steps at once", "float16", "memory bank"],
)
def test_two_workers_train_as_two_mirrored_replicas(settings, tmp_path):
    command = ["-m", "tests.multiworker.fit", json.dumps(settings), "result.npz"]
    with Workers(tmp_path, command) as workers:
        # The other side meanwhile.
        expected = fit.train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), **settings)
        workers.succeed()
    chief, other = (np.load(folder / "result.npz") for folder in workers.folders)
    tolerance = 5e-3 if "precision" in settings else 1e-5
    assert {"features", "step", "kernel", "iteration"} <= {name.split("/")[-1] for name in expected}
    for (name, theirs), ours, others in zip(expected.items(), chief.values(), other.values(), strict=True):
        np.testing.assert_array_equal(ours, others, err_msg=name)  # to the bit
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=name)
    steps = [value for name, value in expected.items() if name.endswith("/step")]
    assert steps == [20] and np.ptp(expected["losses"]) > 0.05


# `train.py`, all of it.

EPOCHS, STEPS_PER_EPOCH = 4, 1437 // 32
FLAGS = [
    *("--dataset=digits", "--image_mean=0.3", "--image_std=0.38", "--backbone=resnet10", "--backbone_width=4"),
    *("--stem=cifar", "--head=mlp", "--embedding_dim=16", "--queue_size=280", "--key_momentum=0.99"),
    *("--temperature=0.1", "--augment=moco_cifar", "--crop_min_area=0.4", "--image_size=8", "--batch_size=32"),
    *(f"--epochs={EPOCHS}", "--base_learning_rate=0.2", "--schedule=cosine", "--knn_k=20", "--knn_every_epochs=0"),
    *("--checkpoint_share=1", "--log_steps=1", "--workdir=run"),
]
TRAIN = [str(ROOT / "train.py"), *FLAGS, "--strategy=multiworker"]


def checkpoint(step):
    """Where a worker finds what it has saved."""
    return f"run/checkpoints/step-{step:09d}"


def arrays(folder):
    """All arrays of the last checkpoint by name."""
    found = {}
    with h5py.File(folder / checkpoint(EPOCHS * STEPS_PER_EPOCH) / "model.weights.h5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_ends_in_the_same_bits(again, undisturbed):
    ours, theirs = arrays(again.folders[0]), arrays(undisturbed.folders[0])
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []
    results = [json.loads((run.folders[0] / "run" / "results.json").read_text()) for run in (again, undisturbed)]
    assert results[0]["knn_top1"] == results[1]["knn_top1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with Workers(tmp_path_factory.mktemp("undisturbed"), TRAIN) as workers:
        return workers.succeed()


def test_the_chief_alone_writes_and_reports(undisturbed):
    chief, other = undisturbed.folders
    assert sorted(path.name for path in other.iterdir()) == ["stderr", "stdout"]
    results = json.loads((chief / "run" / "results.json").read_text())
    assert (results["epochs"], results["steps"]) == (EPOCHS, EPOCHS * STEPS_PER_EPOCH)
    assert results["knn_top1"] > results["knn_top1_initial"] > 20
    with open(chief / "run" / "log.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]
    for name in ("export/saved_model/saved_model.pb", "views.png", "neighbours.png", "embedding.png"):
        assert (chief / "run" / name).exists()
    assert "warning: " not in undisturbed.output(0)
    assert "; 2 CPU(s) of 2 worker(s)\n" in undisturbed.output(0)
    assert "on 2 replica(s)" in undisturbed.output(0) and "BatchNorm: shuffle" in undisturbed.output(0)
    assert "worker 2 of 2: waiting for all of localhost:" in undisturbed.output(1)
    assert undisturbed.output(1).endswith("training along; the first worker writes\n")


def test_the_run_is_that_of_two_mirrored_replicas(undisturbed, tmp_path):
    script = tmp_path / "mirrored.py"
    script.write_text(
        "import sys, tensorflow as tf\n"
        "[cpu] = tf.config.list_physical_devices('CPU')\n"
        "tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])\n"
        "import train\n"
        "train.command_line.run(train.main, train.Config)\n"
    )
    with Workers(tmp_path, [str(script), *FLAGS, "--strategy=mirrored", "--replicas=2"], number=1) as mirrored:
        mirrored.succeed()
    ours, theirs = arrays(undisturbed.folders[0]), arrays(mirrored.folders[0])
    assert ours.keys() == theirs.keys() and len(ours) > 50
    for name, array in theirs.items():
        # Batch norm over groups of 16 magnifies the rounding of 176 steps.
        np.testing.assert_allclose(ours[name], array, rtol=2e-3, atol=2e-3, err_msg=name)
    counters = [name for name, array in theirs.items() if array.dtype.kind in "iu"]
    assert len(counters) >= 3  # steps, optimizer steps, keys
    for name in counters:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("victim", [1, 0], ids=["second worker", "chief"])
def test_a_killed_worker_ends_the_others_and_the_same_command_goes_on_to_the_same_bits(victim, undisturbed, tmp_path):
    with Workers(tmp_path, TRAIN) as workers:
        workers.wait_for("epoch 3/4 step 5/")
        workers.kill(victim)
        start = time.monotonic()
        survivor = 1 - victim
        assert workers.processes[survivor].wait(timeout=60) == 75
        print(f"the survivor ended after {time.monotonic() - start:.1f} s")
    error = workers.output(survivor, "stderr")
    assert "Traceback" not in error
    assert [line for line in error.splitlines() if line.startswith("error: ")] == [
        "error: All workers must run until the end, since each needs the others' results in every step. Received: a "
        "broken connection to another one (UnavailableError). Look for the cause in the others' output, and start the "
        "same command on all workers again: the run goes on from its last checkpoint."
    ]
    assert "epoch 3/4 done" not in workers.output(0)
    with Workers(tmp_path, TRAIN) as again:
        again.succeed()
    assert f"resumed from {checkpoint(2 * STEPS_PER_EPOCH)} after 2 of {EPOCHS} epochs\n" in again.output(0)
    assert_ends_in_the_same_bits(again, undisturbed)


def test_a_worker_that_cannot_begin_says_why(tmp_path):
    """Bad input is found by all workers alike, and none waits for the others."""
    with Workers(tmp_path, [*TRAIN, "--batch_size=33"]) as workers:
        assert workers.codes() == [2, 2]
    for index in range(2):
        assert "error: `batch_size` must be divisible by the replicas" in workers.output(index, "stderr")
        assert not (workers.folders[index] / "run").exists()


def test_a_worker_that_cannot_go_along_ends_the_others(tmp_path):
    def command(index):
        return [*TRAIN, f"--dataset=folder:{tmp_path}/nowhere"] if index else TRAIN

    with Workers(tmp_path, command) as workers:
        assert workers.codes() == [75, 2]
    assert "error: `path` of folder:<path> must be an existing folder." in workers.output(1, "stderr")
    assert "error: All workers must run until the end" in workers.output(0, "stderr")


def test_one_worker_that_is_told_to_stop_stops_all_and_the_same_command_goes_on_to_the_same_bits(undisturbed, tmp_path):
    """TensorFlow takes SIGTERM for a note of preemption, and would train on."""
    with Workers(tmp_path, TRAIN) as workers:
        workers.wait_for("epoch 2/4 step 5/")
        workers.processes[1].terminate()
        assert workers.codes() == [75, 75]
    chief, other = ([*workers.output(index, "stderr").splitlines()][-1] for index in range(2))
    [step, done] = map(int, re.findall(r"behind step (\d+) \(epoch 2, (\d+) of 44 steps\)", other)[0])
    assert STEPS_PER_EPOCH + 5 <= step == STEPS_PER_EPOCH + done < 2 * STEPS_PER_EPOCH
    where = f"behind step {step} (epoch 2, {done} of 44 steps)"
    assert other == f"stopped by SIGTERM {where}. The same command goes on."
    saved = checkpoint(step)
    assert chief == f"stopped by another worker {where}, which is saved in {saved}. The same command goes on."
    with Workers(tmp_path, TRAIN) as again:
        again.succeed()
    assert f"resumed from {saved} after 1 of {EPOCHS} epochs and {done} of 44 steps\n" in again.output(0)
    assert_ends_in_the_same_bits(again, undisturbed)


def test_a_worker_that_waits_for_others_can_be_interrupted(tmp_path):
    with Workers(tmp_path, lambda index: TRAIN if index == 0 else ["-c", "import time; time.sleep(300)"]) as workers:
        workers.wait_for("waiting for all of localhost:")
        time.sleep(3)  # into TensorFlow's own code
        workers.processes[0].send_signal(signal.SIGINT)
        assert workers.processes[0].wait(timeout=10) == -signal.SIGINT
    assert not (workers.folders[0] / "run").exists()
