"""Whole runs that are interrupted, changed or of other methods. They are too slow for the default tier."""

import contextlib
import dataclasses
import errno
import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from keras_moco import callbacks
from keras_moco.commands.evaluate import evaluate
from keras_moco.config import Config, EvaluationConfig
from keras_moco.runs import load
from tests.tiny import tiny_config
from tests.whole_runs import (
    STEPS,
    arrays,
    checkpoints,
    comparable,
    contents,
    events,
    expect_same,
    log,
    pretrain,
    results,
    stop_in_mid_epoch,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run without interruption."""
    return pretrain(tiny_config(tmp_path_factory.mktemp("undisturbed") / "run"))


@pytest.fixture
def copy(undisturbed, tmp_path):
    """The same in a folder that a test may write to."""
    return shutil.copytree(undisturbed.path, tmp_path / "run")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The path of a run that was stopped in its second epoch."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    stop_in_mid_epoch(tiny_config(path))
    return path


@pytest.fixture
def early(stopped, tmp_path):
    """The same in a folder that a test may write to."""
    return shutil.copytree(stopped, tmp_path / "run")


# Changed


def test_allowed_changes_apply_from_the_step_of_the_resume(copy):
    config = tiny_config(copy, epochs=3, allow_config_change=("epochs", "temperature"))
    longer = pretrain(config)
    assert "after 2 of 3 epochs\n" in longer.printed
    assert longer.results["steps"] == 3 * STEPS and [row["epoch"] for row in log(copy)] == ["0", "1", "2"]
    again = pretrain(dataclasses.replace(config, temperature=0.2))
    expected = [{"step": 22, "epochs": "2 -> 3"}, {"step": 33, "temperature": "0.1 -> 0.2"}]
    assert again.results["config_changes"] == expected
    assert load.load_model(copy)[0].config == tiny_config(copy, epochs=3, temperature=0.2)


def test_resumed_run_no_longer_needs_the_weights_of_init_from(copy, tmp_path):
    config = tiny_config(tmp_path / "new", init_from=str(copy), epochs=1)
    run = pretrain(config)
    shutil.rmtree(copy)
    assert comparable(pretrain(config).results) == comparable(run.results)


def test_a_run_resumes_with_another_number_of_replicas(early, undisturbed):
    result = pretrain(tiny_config(early, strategy="mirrored", replicas=2))
    assert "note: this run had 1 replica(s) before, now 2; " in result.printed
    assert "steps: 11 per epoch of 128 images on 2 replica(s)" in result.printed
    assert (result.results["replicas"], result.results["steps"]) == (2, 2 * STEPS)
    # Not the same numbers, since BatchNorm's groups are others, but the same kind of them.
    losses = [float(log(path)[1]["loss"]) for path in (early, undisturbed.path)]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert load.load_model(early)[0].config == result.config


OTHERS = {
    "end_to_end": {"bn_splits": 4, "separate_encoders": True},
    "memory_bank": {"num_negatives": 300},
    "simclr": {"head": "simclr", "augment": "simclr_cifar", "optimizer": "lars", "base_learning_rate": 1.0},
}


@pytest.mark.parametrize("method", OTHERS)
def test_another_method_is_trained_stopped_resumed_and_evaluated(method, tmp_path):
    unset = {name: getattr(Config(), name) for name in ("queue_size", "key_momentum", "bn_splits")}  # of MoCo alone
    settings = {**unset, **OTHERS[method], "method": method}
    whole = pretrain(tiny_config(tmp_path / "whole", **settings))
    columns = set(log(whole.path)[0])
    assert {"loss", "contrast_top1", "knn_top1"} <= columns and not columns & {"queue_fill", "key_momentum"}
    config = tiny_config(tmp_path / "run", **settings)
    stop_in_mid_epoch(config)
    resumed = pretrain(config)
    expect_same(resumed.path, whole.path)
    assert any("bank/vars/0" in name for name in arrays(checkpoints(whole.path)[-1])) == (method == "memory_bank")
    evaluate("knn", EvaluationConfig(workdir=str(resumed.path), knn_k=(20,), pictures=False))
    # Features of batches of another size are rounded otherwise: two near ties of 360.
    assert results(resumed.path)["knn_top1_backbone"] == pytest.approx(resumed.results["knn_top1"], abs=0.6)


# Images in a folder


def write_images(folder, number, channels):
    """Random images of different sizes, of which the 14th cannot be read."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for n in range(number):
        pixels = rng.integers(0, 256, (10 + n % 3, 12, channels)[: 2 + (channels > 1)], dtype="uint8")
        Image.fromarray(pixels).save(folder / f"{n:02d}.png")
    (folder / "13.png").write_bytes(b"no image")


def test_images_without_labels_train_without_knn(tmp_path):
    folder, run = tmp_path / "images", tmp_path / "run"
    write_images(folder, 42, channels=3)
    (folder / "41.png").rename(tmp_path / "41.png")
    images = dict(dataset=f"folder:{folder}", image_mean=(0.485, 0.456, 0.406), max_bad_fraction=0.1)
    config = tiny_config(run, **images, batch_size=8, queue_size=32, epochs=1, symmetric=True)
    unlabelled = pretrain(config)
    facts = {"replicas", "train_examples", "train_licence", "has_checkpoints", "checkpoints"}
    assert set(unlabelled.results) == {*facts, "epochs", "steps", "seconds", "versions", "bad_images"}
    assert (unlabelled.results["steps"], unlabelled.results["bad_images"]) == (5, 1)
    (row,) = log(run)
    assert "knn_top1" not in row and np.isfinite(float(row["loss"])) and 0 < float(row["alignment"]) < 4
    for words in ("no kNN accuracy", "note: 1 of 41 images ", "keras-moco evaluate retrieve "):
        assert words in unlabelled.printed
    assert "kNN top-1" not in unlabelled.printed and "warning: " not in unlabelled.printed
    # With one image more it is another data set, and nothing is touched.
    (tmp_path / "41.png").rename(folder / "41.png")
    before = contents(run)
    with pytest.raises(ValueError, match=r"42 images in folder:\S+, 41 before"):
        pretrain(config)
    assert contents(run) == before


def test_a_damaged_image_is_reported_during_training(tmp_path):
    write_images(tmp_path / "images", 20, channels=1)
    settings = dict(dataset=f"folder:{tmp_path / 'images'}", batch_size=10, queue_size=16, bn_splits=1)
    with pytest.raises(ValueError, match=rf"1 of 20 so far, among them {tmp_path / 'images' / '13.png'} \("):
        pretrain(tiny_config(tmp_path / "run", **settings))


# Interrupted


def test_a_run_with_a_damaged_checkpoint_ends_in_the_same_bits(early, undisturbed):
    weights = checkpoints(early)[-1] / "model.weights.h5"
    weights.write_bytes(bytes(weights.stat().st_size))
    pretrain(tiny_config(early))
    expect_same(early, undisturbed.path)


def test_a_signal_at_the_end_loses_nothing(tmp_path, monkeypatch):
    """Whether it comes too late or not: what is left to do, the next start does."""
    run, config = tmp_path / "run", tiny_config(tmp_path / "run", epochs=1)

    class Signal(callbacks.Progress):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if batch == STEPS - 2:
                os.kill(os.getpid(), 15)

    with monkeypatch.context() as patch, contextlib.suppress(callbacks.Stopped):
        patch.setattr(callbacks, "Progress", Signal)
        pretrain(config)
    assert pretrain(config).results["steps"] == STEPS
    assert len(log(run)) == len([event for event in events(run) if event[0] == "contrast/loss"]) == 1


@contextlib.contextmanager
def read_only(folder):
    """Mounts a folder over itself, read-only, or skips the test where that is not permitted."""
    done = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount is not permitted: {done.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_run_whose_checkpoints_are_read_only_continues_and_ends_in_the_same_bits(early, undisturbed):
    folder, config = early / "checkpoints", tiny_config(early)
    before = contents(folder)
    with read_only(folder):
        trained = pretrain(config)
    notes = [line for line in trained.printed.splitlines() if line.startswith("warning: the checkpoint of step ")]
    assert notes and all(os.strerror(errno.EROFS) in line for line in notes)
    assert contents(folder) == before and trained.results["steps"] == 2 * STEPS
    assert "resumed from " in pretrain(config).printed
    expect_same(early, undisturbed.path)
