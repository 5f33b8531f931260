"""A run on images of more than 8 bits: its range is kept, its evaluations use it, and its exports take raw values."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tifffile
from sklearn.datasets import load_digits

from keras_moco.commands.evaluate import evaluate
from keras_moco.commands.pretrain import pretrain
from keras_moco.config import EvaluationConfig
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import load_backbone
from tests.tiny import tiny_config
from tests.whole_runs import checkpoints, without_pictures_and_export

pytestmark = pytest.mark.slow
SMALL = dict(queue_size=64, batch_size=32, bn_splits=2, epochs=1, knn_k=5)


def write_digits(folder, values, count=160):
    """Digits as TIFF files with a class each, three quarters for training; `values` maps 0..1 `(8, 8)` to a file."""
    digits = load_digits()
    for number in range(count):
        place = folder / ("test" if number % 4 == 0 else "train") / str(digits.target[number])
        place.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(place / f"{number:04}.tif", values(digits.images[number] / 16), photometric="minisblack")
    return f"folder:{folder}"


def twelve_bits(image):
    return np.round(300 + image * 3500).astype("uint16")


BANDS = "/".join(f"-0.1,{white}" for white in (0.1, 0.3, 0.5, 0.7, 0.9))  # a range for each


def five_bands(image):
    return np.stack([image * scale - 0.1 for scale in (0.2, 0.4, 0.6, 0.8, 1.0)]).astype("float32")


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        (twelve_bits, {}, ("0,4095", 1)),
        (five_bands, {"channels": 5, "image_mean": "auto", "image_std": "auto"}, (BANDS, 5)),
    ],
)
def test_exports_take_the_values_of_the_files(values, settings, expected, tmp_path):
    config = tiny_config(
        tmp_path / "run", **{"dataset": write_digits(tmp_path / "images", values), **SMALL, **settings}
    )
    results = pretrain(config)
    assert results["knn_top1"] > 20  # chance is 10
    run = RunDirectory(tmp_path / "run")
    assert (run.config().value_range, run.config().channels) == expected

    evaluate("embed", EvaluationConfig(workdir=str(run.path), batch_size=32))
    with np.load(run.path / "evaluation" / "features_test.npz") as saved:
        features, files = saved["features"], saved["files"]
    raw = np.stack([tifffile.imread(file).astype("float32") for file in files])
    raw = raw[..., None] if raw.ndim == 3 else np.moveaxis(raw, 1, -1)
    for model in (keras.models.load_model(run.export / "backbone.keras"), load_backbone(run.path)):
        np.testing.assert_allclose(model.predict(raw, verbose=0), features, rtol=1e-4, atol=1e-5)
    saved_model = tf.saved_model.load(str(run.export / "saved_model"))
    served = saved_model.serve(tf.constant(raw))
    np.testing.assert_allclose(served, features, rtol=1e-4, atol=1e-5)
    listed = expected[0].replace(",", "..").replace("/", ", ") + " in its channels" * (expected[1] > 1)
    assert f"with values in {listed}, as in their files" in (run.export / "MODEL_CARD.md").read_text()

    # The export is evaluated as the run is.
    output = {"output": str(tmp_path / "again"), "image_size": 8, "dataset": config.dataset}
    evaluate("embed", EvaluationConfig(model=str(run.export / "backbone.keras"), **output))
    with np.load(tmp_path / "again" / "features_test.npz") as saved:
        np.testing.assert_allclose(saved["features"], features, rtol=1e-4, atol=1e-5)


def test_fine_tuned_classifier_takes_raw_values_and_a_run_keeps_its_range(tmp_path, capsys):
    name = write_digits(tmp_path / "images", twelve_bits)
    with without_pictures_and_export():
        pretrain(tiny_config(tmp_path / "run", dataset=name, **SMALL))
    # Other images, brighter than the range of the run: it is not measured again.
    other = write_digits(tmp_path / "other", lambda image: twelve_bits(image) * 2)
    tuning = {"epochs": 1, "batch_size": 16, "pictures": False}
    evaluate("finetune", EvaluationConfig(workdir=str(tmp_path / "run"), dataset=other, **tuning))
    classifier = keras.models.load_model(tmp_path / "run" / "evaluation" / "classifier.keras")
    bright = np.full((1, 8, 8, 1), 4095.0)
    np.testing.assert_allclose(
        classifier.predict(bright * 2, verbose=0), classifier.predict(bright, verbose=0), rtol=1e-5
    )
    assert np.abs(classifier.predict(bright / 2, verbose=0) - classifier.predict(bright, verbose=0)).max() > 1e-4

    evaluate(
        "embed", EvaluationConfig(workdir=str(tmp_path / "run"), dataset=other, output=str(tmp_path / "other_out"))
    )
    with np.load(tmp_path / "other_out" / "features_test.npz") as found:
        features, files = found["features"], found["files"]
    raw = np.stack([tifffile.imread(file).astype("float32") for file in files])[..., None]
    assert raw.max() > 4095
    printed = capsys.readouterr().out
    assert re.search(
        "note: [2-9][0-9] % of the values of folder:.*/other, .* the training, 0,4095, and clipped", printed
    )
    expected = load_backbone(tmp_path / "run").predict(raw, verbose=0)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)

    saved = checkpoints(tmp_path / "run")
    with without_pictures_and_export(), pytest.raises(ValueError, match="value_range: 0,4095 -> 0,9000"):
        pretrain(tiny_config(tmp_path / "run", dataset=name, **SMALL, value_range="0,9000"))
    assert checkpoints(tmp_path / "run") == saved
