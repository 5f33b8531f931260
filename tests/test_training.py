"""Whole runs, small enough for a test: what they leave behind, how they go on, and what is made of them."""

import csv
import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_moco
from keras_moco import building, data, determinism, trained_run, training
from keras_moco.callbacks import Checkpoint, Stopped, save
from keras_moco.config import Config, read_flagfile
from keras_moco.data.bad_images import BadImages
from keras_moco.distribution import make_strategy
from keras_moco.evaluating import evaluate
from keras_moco.evaluation import representation_measures
from keras_moco.evaluation_config import EvaluationConfig
from keras_moco.models import MoCo
from keras_moco.optimizers import SGD
from keras_moco.versions import versions
from tests.small_encoder import small_encoder

STEPS = 1437 // 128
CHECKPOINT_FILES = ("model.weights.h5", "state.json", "manifest.json")
TIMES = ("images_per_second", "step_seconds", "data_wait_seconds")  # columns of the log that no two runs share


def tiny(workdir, **settings):
    """A configuration that trains in a second: images of 8 x 8, a hundredth of a ResNet's width."""
    defaults = dict(
        dataset="digits",
        workdir=str(workdir),
        image_mean=(0.3,),
        image_std=(0.38,),
        backbone="resnet10",
        backbone_width=4,
        stem="cifar",
        bn_splits=4,
        head="mlp",
        embedding_dim=16,
        queue_size=500,  # no multiple of the batch
        key_momentum=0.99,
        temperature=0.1,
        augment="moco_cifar",
        crop_min_area=0.4,
        image_size=8,
        batch_size=128,
        epochs=2,
        base_learning_rate=0.1,
        schedule="cosine",
        schedule_per_step=True,
        strategy="one",
        knn_k=20,
        knn_features="backbone",
        checkpoint_share=1.0,  # after every epoch, short as they are
        log_steps=5,
    )
    return Config(**{**defaults, **settings})


@dataclasses.dataclass
class Finished:
    """A run that has come to its end."""

    config: Config
    path: Path
    results: dict
    printed: str


class Capture:
    """What is printed while a fixture of module scope works, where `capsys` is not to be had."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return False


def pretrain(config, export=True):
    """Runs a configuration; without export and pictures, which take seconds, where a test has no need of them."""
    capture = Capture()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", capture)
        if not export:
            for name in ("export_backbone", "show_end"):
                patch.setattr(training, name, lambda *_: None)
        results = training.pretrain(config)
    return Finished(config, Path(config.workdir), results, capture.text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two epochs in one go."""
    return pretrain(tiny(tmp_path_factory.mktemp("finished") / "run"))


class PowerCut(Exception):
    pass


class CheckpointThenPowerCut(Checkpoint):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        raise PowerCut


def cut_off(config):
    """Trains until the power is cut after the first epoch."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(training.callbacks, "Checkpoint", CheckpointThenPowerCut)
        pretrain(config)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The same, cut off after the first epoch, with a copy of what lay in the folder then."""
    config = tiny(tmp_path_factory.mktemp("stopped") / "run")
    cut_off(config)
    return shutil.copytree(config.workdir, tmp_path_factory.mktemp("then") / "run"), config


@pytest.fixture(scope="module")
def resumed(stopped):
    """And started again."""
    _, config = stopped
    return pretrain(config, export=False)


@pytest.fixture
def copy(finished, tmp_path):
    """The finished run in a folder that a test may write to."""
    return shutil.copytree(finished.path, tmp_path / "run")


def checkpoint(path, step=2 * STEPS):
    """All arrays of a checkpoint by name."""
    arrays = {}
    with h5py.File(path / "checkpoints" / f"step-{step:09d}" / "model.weights.h5") as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


def log(path):
    with open(path / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def without(results, *names):
    return {name: value for name, value in results.items() if name not in names}


# What a run leaves behind


def test_the_outputs_are_all_there_and_nothing_else(finished):
    files = {str(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("tensorboard/")}
    saved_model = {name for name in files if name.startswith("export/saved_model/")}
    shown = {name.removeprefix("tensorboard/train/") for name in events if "tfevents.1" not in name}
    assert len(events) == len(shown) + 1
    assert shown == {
        *("events.out.tfevents.0.settings.whole", "events.out.tfevents.0.views.whole"),
        *("projector_config.pbtxt", "features.tsv", "labels.tsv", "sprite.png"),
    }
    assert "export/saved_model/saved_model.pb" in saved_model
    assert files - events - saved_model == {
        "flags.cfg",
        "log.csv",
        *("curves.png", "views.png", "neighbours.png", "embedding.png"),
        "results.json",
        *(f"checkpoints/step-0000000{step}/{name}" for step in (11, 22) for name in CHECKPOINT_FILES),
        "export/backbone.keras",
    }


def test_the_flagfile_is_the_configuration(finished):
    assert read_flagfile(finished.path / "flags.cfg") == finished.config


def test_the_log_has_a_row_per_epoch(finished):
    first, second = log(finished.path)
    assert (first["epoch"], second["epoch"]) == ("0", "1")
    columns = "loss contrast_top1 contrast_top5 positive_similarity negative_similarity feature_std queue_fill".split()
    columns += ["key_momentum", "knn_top1", "alignment", "uniformity", "effective_rank", "learning_rate", *TIMES]
    for row in (first, second):
        assert set(row) == {"epoch", *columns}
        assert all(np.isfinite(float(row[name])) for name in columns)
        assert 0 < float(row["loss"]) < 2 * np.log(501)
        assert 1 < float(row["knn_top1"]) <= 100  # percent
    assert float(second["queue_fill"]) == 1  # full after 4 of 11 steps
    assert float(first["queue_fill"]) == pytest.approx(np.mean([128 / 500, 256 / 500, 384 / 500] + 8 * [1]), rel=1e-5)


def test_the_log_has_measures_of_the_same_views_of_training_images_after_every_epoch(finished):
    train = data.array_source(digits()[0][0].astype("uint8"))
    augmentation = building.build_augmentation(finished.config)
    views = data.pretrain_dataset(train, augmentation, 128, seed=1, entries=("query", "key")).take(11)
    encoder = trained_run.load_model(finished.path)[1].encoder
    pairs = [np.concatenate([encoder(batch[name]) for batch in views]) for name in ("query", "key")]
    last = log(finished.path)[-1]
    measures = representation_measures(*pairs)
    assert len(pairs[0]) == 11 * 128
    assert float(last["alignment"]) == pytest.approx(measures.alignment, rel=1e-4)
    assert float(last["uniformity"]) == pytest.approx(measures.uniformity, rel=1e-4)
    assert float(last["effective_rank"]) == pytest.approx(measures.effective_rank, rel=1e-3)


@pytest.mark.parametrize("images, batches, batch", [(10_000, 16, 128), (1437, 11, 128), (300, 2, 128), (40, 1, 40)])
def test_at_most_2048_images_are_measured_and_half_a_batch_is_not(images, batches, batch, tmp_path):
    config = tiny(tmp_path, knn_every_epochs=0, epochs=7)
    train = data.array_source(np.zeros((images, 8, 8, 1), "uint8"))
    monitor = training.build_representation_monitor(config, train, building.build_augmentation(config))
    assert (monitor.every_epochs, int(monitor.views.cardinality())) == (7, batches)
    assert monitor.views.element_spec["image"].shape == (2 * batch, 8, 8, 1)


def test_the_last_learning_rate_is_that_of_the_last_step(finished):
    rate = 0.1 * 128 / 256 * (1 + np.cos(np.pi * np.array([STEPS, 2 * STEPS]) / (2 * STEPS))) / 2
    logged = [float(row["learning_rate"]) for row in log(finished.path)]
    # The rate of the step just done, or of the next one.
    assert logged == pytest.approx(rate, abs=0.1 * 128 / 256 * np.pi / 2 / (2 * STEPS))


def test_the_results_are_in_percent_and_in_the_file(finished):
    results = finished.results
    assert json.loads((finished.path / "results.json").read_text()) == results
    assert set(results) == {"replicas", "knn_top1_initial", "knn_top1", "epochs", "steps", "seconds", "versions"}
    assert 20 < results["knn_top1_initial"] < 100
    assert results["knn_top1"] == pytest.approx(float(log(finished.path)[-1]["knn_top1"]), abs=0.005)
    assert (results["epochs"], results["steps"]) == (2, 2 * STEPS)
    assert results["seconds"] > 0
    assert results["versions"] == {
        "keras_moco": keras_moco.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }


def test_the_output_says_what_was_done_and_where_things_are(finished):
    text = finished.printed
    assert "steps: 11 per epoch of 128 images on 1 replica(s), 22 in 2 epochs" in text
    assert f"kNN top-1 before training: {finished.results['knn_top1_initial']:.2f} %" in text
    assert "epoch 1/2 step 5/11 " in text and "epoch 2/2 done " in text
    before, after = finished.results["knn_top1_initial"], finished.results["knn_top1"]
    assert f"kNN top-1: {before:.2f} % before, {after:.2f} % after training" in text
    for name in ("results.json", "log.csv", "checkpoints", "export"):
        assert text.count(f"{finished.path / name}\n") == 1
    assert f"curves.png, views.png, neighbours.png, embedding.png in {finished.path}\n" in text
    assert f"tensorboard --logdir {finished.path / 'tensorboard'}\n" in text
    assert f"python evaluate.py linear --workdir={finished.path}\n" in text
    assert text.endswith(f'keras.models.load_model("{finished.path}/export/backbone.keras")\n')


def test_the_curves_are_a_picture(finished):
    with Image.open(finished.path / "curves.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (700, 1000, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


def losses_in_tensorboard(path):
    """All that stand there: a list of pairs of epoch and loss."""
    events = [
        event
        for file in sorted(path.glob("tensorboard/train/events.out.tfevents*"))
        for event in tf.compat.v1.train.summary_iterator(str(file))
    ]
    values = [(event.step, value) for event in events for value in event.summary.value if value.tag == "contrast/loss"]
    return [(step, float(tf.make_ndarray(value.tensor))) for step, value in values]


def test_tensorboard_has_the_loss_of_every_epoch(finished):
    losses = losses_in_tensorboard(finished.path)
    assert [epoch for epoch, _ in losses] == [0, 1]
    assert [loss for _, loss in losses] == pytest.approx([float(row["loss"]) for row in log(finished.path)], rel=1e-6)


def everything_in_tensorboard(path):
    """`(tag, epoch)` of all that stands in its files of events, as often as it stands there."""
    events = [
        event
        for file in sorted(path.glob("tensorboard/train/events.out.tfevents*"))
        for event in tf.compat.v1.train.summary_iterator(str(file))
    ]
    return sorted((value.tag, event.step) for event in events for value in event.summary.value)


def test_tensorboard_has_every_column_of_the_log_and_histograms_in_groups(finished):
    found = everything_in_tensorboard(finished.path)
    assert len(set(found)) == len(found)
    names = [tag.rpartition("/")[2] for tag, epoch in found if epoch == 1]
    assert sorted(names) == sorted([*set(log(finished.path)[0]) - {"epoch"}, "chance_loss", "positive", "negative"])
    once = {tag for tag, _ in found} - {tag for tag, epoch in found if epoch == 1}
    assert once == {"configuration", "plan", "views", "_hparams_/session_start_info", "custom_scalars__config__"}


def test_a_checkpoint_knows_where_training_stands_and_what_it_is(finished):
    state = json.loads((finished.path / "checkpoints" / "step-000000022" / "state.json").read_text())
    assert (state["step"], state["epoch"], state["step_in_epoch"]) == (2 * STEPS, 2, 0)
    for row, logged in zip(log(finished.path), state["log"].values(), strict=True):
        assert {name: float(value) for name, value in row.items() if name != "epoch"} == pytest.approx(logged)
    assert state["versions"] == finished.results["versions"]
    assert state["extra"]["train_examples"] == 1437 and state["extra"]["bad_images"] == {}
    assert state["extra"]["config"] == json.loads(json.dumps(dataclasses.asdict(finished.config)))


def digits():
    """The split of the digits in arrays, without the package's pipeline: `(images, labels)` twice."""
    data = load_digits()
    images = np.round(data.images[..., None] * 255 / 16).astype("float32")
    parts = train_test_split(np.arange(1797), test_size=360, stratify=data.target, random_state=0)
    return [(images[part], data.target[part]) for part in parts]


def test_the_reported_accuracy_is_what_the_exported_backbone_gives(finished):
    backbone = keras.models.load_model(finished.path / "export" / "backbone.keras")
    (bank, bank_labels), (queries, labels) = digits()
    bank, queries = (backbone.predict(images, verbose=0).astype("float64") for images in (bank, queries))
    bank, queries = (features / np.linalg.norm(features, axis=1, keepdims=True) for features in (bank, queries))
    similarities = queries @ bank.T
    votes = np.zeros((360, 10))
    for row, neighbours in enumerate(np.argsort(-similarities, axis=1)[:, :20]):
        np.add.at(votes[row], bank_labels[neighbours], np.exp(similarities[row, neighbours] / 0.1))
    accuracy = 100 * np.mean(votes.argmax(axis=1) == labels)
    assert finished.results["knn_top1"] == pytest.approx(accuracy, abs=0.6)  # two near ties of 360


def test_the_saved_model_gives_the_same_features(finished):
    images = digits()[1][0][:16]
    backbone = keras.models.load_model(finished.path / "export" / "backbone.keras")
    saved = tf.saved_model.load(str(finished.path / "export" / "saved_model"))
    np.testing.assert_allclose(saved.serve(images), backbone(images), atol=1e-5)


# Going on


def test_a_stopped_run_has_what_its_epochs_gave(stopped):
    path, config = stopped
    assert len(log(path)) == 1
    assert [saved.name for saved in (path / "checkpoints").iterdir()] == ["step-000000011"]
    assert read_flagfile(path / "flags.cfg") == config
    assert set(json.loads((path / "results.json").read_text())) == {"replicas", "knn_top1_initial", "seconds"}
    assert not (path / "export").exists()


def test_a_resumed_run_says_so(resumed, finished):
    assert f"resumed from {resumed.path / 'checkpoints' / 'step-000000011'} after 1 of 2 epochs\n" in resumed.printed
    assert "epoch 1/2" not in resumed.printed and "epoch 2/2 done" in resumed.printed
    assert "resumed" not in finished.printed


def test_a_resumed_run_ends_in_the_same_bits(resumed, finished):
    ours, theirs = checkpoint(resumed.path), checkpoint(finished.path)
    assert ours.keys() == theirs.keys()
    # Both encoders, queue, optimizer: nothing is missing from what is compared.
    for part in ("encoder/backbone", "encoder/head", "key_encoder", "layers/feature_queue", "optimizer", "vars"):
        assert any(name.startswith(part) for name in ours), part
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []


def test_training_changed_what_the_bits_are_compared_of(stopped, finished):
    then, now = checkpoint(stopped[0], STEPS), checkpoint(finished.path)
    same = [name for name in now if np.array_equal(then[name], now[name])]
    assert len(same) < len(now) / 10, same


def test_a_resumed_run_has_the_same_figures(resumed, finished):
    assert without(resumed.results, "seconds") == without(finished.results, "seconds")
    ours, theirs = ([without(row, *TIMES) for row in log(run.path)] for run in (resumed, finished))
    assert ours == theirs
    assert losses_in_tensorboard(resumed.path) == losses_in_tensorboard(finished.path)
    assert everything_in_tensorboard(resumed.path) == everything_in_tensorboard(finished.path)


class SignalInMidEpoch(Checkpoint):
    """As `kill` sends it, three steps before the end of the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if (self._epoch, batch) == (1, STEPS - 4):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_in_mid_epoch_stops_a_run_and_the_same_command_ends_in_the_same_bits(finished, tmp_path):
    config = tiny(tmp_path / "run")
    saved = tmp_path / "run" / "checkpoints" / "step-000000019"
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped) as stop:
        patch.setattr(training.callbacks, "Checkpoint", SignalInMidEpoch)
        pretrain(config)
    assert str(stop.value) == (
        f"stopped by SIGTERM behind step 19 (epoch 2, 8 of 11 steps), which is saved in {saved}."
    )
    assert signal.getsignal(signal.SIGTERM) is handler
    assert json.loads((tmp_path / "run" / "results.json").read_text())["seconds"] > 0
    again = pretrain(config, export=False)
    assert f"resumed from {saved} after 1 of 2 epochs and 8 of 11 steps\n" in again.printed
    ours, theirs = checkpoint(again.path), checkpoint(finished.path)
    assert [name for name in theirs if not np.array_equal(ours[name], theirs[name])] == []
    assert without(again.results, "seconds") == without(finished.results, "seconds")
    rows = [[without(row, *TIMES) for row in log(run.path)] for run in (again, finished)]
    assert rows[0] == rows[1]
    assert losses_in_tensorboard(again.path) == losses_in_tensorboard(finished.path)
    assert everything_in_tensorboard(again.path) == everything_in_tensorboard(finished.path)


def test_a_time_limit_stops_a_run_with_everything_saved(tmp_path):
    config = tiny(tmp_path / "run", max_minutes=1e-6)
    with pytest.raises(Stopped) as stop:
        pretrain(config)
    saved = tmp_path / "run" / "checkpoints" / "step-000000001"
    assert str(stop.value) == (
        f"stopped by the limit of 1e-06 minutes behind step 1 (epoch 1, 1 of 11 steps), which is saved in {saved}."
    )
    assert sorted(path.name for path in saved.iterdir()) == sorted(CHECKPOINT_FILES)


def test_a_finished_run_trains_nothing_more(finished, copy, monkeypatch):
    def fit(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(MoCo, "fit", fit)
    before = checkpoint(copy)
    again = pretrain(dataclasses.replace(read_flagfile(copy / "flags.cfg"), workdir=str(copy)), export=False)
    assert without(again.results, "seconds") == without(finished.results, "seconds")
    assert again.results["seconds"] >= finished.results["seconds"]
    assert log(copy) == log(finished.path)
    after = checkpoint(copy)
    assert all(np.array_equal(before[name], after[name]) for name in before)


# Other methods


OTHERS = {
    "end_to_end": {"bn_splits": 4, "separate_encoders": True},
    "memory_bank": {"num_negatives": 300},
    "simclr": {"head": "simclr", "augment": "simclr_cifar", "optimizer": "lars", "base_learning_rate": 1.0},
}


def tiny_other(workdir, method, **settings):
    """`tiny` with another method, and without what only MoCo has a use for."""
    unset = {name: getattr(Config(), name) for name in ("queue_size", "key_momentum", "bn_splits")}
    return tiny(workdir, method=method, **{**unset, **OTHERS[method], **settings})


@pytest.mark.parametrize("method", OTHERS)
def test_another_method_is_trained_stopped_resumed_and_evaluated(method, tmp_path):
    whole = pretrain(tiny_other(tmp_path / "whole", method), export=False)
    columns = set(log(whole.path)[0])
    assert {"loss", "contrast_top1", "knn_top1"} <= columns and not columns & {"queue_fill", "key_momentum"}
    config = tiny_other(tmp_path / "run", method)
    cut_off(config)
    resumed = pretrain(config, export=False)
    assert "after 1 of 2 epochs" in resumed.printed
    ours, theirs = checkpoint(resumed.path), checkpoint(whole.path)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []
    assert ("bank/vars/0" in "".join(ours)) == (method == "memory_bank")
    evaluate("knn", EvaluationConfig(workdir=str(resumed.path), knn_k=(20,), pictures=False))
    found = json.loads((resumed.path / "results.json").read_text())
    assert found["knn_top1_backbone"] == pytest.approx(resumed.results["knn_top1"], abs=0.6)


def test_a_run_goes_on_with_another_number_of_replicas(stopped, finished, tmp_path):
    then, config = stopped
    path = shutil.copytree(then, tmp_path / "run")
    other = dataclasses.replace(config, workdir=str(path), strategy="mirrored", replicas=2)
    result = pretrain(other, export=False)
    assert (
        "note: this run was on 1 replica(s) before, now on 2; the groups of its BatchNorm are now: shuffle, a group "
        "per replica, keys shuffled across replicas\n"
    ) in result.printed
    assert "note: this run was on" not in finished.printed
    assert (result.results["replicas"], result.results["steps"]) == (2, 2 * STEPS)
    assert "steps: 11 per epoch of 128 images on 2 replica(s)" in result.printed
    # Not the same numbers, but the same kind of them.
    assert float(log(path)[1]["loss"]) == pytest.approx(float(log(finished.path)[1]["loss"]), rel=0.2)
    assert trained_run.load_model(path)[0].config == other


def test_another_configuration_leaves_a_finished_run_alone(copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"another configuration.* with temperature: 0\.1 -> 0\.2, epochs: 2 -> 3\. "):
        training.pretrain(tiny(copy, epochs=3, temperature=0.2))
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_an_allowed_change_is_recorded_with_the_step_from_which_on_it_holds(copy, finished):
    config = tiny(copy, epochs=3, allow_config_change=("epochs", "temperature"))
    longer = pretrain(config, export=False)
    assert "note: from step 22 on the configuration is another one: epochs: 2 -> 3\n" in longer.printed
    assert "after 2 of 3 epochs\n" in longer.printed
    assert longer.results["config_changes"] == [{"step": 22, "epochs": "2 -> 3"}]
    assert longer.results["steps"] == 3 * STEPS and [row["epoch"] for row in log(copy)] == ["0", "1", "2"]
    again = pretrain(dataclasses.replace(config, temperature=0.2), export=False)
    assert again.results["config_changes"][1:] == [{"step": 33, "temperature": "0.1 -> 0.2"}]
    assert again.results["config_changes"][:1] == longer.results["config_changes"]
    assert trained_run.load_model(copy)[0].config == tiny(copy, epochs=3, temperature=0.2)
    assert "config_changes" not in finished.results


def test_skipped_steps_are_reported_where_steps_may_be_skipped(copy, finished):
    skipping = pretrain(tiny(copy, on_nan="skip"), export=False)
    assert without(skipping.results, "seconds", "steps_skipped") == without(finished.results, "seconds")
    assert skipping.results["steps_skipped"] == 0


@pytest.mark.parametrize("on_nan, skips", [("stop", False), ("skip", True)])
def test_the_model_skips_what_is_not_finite_where_it_is_asked_to(on_nan, skips):
    plan = training.Plan(tiny("nowhere", on_nan=on_nan), 1437, 1, 1)
    assert building.build_model(plan, make_strategy("one")).skip_not_finite is skips


@pytest.mark.parametrize("deterministic, expected", [(True, [5]), (False, [])])
def test_determinism_is_asked_for_before_anything_else(deterministic, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "make_deterministic", asked.append)
    monkeypatch.setattr(training, "dry_run", lambda *_: asked.append("planned"))
    training.pretrain(tiny("nowhere", deterministic=deterministic, dry_run=True, seed=5))
    assert asked == [*expected, "planned"]


def test_determinism_is_tensorflow_s_with_everything_seeded(monkeypatch):
    asked = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    determinism.make_deterministic(5)
    first = np.random.random(), float(tf.random.uniform(()))
    determinism.make_deterministic(5)
    assert (np.random.random(), float(tf.random.uniform(()))) == first
    assert asked == [True, True]


# Weights to begin with


def test_a_run_that_begins_with_the_weights_of_another_begins_as_good_as_that_one_is(finished, tmp_path):
    source = shutil.copytree(finished.path, tmp_path / "source")
    config = tiny(tmp_path / "run", init_from=str(source), queue_size=300, temperature=0.2, epochs=1, seed=3)
    run = pretrain(config, export=False)
    assert run.results["knn_top1_initial"] == finished.results["knn_top1"]
    assert run.results["steps"] == STEPS
    # The weights have been taken: a run that goes on needs the file no more.
    shutil.rmtree(source)
    again = pretrain(config, export=False)
    assert without(again.results, "seconds") == without(run.results, "seconds")


# What has changed since a checkpoint was saved


@pytest.fixture
def model():
    """A small one, compiled and built."""
    model = MoCo(small_encoder(batch_norm=False), queue_size=8)
    model.compile(optimizer=SGD(0.1))
    model.optimizer.build(model.trainable_variables)
    return model


def images(number=100, met=()):
    """What `resume` looks at of a source, and the unreadable images that it has met."""
    bad = BadImages(number, "number {}".format, max_fraction=0.5)
    for index in met:
        bad.report(index)
    return SimpleNamespace(name="folder:images", num_examples=number, bad=bad)


def checkpoint_of(train, folder):
    plan = training.Plan(tiny(folder), 1437, 1, 1)
    return training.build_checkpoint(plan, training.RunDirectory(folder), train)


def saved_with(model, train, folder, step=3):
    checkpoint = checkpoint_of(train, folder)
    checkpoint.set_model(model)
    model.step.assign(step)
    assert checkpoint.save(epoch=0, step_in_epoch=step)
    model.step.assign(0)
    return checkpoint.saved


def test_going_on_tells_nothing_where_nothing_has_changed(model, tmp_path, capsys):
    saved = saved_with(model, images(), tmp_path)
    checkpoint = checkpoint_of(images(), tmp_path)
    training.resume(model, checkpoint, images())
    assert (model.steps_done, checkpoint.saved) == (3, saved)
    assert capsys.readouterr().out == ""


def test_without_a_checkpoint_there_is_nothing_to_resume(model, tmp_path, capsys):
    training.resume(model, checkpoint_of(images(), tmp_path), images(number=7))
    assert model.steps_done == 0 and capsys.readouterr().out == ""


@pytest.mark.parametrize("number", [99, 101])
def test_another_number_of_images_is_refused(number, model, tmp_path):
    saved_with(model, images(), tmp_path)
    with pytest.raises(ValueError) as error:
        training.resume(model, checkpoint_of(images(number), tmp_path), images(number))
    assert str(error.value) == (
        f"The training images must be those that the run began with. Received: {number} images in folder:images, 100 "
        "before. Put them back, or begin a new run from these weights: another --workdir and "
        f"--init_from={tmp_path}."
    )


def test_a_checkpoint_that_does_not_tell_of_its_images_goes_with_any(model, tmp_path):
    model.step.assign(3)
    save(model, tmp_path / "checkpoints")  # as of a converted run
    model.step.assign(0)
    training.resume(model, checkpoint_of(images(), tmp_path), images(99))
    assert model.steps_done == 3


def test_unreadable_images_are_known_when_a_run_goes_on(model, tmp_path, caplog):
    saved_with(model, images(met=(17, 4)), tmp_path)
    caplog.clear()
    train = images()
    training.resume(model, checkpoint_of(train, tmp_path), train)
    assert train.bad.met == {17: "number 17", 4: "number 4"}
    train.bad.report(17)
    assert train.bad.count == 2 and caplog.records == []


def test_images_in_memory_cannot_be_unreadable(model, tmp_path):
    train = SimpleNamespace(name="digits", num_examples=100, bad=None)
    saved_with(model, train, tmp_path)
    training.resume(model, checkpoint_of(train, tmp_path), train)
    assert model.steps_done == 3


def test_other_versions_are_told(model, tmp_path, capsys, monkeypatch):
    saved_with(model, images(), tmp_path)
    monkeypatch.setattr(training, "versions", lambda: {**versions(), "keras": "99"})
    training.resume(model, checkpoint_of(images(), tmp_path), images())
    assert capsys.readouterr().out == (
        f"note: the checkpoint was saved with keras_moco {keras_moco.__version__}, keras {keras.__version__}, "
        f"tensorflow {tf.__version__}; the last bits may differ from here on\n"
    )


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(model, tmp_path, capsys):
    good, damaged = (saved_with(model, images(), tmp_path, step) for step in (3, 4))
    with open(damaged / "model.weights.h5", "r+b") as file:
        file.truncate(1000)
    checkpoint = checkpoint_of(images(), tmp_path)
    training.resume(model, checkpoint, images())
    assert (model.steps_done, checkpoint.saved) == (3, good)
    assert capsys.readouterr().out == (
        f"note: {damaged} is damaged (model.weights.h5 is not what was saved), now "
        f"{tmp_path / 'checkpoints' / 'damaged-step-000000004'}; the one before it is used.\n"
    )


# Initial weights and order


def initial_weights(**settings):
    config = tiny("nowhere", **settings)
    plan = training.Plan(config, 1437, 1, 1)
    return [np.array(weight) for weight in building.build_encoder(plan).weights]


def test_initial_weights_hang_on_the_seed_alone():
    first = initial_weights()
    keras.random.normal((3,))
    keras.layers.Dense(2).build((None, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, initial_weights(temperature=0.5), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, initial_weights(seed=1), strict=True))


def test_callbacks_that_add_to_the_logs_come_first_and_the_checkpoint_last(tmp_path):
    plan = training.Plan(tiny(tmp_path), 1437, 1, 1)
    run = training.RunDirectory(tmp_path)
    monitor, checkpoint = keras.callbacks.Callback(), Checkpoint(run.checkpoints)
    checkpoint.log = {0: {"loss": 4.5}}
    callbacks = training.build_callbacks(plan, run, [monitor], checkpoint, 1)
    names = [type(getattr(callback, "callback", callback)).__name__ for callback in callbacks]
    assert names == "Callback Progress NotFiniteGuard Health EpochLog EventLog Curves Checkpoint".split()
    assert callbacks[-1] is checkpoint and callbacks[2].checkpoint is checkpoint
    # Those that draw and write know what was before, and training can do without them.
    writers = callbacks[4:7]
    assert {type(callback).__name__ for callback in writers} == {"Expendable"}
    assert writers[0].callback.log == writers[2].callback.log == checkpoint.log
    assert [callback.what for callback in writers] == [str(run.log_csv), str(run.tensorboard), str(run.curves)]
    assert len(training.build_callbacks(plan, run, [], checkpoint, 1)) == len(callbacks) - 1


def test_events_of_epochs_that_are_trained_again_are_dropped(tmp_path):
    plan, run = training.Plan(tiny(tmp_path), 1437, 1, 1), training.RunDirectory(tmp_path)
    with tf.summary.create_file_writer(str(run.tensorboard / "train")).as_default():
        for epoch in range(3):
            tf.summary.scalar("contrast/loss", epoch + 0.5, step=epoch)
    training.build_callbacks(plan, run, [], Checkpoint(run.checkpoints), 1)
    assert losses_in_tensorboard(tmp_path) == [(0, 0.5)]


def test_the_settings_of_checkpoints_are_those_of_the_configuration(tmp_path):
    settings = dict(checkpoint_epochs=3, checkpoint_minutes=0.5, checkpoint_share=0.2)
    plan = training.Plan(tiny(tmp_path, keep_checkpoints=4, keep_every_epochs=5, **settings), 1437, 1, 1)
    checkpoint = training.build_checkpoint(plan, training.RunDirectory(tmp_path), images())
    assert (checkpoint.every_epochs, checkpoint.every_minutes, checkpoint.max_share) == (3, 0.5, 0.2)
    assert (checkpoint.keep, checkpoint.keep_every_epochs, checkpoint.keep_best) == (4, 5, "knn_top1")


# Images without labels


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Forty colour images of different sizes in one flat folder."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for n in range(40):
        pixels = rng.integers(0, 256, (10 + n % 3, 12, 3), dtype="uint8")
        Image.fromarray(pixels).save(folder / f"{n:02d}.png")
    return folder


@pytest.fixture(scope="module")
def unlabelled(photographs, tmp_path_factory):
    config = tiny(
        tmp_path_factory.mktemp("unlabelled") / "run",
        dataset=f"folder:{photographs}",
        batch_size=8,
        queue_size=32,
        epochs=1,
        symmetric=True,
        image_mean=(0.485, 0.456, 0.406),
        image_std=(0.229, 0.224, 0.225),
    )
    return pretrain(config)


def test_unlabelled_images_train_without_knn(unlabelled):
    assert set(unlabelled.results) == {"replicas", "epochs", "steps", "seconds", "versions", "bad_images"}
    assert unlabelled.results["bad_images"] == 0
    assert unlabelled.results["steps"] == 5
    (row,) = log(unlabelled.path)
    assert "knn_top1" not in row and np.isfinite(float(row["loss"]))
    assert 0 < float(row["alignment"]) < 4 and -8 < float(row["uniformity"]) < 0
    assert 1 < float(row["effective_rank"]) < 16.001
    assert "note: the images have no labels, so there is no kNN accuracy" in unlabelled.printed
    assert "kNN top-1" not in unlabelled.printed
    for name in ("curves.png", "views.png", "neighbours.png", "embedding.png", "export/backbone.keras"):
        assert (unlabelled.path / name).exists()
    assert "warning: " not in unlabelled.printed


def test_labels_without_a_test_split_train_without_knn(capsys, photographs, tmp_path):
    shutil.copytree(photographs, tmp_path / "images" / "one_class")
    config = tiny(tmp_path / "run", dataset=f"folder:{tmp_path / 'images'}")
    train = training.data.open_source(config.dataset)
    assert train.class_names == ("one_class",)
    assert training.labelled_test_split(config, train) is None
    assert "note: no kNN accuracy without a test split. " in capsys.readouterr().out


def test_what_is_refused_for_its_images_leaves_the_run_as_it_was(unlabelled, photographs, tmp_path):
    run = shutil.copytree(unlabelled.path, tmp_path / "run")
    more = shutil.copytree(photographs, tmp_path / "more")
    shutil.copy(more / "00.png", more / "40.png")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    config = dataclasses.replace(unlabelled.config, workdir=str(run), dataset=f"folder:{more}")
    with pytest.raises(ValueError, match=r"^The training images must be .* 41 images in folder:\S+, 40 before\. "):
        training.pretrain(dataclasses.replace(config, allow_config_change=("dataset",)))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# Opened again


def test_evaluate_knn_finds_what_training_found(copy, finished):
    evaluate("knn", EvaluationConfig(workdir=str(copy), knn_k=(20,), pictures=False))
    results = json.loads((copy / "results.json").read_text())
    assert results["knn_top1_backbone"] == finished.results["knn_top1"]
    assert {name: value for name, value in results.items() if not name.startswith("knn_")} == {
        name: value for name, value in finished.results.items() if not name.startswith("knn_")
    }


def test_a_loaded_run_is_the_last_checkpoint(finished):
    plan, model = trained_run.load_model(finished.path)
    assert plan.config == finished.config
    saved = [array for name, array in checkpoint(finished.path).items() if name.startswith("encoder/")]
    weights = {array.tobytes() for array in saved}
    assert all(np.array(weight).tobytes() in weights for weight in model.encoder.weights)


def test_a_run_without_a_checkpoint_cannot_be_evaluated(copy):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ValueError, match=f"^`workdir` must hold a checkpoint. Received: {copy} without one. Train wit"):
        trained_run.load_model(copy)
    assert not (copy / "checkpoints").exists()
