"""Evaluations that are refused before any work."""

import shutil

import keras
import numpy as np

from keras_moco.config.settings import to_text
from keras_moco.evaluation.registry import EVALUATIONS
from tests.evaluation.finished_run import SIZE, refusal, results, write_images


def test_unknown_mode_is_refused():
    said = refusal("fly", workdir="x")
    assert "Received: fly." in said and all(mode in said for mode in EVALUATIONS)


def test_either_a_run_or_a_model_is_required():
    assert "Received: workdir=None, model=None." in refusal("knn")
    assert "Received: workdir=a, model=b." in refusal("knn", workdir="a", model="b")


def test_settings_of_other_modes_are_refused():
    for mode, setting, value, owners in (
        ("knn", "rates", (1.0, 3.0), "linear"),
        ("knn", "split", "train", "retrieve or embed or measures"),
        ("linear", "knn_k", (20,), "knn"),
        ("linear", "weight_decay", 0.1, "semi or finetune"),
        ("logistic", "seed", 1, "knn or linear or finetune or measures"),
        ("semi", "seed", 1, "knn or linear or finetune or measures"),
        ("finetune", "features", "backbone", "knn or linear or logistic or retrieve or embed or measures"),
        ("retrieve", "pictures", False, "knn or linear or semi or finetune"),
        ("embed", "queries", ("a.png",), "retrieve"),
        ("measures", "random_weights", False, "semi"),
        ("export", "image_size", 32, "knn or linear or logistic or semi or finetune or retrieve or embed or measures"),
    ):
        said = refusal(mode, workdir="nowhere", **{setting: value})  # before the run is looked for
        assert said.startswith(f"`{setting}` must not be given with mode {mode}, ")
        assert f"Received: {setting}={to_text(value)}. Omit --{setting}, or choose the mode {owners}." in said


def test_linear_refuses_settings_of_its_other_input(run, silent):
    assert "Received: features=embedding." in refusal("linear", workdir=str(run), features="embedding")
    settings = {"linear_on": "features", "crop_min_area": 0.5}
    assert "Received: crop_min_area=0.5." in refusal("linear", workdir=str(run), **settings)


def test_no_more_neighbours_than_images(run, silent):
    assert "Received: knn_k=2000, 1437 images" in refusal("knn", workdir=str(run), knn_k=(5, 2000))
    assert "Received: neighbours=2000, 1437 images" in refusal("retrieve", workdir=str(run), neighbours=2000)


def test_labels_are_required(run, silent, tmp_path):
    dataset = write_images(tmp_path / "flat", "0.png", "1.png", "2.png")
    before = results(run)
    for mode in ("knn", "linear", "logistic", "semi", "finetune"):
        said = refusal(mode, workdir=str(run), dataset=dataset)
        assert f"Received: {dataset}, without labels" in said, mode
    assert results(run) == before


def test_classes_must_be_in_both_splits_and_in_a_share_of_the_labels(run, silent, tmp_path):
    names = [f"{split}/{name}/0.png" for split in ("train", "test") for name in "abc"]
    dataset = write_images(tmp_path / "images", *names)
    assert "Received: 1 % of 3 images, 0, for 3 classes." in refusal("semi", workdir=str(run), dataset=dataset)
    shutil.rmtree(tmp_path / "images" / "train" / "c")
    said = refusal("knn", workdir=str(run), dataset=dataset, knn_k=(1,))
    assert "test split has 1 classes (c) that training, of 2 classes (a, b), does not have" in said


def test_images_must_fit_the_encoder(run, silent, tmp_path):
    bands = tmp_path / "bands"
    bands.mkdir()
    np.save(bands / "a.npy", np.zeros((9, 9, 5), "uint8"))
    said = refusal("embed", workdir=str(run), dataset=f"folder:{bands}", split="train")
    assert f"Received: channels=1, folder:{bands} with 5." in said
    assert f"Received: image_size=16 for {run} of {SIZE}." in refusal("knn", workdir=str(run), image_size=16)


def test_best_checkpoint_must_have_been_measured(run):
    assert "Received: best, in " in refusal("knn", workdir=str(run), checkpoint="best")


def test_model_without_dataset_or_head_is_refused(trained, tmp_path):
    output = {"output": str(tmp_path / "x"), "image_size": SIZE}
    assert f"{trained.export} without --dataset" in refusal("knn", model=str(trained.export), **output)
    settings = {"dataset": "digits", "features": "embedding", **output}
    assert f"--features=embedding for {trained.export}" in refusal("knn", model=str(trained.export), **settings)
    served = {"model": str(trained.export / "saved_model"), "trust_saved_model": True}
    said = refusal("semi", **served, dataset="digits", **output)
    assert "Received: backbone, from a SavedModel" in said
    assert not (tmp_path / "x").exists()


def test_files_without_a_backbone_are_refused(tmp_path):
    images = keras.Input((8, 8, 1))
    keras.Model(images, keras.layers.Conv2D(2, 3)(images)).save(tmp_path / "maps.keras")
    (tmp_path / "x.h5").write_bytes(b"x")
    (tmp_path / "x.keras").write_bytes(b"x")
    for name, variable in (
        ("nothing", "must exist"),
        ("x.h5", "must be the folder of a run"),
        ("x.keras", "damaged, cut off"),
        ("maps.keras", "with outputs (None, 6, 6, 2)"),
    ):
        said = refusal("knn", model=str(tmp_path / name), dataset="digits")
        assert f"Received: {tmp_path / name}" in said and variable in said, said
