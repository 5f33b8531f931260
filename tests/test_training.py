"""Whole runs, small enough for a test: what they leave behind, how they go on, and what is made of them."""

import csv
import dataclasses
import json
import shutil
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

import evaluate
import keras_moco
from keras_moco import building, trained_run, training
from keras_moco.config import Config, read_flagfile
from keras_moco.models import MoCo

STEPS = 1437 // 128
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
    """Runs a configuration; without export, which takes seconds, where a test has no need of it."""
    capture = Capture()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", capture)
        if not export:
            patch.setattr(training, "export_backbone", lambda *_: None)
        results = training.pretrain(config)
    return Finished(config, Path(config.workdir), results, capture.text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two epochs in one go."""
    return pretrain(tiny(tmp_path_factory.mktemp("finished") / "run"))


class PowerCut(Exception):
    pass


class CheckpointThenPowerCut(training.Checkpoint):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        raise PowerCut


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The same, cut off after the first epoch, with a copy of what lay in the folder then."""
    config = tiny(tmp_path_factory.mktemp("stopped") / "run")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(training, "Checkpoint", CheckpointThenPowerCut)
        pretrain(config)
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


def checkpoint(path):
    """All arrays of a checkpoint by name."""
    arrays = {}
    with h5py.File(path / "checkpoints" / "latest.weights.h5") as file:
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
    assert any("events.out.tfevents" in name for name in events)
    assert "export/saved_model/saved_model.pb" in saved_model
    assert files - events - saved_model == {
        "flags.cfg",
        "log.csv",
        "curves.png",
        "results.json",
        "checkpoints/latest.weights.h5",
        "export/backbone.keras",
    }


def test_the_flagfile_is_the_configuration(finished):
    assert read_flagfile(finished.path / "flags.cfg") == finished.config


def test_the_log_has_a_row_per_epoch(finished):
    first, second = log(finished.path)
    assert (first["epoch"], second["epoch"]) == ("0", "1")
    columns = "loss contrast_top1 contrast_top5 positive_similarity negative_similarity feature_std queue_fill".split()
    columns += ["key_momentum", "knn_top1", "learning_rate", *TIMES]
    for row in (first, second):
        assert set(row) == {"epoch", *columns}
        assert all(np.isfinite(float(row[name])) for name in columns)
        assert 0 < float(row["loss"]) < 2 * np.log(501)
        assert 1 < float(row["knn_top1"]) <= 100  # percent
    assert float(second["queue_fill"]) == 1  # full after 4 of 11 steps
    assert float(first["queue_fill"]) == pytest.approx(np.mean([128 / 500, 256 / 500, 384 / 500] + 8 * [1]), rel=1e-5)


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
    for name in ("results.json", "log.csv", "curves.png", "checkpoints", "export"):
        assert text.count(f"{finished.path / name}\n") == 1
    assert f"tensorboard --logdir {finished.path / 'tensorboard'}\n" in text
    assert text.endswith(f"python evaluate.py linear --workdir={finished.path}\n")


def test_the_curves_are_a_picture(finished):
    with Image.open(finished.path / "curves.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (700, 1000, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


def test_tensorboard_has_the_loss_of_every_epoch(finished):
    losses = {}
    for path in finished.path.glob("tensorboard/train/events.out.tfevents*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == "epoch_loss":
                    losses[event.step] = float(tf.make_ndarray(value.tensor))
    assert losses == pytest.approx({n: float(row["loss"]) for n, row in enumerate(log(finished.path))}, rel=1e-6)


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
    assert read_flagfile(path / "flags.cfg") == config
    assert set(json.loads((path / "results.json").read_text())) == {"replicas", "knn_top1_initial", "seconds"}
    assert not (path / "export").exists()


def test_a_resumed_run_says_so(resumed, finished):
    assert f"resumed from {resumed.path / 'checkpoints'} after 1 of 2 epochs" in resumed.printed
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
    then, now = checkpoint(stopped[0]), checkpoint(finished.path)
    same = [name for name in now if np.array_equal(then[name], now[name])]
    assert len(same) < len(now) / 10, same


def test_a_resumed_run_has_the_same_figures(resumed, finished):
    assert without(resumed.results, "seconds") == without(finished.results, "seconds")
    ours, theirs = ([without(row, *TIMES) for row in log(run.path)] for run in (resumed, finished))
    assert ours == theirs


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
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(training, "Checkpoint", CheckpointThenPowerCut)
        pretrain(config)
    resumed = pretrain(config, export=False)
    assert "after 1 of 2 epochs" in resumed.printed
    ours, theirs = checkpoint(resumed.path), checkpoint(whole.path)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []
    assert ("bank/vars/0" in "".join(ours)) == (method == "memory_bank")
    trained = trained_run.load_run(resumed.path)
    train, test = trained.labelled_data()
    found = evaluate.knn_accuracy(
        *(np.array(part) for split in (train, test) for part in features_of(trained.encoder, split)), 10, k=20
    )
    assert found.top1 == pytest.approx(resumed.results["knn_top1"], abs=0.6)


def features_of(encoder, split):
    extracted = evaluate.extract_features(encoder.features, split)
    return extracted.features, extracted.labels


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
    assert trained_run.load_run(path).config == other


def test_another_configuration_leaves_a_finished_run_alone(copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"another configuration.* with temperature: 0\.1 -> 0\.2, epochs: 2 -> 3\. "):
        training.pretrain(tiny(copy, epochs=3, temperature=0.2))
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


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


@pytest.mark.parametrize("resumed", [False, True])
def test_callbacks_that_add_to_the_logs_come_first_and_the_checkpoint_last(resumed, tmp_path):
    plan = training.Plan(tiny(tmp_path), 1437, 1, 1)
    monitor = keras.callbacks.Callback()
    run = training.RunDirectory(tmp_path)
    callbacks = training.build_callbacks(plan, run, monitor, resumed)
    names = [type(callback).__name__ for callback in callbacks]
    assert names == ["Callback", "Progress", "EpochLog", "TensorBoard", "Curves", "Checkpoint"]
    assert [type(c).__name__ for c in training.build_callbacks(plan, run, None, resumed)] == names[1:]


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
    assert "note: the images have no labels, so there is no kNN accuracy" in unlabelled.printed
    assert "kNN top-1" not in unlabelled.printed
    assert (unlabelled.path / "curves.png").exists() and (unlabelled.path / "export" / "backbone.keras").exists()


@pytest.mark.parametrize("mode", ["knn", "linear"])
def test_unlabelled_images_cannot_be_evaluated_by_labels(mode, unlabelled):
    before = json.loads((unlabelled.path / "results.json").read_text())
    with pytest.raises(ValueError, match="^The data must have labels .* Give a folder with one sub-folder per class.$"):
        evaluate.MODES[mode](trained_run.load_run(unlabelled.path))
    assert json.loads((unlabelled.path / "results.json").read_text()) == before


def test_labels_without_a_test_split_train_without_knn(capsys, photographs, tmp_path):
    shutil.copytree(photographs, tmp_path / "images" / "one_class")
    config = tiny(tmp_path / "run", dataset=f"folder:{tmp_path / 'images'}")
    train = training.data.open_source(config.dataset)
    assert train.class_names == ("one_class",)
    assert training.labelled_test_split(config, train) is None
    assert "note: no kNN accuracy without a test split. " in capsys.readouterr().out


# evaluate.py


@pytest.fixture
def flags(monkeypatch):
    values = SimpleNamespace(knn_k=20, knn_temperature=0.1, workdir=None, data_dir=None)
    monkeypatch.setattr(evaluate, "FLAGS", values)
    return values


def test_evaluate_knn_finds_what_training_found(copy, finished, flags, capsys):
    evaluate.knn(trained_run.load_run(copy))
    results = json.loads((copy / "results.json").read_text())
    assert results["knn_top1_backbone"] == finished.results["knn_top1"]
    assert without(results, "knn_top1_backbone", "knn_top1_embedding", "knn_k") == finished.results
    printed = capsys.readouterr().out
    for level in ("backbone", "embedding"):
        assert f"kNN (k=20) on the {level}: top-1 {results[f'knn_top1_{level}']:.2f} %, top-5 " in printed


def test_evaluate_linear_adds_its_figures(copy, finished, flags, capsys):
    evaluate.linear(trained_run.load_run(copy))
    results = json.loads((copy / "results.json").read_text())
    assert without(results, "linear_top1", "linear_c") == finished.results
    assert 50 < results["linear_top1"] <= 100  # chance is 10
    assert f"linear probe: top-1 {results['linear_top1']:.2f} %" in capsys.readouterr().out


def test_evaluate_export_writes_the_backbone_again(copy, flags, capsys):
    images = digits()[1][0][:16]
    expected = keras.models.load_model(copy / "export" / "backbone.keras")(images)
    shutil.rmtree(copy / "export")
    evaluate.export(trained_run.load_run(copy))
    assert f"exported to {copy / 'export'}" in capsys.readouterr().out
    backbone = keras.models.load_model(copy / "export" / "backbone.keras")
    np.testing.assert_allclose(backbone(images), expected, atol=1e-6)
    assert (copy / "export" / "saved_model" / "saved_model.pb").exists()


def test_a_loaded_run_is_the_last_checkpoint(finished):
    trained = trained_run.load_run(finished.path)
    assert (trained.config, trained.num_classes) == (finished.config, 10)
    saved = [array for name, array in checkpoint(finished.path).items() if name.startswith("encoder/")]
    weights = {array.tobytes() for array in saved}
    assert all(np.array(weight).tobytes() in weights for weight in trained.encoder.weights)


def test_a_run_without_a_checkpoint_cannot_be_evaluated(copy):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ValueError, match=f"^`workdir` must hold a checkpoint. Received: {copy} without one. Train an"):
        trained_run.load_run(copy)
    assert not (copy / "checkpoints").exists()
