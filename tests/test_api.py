"""Pre-training, evaluation and features in one call each."""

import contextlib
import io
import re

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import keras_moco
import keras_moco.api
from keras_moco.api import PretrainedRun
from keras_moco.commands.evaluate import evaluate
from keras_moco.config import Config, EvaluationConfig
from keras_moco.data.open import name_of
from tests import tiny  # noqa: F401 (the backbone "tiny")

FEW = dict(epochs=2, backbone="tiny", backbone_width=4, log_steps=2)


def write_digits(folder, count=120):
    digits = load_digits()
    for number in range(count):
        place = folder / ("test" if number % 3 == 0 else "train") / str(digits.target[number] % 4)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype("uint8")).resize((20, 20)).save(place / f"{number:03}.png")
    return folder


def test_data_may_be_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "digits").mkdir()
    names = ["photos", "a.ZIP", "b.csv", "c-*.tar", "d.tfrecord", "folder:x", "digits", "tfds:cifar10", "nothing"]
    assert [name_of(name) for name in names] == [
        *("folder:photos", "zip:a.ZIP", "list:b.csv", "webdataset:c-*.tar", "tfrecord:d.tfrecord"),
        *("folder:x", "digits", "tfds:cifar10", "nothing"),
    ]
    assert name_of(tmp_path / "photos") == f"folder:{tmp_path}/photos"


def test_mistakes_are_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"fields of `Config`\. Received: epoch\. Did you mean epochs\?"):
        keras_moco.pretrain("digits", tmp_path / "run", epoch=3)
    with pytest.raises(ValueError, match="`dataset` must be given as `data`"):
        keras_moco.pretrain("digits", tmp_path / "run", dataset="digits")
    with pytest.raises(ValueError, match="name='photos'"):
        keras_moco.pretrain("photos", tmp_path / "run")
    with pytest.raises(ValueError, match="There is no folder or file of this name either"):
        keras_moco.pretrain(tmp_path / "photos", tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="`workdir` must be new, empty, or the folder of a run"):
        keras_moco.pretrain("digits", tmp_path / "other")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="`workdir` must be the folder of a run"):
        PretrainedRun(tmp_path / "other")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one call on small images with labels, and what was printed."""
    folder = tmp_path_factory.mktemp("api")
    data, out = write_digits(folder / "images"), folder / "run"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run = keras_moco.pretrain(data, out, **FEW)
    return run, printed.getvalue()


@pytest.mark.slow
def test_what_is_not_given_follows_from_the_images_and_stays_with_the_run(run):
    run, printed = run
    (listed,) = re.findall("not given, so they follow from the images and the devices: (.*)", printed)
    assert "--image_size=20 --stem=cifar --augment=moco_cifar" in listed and "--backbone" not in listed
    config = run.config
    assert (config.image_size, config.batch_size, config.queue_size, config.channels) == (20, 16, 16, 1)
    assert config.epochs == 2 and config.backbone == "tiny"
    assert isinstance(config.image_mean[0], float)  # measured


@pytest.mark.slow
def test_run_has_history_results_and_backbone_and_is_not_trained_again(run):
    run, _ = run
    history = run.history
    assert history["epoch"] == [0, 1] and np.isfinite(history["loss"]).all() and len(history["knn_top1"]) == 2
    assert run.results["epochs"] == 2 and 0 <= run.results["knn_top1"] <= 100
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        again = keras_moco.pretrain(run.config.dataset, run.path)
    assert "epoch 1/2" not in printed.getvalue() and again.history["loss"] == history["loss"]
    with pytest.raises(ValueError, match="temperature"):
        keras_moco.pretrain(run.config.dataset, run.path, temperature=0.5)


@pytest.mark.slow
def test_features_are_those_of_evaluate_and_of_the_exported_backbone(run, tmp_path):
    run, _ = run
    evaluate("embed", EvaluationConfig(workdir=str(run.path)))
    before = sorted(run.path.rglob("*"))
    features, labels, files = keras_moco.embed(run)
    assert sorted(run.path.rglob("*")) == before  # nothing is written
    with np.load(run.path / "evaluation" / "features_test.npz") as saved:
        np.testing.assert_array_equal(features, saved["features"])
        np.testing.assert_array_equal(labels, saved["labels"])
        assert files == saved["files"].tolist()
    images = np.stack([np.asarray(Image.open(file)) for file in files])[..., None].astype("float32")
    exported = keras.models.load_model(run.export(tmp_path / "export") / "backbone.keras")
    for model in (run.backbone, keras_moco.load_backbone(run.path), exported):
        np.testing.assert_allclose(model.predict(images, verbose=0), features, rtol=1e-4, atol=1e-5)
    elsewhere = keras_moco.embed(run.path, run.config.dataset.removeprefix("folder:"))
    assert len(elsewhere.features) == 80  # the images of another set are those of its training split
    assert run.evaluate("knn")["knn_top1_backbone"] == pytest.approx(run.results["knn_top1_backbone"])


@pytest.mark.slow
def test_settings_that_a_network_or_a_method_does_not_use_are_not_fitted(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(keras_moco.api.pretrain_command, "pretrain", lambda config, train: seen.update(config=config))
    keras_moco.pretrain("digits", tmp_path / "a", backbone="keras.applications:MobileNetV2", method="simclr")
    config = seen["config"]
    defaults = Config()
    for name in ("stem", "backbone_width", "key_momentum"):
        assert getattr(config, name) == getattr(defaults, name)
    keras_moco.pretrain("digits", tmp_path / "b", backbone="resnet18", image_size=48)
    assert (seen["config"].backbone_width, seen["config"].stem) == (64, "half")


@pytest.mark.slow
def test_export_overwrites_nothing_unless_asked_to(run, tmp_path):
    run, _ = run
    (tmp_path / "MODEL_CARD.md").write_text("mine")
    with pytest.raises(ValueError, match="`path` must be a new or empty folder"):
        run.export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["MODEL_CARD.md"]
    run.export(tmp_path, overwrite=True)
    assert (tmp_path / "backbone.keras").exists()


@pytest.mark.slow
def test_an_export_of_ours_can_be_pre_trained_further(run, tmp_path):
    run, _ = run
    further = keras_moco.pretrain(
        run.config.dataset, tmp_path / "more", backbone=str(run.path / "export" / "backbone.keras"), epochs=1
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 1)).astype("float32")
    exported = keras.models.load_model(further.path / "export" / "backbone.keras")
    np.testing.assert_allclose(
        exported.predict(images, verbose=0), further.backbone.predict(images, verbose=0), rtol=1e-4, atol=1e-5
    )
