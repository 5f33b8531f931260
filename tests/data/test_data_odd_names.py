"""Whole runs on files whose names are not UTF-8, and on a share of the images that is held out."""

import os

import numpy as np
import pytest
from PIL import Image

from keras_moco.commands.evaluate import evaluate
from keras_moco.commands.pretrain import pretrain
from keras_moco.config import Config, EvaluationConfig
from keras_moco.data.splits import is_held_out
from keras_moco.evaluation.target import EvaluationTarget
from keras_moco.runs.directory import RunDirectory
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow

CLASSES = [b"caf\xe9", b"th\xe9"]
SETTINGS = dict(batch_size=8, queue_size=16, epochs=1, knn_k=2, max_bad_fraction=0.1)


def write(root):
    """40 images in folders and files with names in Latin-1; one cannot be read."""
    names = [os.path.join(CLASSES[number % 2], b"\xe9%02d.png" % number) for number in range(40)]
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), dtype="uint8")
        with open(path, "wb") as file:
            if number != 13:
                Image.fromarray(pixels).save(file, "PNG")
    with open(os.path.join(os.fsencode(root), CLASSES[0], b"\xff.\xfe"), "wb"):
        pass  # not read, which the log says
    return [os.fsdecode(name) for name in names]


def test_names_that_are_not_utf8_train_and_are_evaluated(tmp_path, caplog):
    names = write(tmp_path / "images")
    settings = dict(dataset=f"folder:{tmp_path / 'images'}", test_fraction=0.3)
    results = pretrain(tiny_config(tmp_path / "run", **settings, **SETTINGS))
    train, test = ([name for name in names if is_held_out(name, 0.3) == wanted] for wanted in (False, True))
    assert results["train_examples"] == len(train) and results["bad_images"] == 1 and "knn_top1" in results
    assert r"/th\udce9/\udce913.png (an empty file)" in caplog.text and r"/\udcff.\udcfe" in caplog.text

    assert "| held out for testing | 0.3 of the images |" in (tmp_path / "run/export/MODEL_CARD.md").read_text()
    run = {"workdir": str(tmp_path / "run")}
    evaluate("knn", EvaluationConfig(**run))  # on the share that the run held out
    evaluate("retrieve", EvaluationConfig(**run, split="test", queries=("0", "1"), neighbours=3))
    for split, expected in (("train", train), ("test", test)):
        evaluate("embed", EvaluationConfig(**run, split=split))
        with np.load(tmp_path / "run" / "evaluation" / f"features_{split}.npz") as found:
            files = [os.path.relpath(file, tmp_path / "images") for file in found["files"]]
            assert sorted(files) == sorted(name for name in expected if not name.endswith("13.png"))
            folders = [os.fsencode(os.path.dirname(file)) for file in files]
            assert [CLASSES[label] for label in found["labels"]] == folders


def test_run_keeps_the_share_that_it_holds_out(tmp_path):
    names = write(tmp_path / "images")
    folder, config = f"folder:{tmp_path / 'images'}", tiny_config(tmp_path / "run", **SETTINGS)
    pretrain(Config(**{**vars(config), "dataset": folder, "test_fraction": 0.3}))
    assert RunDirectory(tmp_path / "run").config().test_fraction == 0.3
    with pytest.raises(ValueError, match=r"test_fraction: 0\.3 -> 0\.2"):
        pretrain(Config(**{**vars(config), "dataset": folder, "test_fraction": 0.2}))

    def count(**settings):
        return EvaluationTarget(EvaluationConfig(workdir=str(tmp_path / "run"), **settings)).test.num_examples

    assert count() == sum(is_held_out(name, 0.3) for name in names)
    assert count(test_fraction=0.1) == sum(is_held_out(name, 0.1) for name in names)
    assert count(dataset="digits") == 360  # images of others are not divided
