"""What can be evaluated, on which images; and what is refused before any work."""

import shutil

import keras
import numpy as np
import pytest

from keras_moco import subject
from keras_moco.callbacks import save
from keras_moco.evaluating import evaluate
from keras_moco.evaluation import FeatureExtractor
from keras_moco.evaluation_config import EvaluationConfig
from keras_moco.layers import FeatureQueue
from keras_moco.loading import load_backbone, load_encoder
from keras_moco.models import MoCo
from keras_moco.modes import MODES, tuned
from keras_moco.optimizers import SGD
from keras_moco.settings import to_text
from keras_moco.subject import Subject
from keras_moco.trained_run import load_model, load_trained_encoder
from tests.evaluation.finished_run import SIZE, digits, refusal, results, write_images

# Forms of a model


def other_form(form, trained, folder):
    """The encoder of the run in another form."""
    if form == "moco.pth":
        from keras_moco.convert import to_pytorch

        return to_pytorch(load_model(trained.path)[1], folder / form)
    if form in ("encoder.keras", "model.keras"):
        (trained.encoder if form == "encoder.keras" else trained.model).save(folder / form)
        return folder / form
    return trained.export if form == "export" else trained.export / form


SLOW = [pytest.param(form, marks=pytest.mark.slow) for form in ("encoder.keras", "backbone.keras")]
TORCH = pytest.param("moco.pth", marks=pytest.mark.torch)


@pytest.mark.parametrize("form", ["model.keras", "saved_model", "export", *SLOW, TORCH])
def test_every_form_has_the_same_features(form, trained, tmp_path):
    images = digits("test")[0][:8].astype("float32")
    backbone = load_backbone(other_form(form, trained, tmp_path))
    np.testing.assert_allclose(backbone(images), trained.encoder.features(images), atol=1e-5)
    assert backbone.trainable and len(backbone.trainable_variables) == 9


@pytest.mark.slow
@pytest.mark.parametrize("form", ["saved_model", "backbone.keras"])
def test_a_model_is_fine_tuned(form, trained, tmp_path, monkeypatch):
    path, settings = str(trained.export / form), {"image_size": SIZE, "output": str(tmp_path), "pictures": False}
    settings |= {"epochs": 3, "batch_size": 64, "learning_rate": 0.8, "crop_min_area": 0.6, "dataset": "digits"}
    backbones = []
    monkeypatch.setattr(Subject, "backbone", lambda _: backbones.append(load_backbone(path)) or backbones[-1])
    evaluate("finetune", EvaluationConfig(model=path, **settings))
    assert results(tmp_path)["other_data"]["digits"]["finetune_top1"] > 20  # chance is 10, give or take 1.6
    before, after = (np.concatenate([np.ravel(v) for v in b.variables]) for b in (load_backbone(path), *backbones))
    assert np.mean(before != after) > 0.99
    classifier = keras.models.load_model(tmp_path / "classifier.keras", safe_mode=False)
    assert classifier.output_shape == (None, 10)


def test_a_model_is_evaluated_in_a_folder_of_its_own(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"dataset": "digits", "image_size": SIZE}
    votes = {"knn_k": (5,), "pictures": False}
    evaluate("knn", EvaluationConfig(model=str(trained.export / "backbone.keras"), **settings, **votes))
    (folder,) = (tmp_path / "evaluation").iterdir()
    assert folder.name == "backbone" and {path.name for path in folder.iterdir()} == {"results.json", "MODEL_CARD.md"}
    found = results(folder)
    assert found["model"] == str(trained.export / "backbone.keras")
    assert set(found["other_data"]["digits"]) == {"knn_backbone", "knn_top1_backbone", "checkpoints"}  # it has no head
    assert "knn top1 backbone" in (folder / "MODEL_CARD.md").read_text()

    before = {path: path.read_bytes() for path in folder.iterdir()}
    said = refusal("embed", model=str(trained.export), output=str(folder), **settings)
    assert f"Received: {folder}, with those of {trained.export / 'backbone.keras'} newest" in said
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_of_a_run_the_encoder_alone_is_made(run, monkeypatch):
    """Neither key encoder nor queue nor optimizer; the same bits as in the whole model."""
    expected = load_model(run)[1].encoder.weights
    for owner, name in ((FeatureQueue, "__init__"), (MoCo, "__init__"), (SGD, "__init__"), (SGD, "build")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("more than the encoder was made"))
    subject = Subject(EvaluationConfig(workdir=str(run)))
    for ours, theirs in zip(subject.encoder.weights, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert subject.backbone().output_shape == (None, subject.encoder.feature_dim)


# Which checkpoint


@pytest.fixture
def several(run):
    """The run with three checkpoints, the second the best by kNN; and a weight of each."""
    _, model = load_model(run)
    weight = model.encoder.weights[0]
    expected = {0: np.array(weight)}
    for epoch in (1, 2):
        model.step.assign(11 * epoch)
        weight.assign_add(np.ones(weight.shape))
        log = {0: {"knn_top1": 80.0}, 1: {"knn_top1": 70.0}}
        save(model, run / "checkpoints", epoch=epoch, log={number: log[number] for number in range(epoch)})
        expected[11 * epoch] = np.array(weight)
    return run, expected


@pytest.mark.slow
def test_any_checkpoint_can_be_evaluated(several):
    run, expected = several
    for checkpoint, step in (("newest", 22), ("best", 11), ("0", 0)):
        for load in (load_encoder, load_trained_encoder):
            np.testing.assert_array_equal(load(run, checkpoint=checkpoint).weights[0], expected[step], checkpoint)

    # Results of an older one are kept apart.
    before = results(run)
    evaluate("embed", EvaluationConfig(workdir=str(run), checkpoint="best"))
    assert results(run) == before
    folder = run / "evaluation" / "best"
    assert {path.name for path in folder.iterdir()} == {"features_test.npz", "results.json", "MODEL_CARD.md"}
    for checkpoint in ("7", "last"):
        said = refusal("knn", workdir=str(run), checkpoint=checkpoint)
        assert "of 0, 11, 22. " in said and f"Received: {checkpoint}, in {run / 'checkpoints'}" in said


def test_a_step_is_a_number_or_its_digits(trained):
    for checkpoint in (0, "0", np.int64(0)):
        found = load_backbone(trained.path, checkpoint=checkpoint)
        for ours, theirs in zip(found.get_weights(), trained.encoder.backbone.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for checkpoint in (1170, "1170", -1):
        with pytest.raises(ValueError, match=rf"a step that is saved, of 0\. Received: {checkpoint}, in "):
            load_backbone(trained.path, checkpoint=checkpoint)


# Refused before any work


def test_settings_are_checked():
    for settings, variable in (
        ({}, "workdir=None, model=None"),
        ({"workdir": "a", "model": "b"}, "workdir=a, model=b"),
        ({"workdir": "x", "knn_k": (5, 0)}, "knn_k=5,0"),
        ({"workdir": "x", "fractions": (101.0,)}, "fractions=101.0"),
        ({"workdir": "x", "rates": (0.0,)}, "rates=0.0"),
        ({"workdir": "x", "split": "val"}, "split='val'"),
        ({"workdir": "x", "linear_on": "x"}, "linear_on='x'"),
    ):
        with pytest.raises(ValueError) as caught:
            EvaluationConfig(**settings)
        assert f"Received: {variable}." in str(caught.value)
    said = refusal("fly", workdir="x")
    assert "Received: fly." in said and all(mode in said for mode in MODES)


def test_a_mode_refuses_what_only_others_have_a_use_for():
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
        assert f"Received: {setting}={to_text(value)}. Leave out --{setting}, or choose the mode {owners}." in said


def test_linear_refuses_what_it_has_no_use_for_on_these_inputs(run, silent):
    assert "Received: features=embedding." in refusal("linear", workdir=str(run), features="embedding")
    settings = {"linear_on": "features", "crop_min_area": 0.5}
    assert "Received: crop_min_area=0.5." in refusal("linear", workdir=str(run), **settings)


def test_a_map_of_too_few_images_is_left_out_and_the_rest_is_done(run, tmp_path, capsys):
    names = [f"{split}/{name}.png" for split in ("train", "test") for name in ("a/0", "a/1", "b/0")]
    evaluate("knn", EvaluationConfig(workdir=str(run), dataset=write_images(tmp_path / "images", *names)))
    out = capsys.readouterr().out
    assert [f"projection_{level}.png is not drawn" in out for level in ("backbone", "embedding")] == [True, True]
    assert (run / "evaluation" / "confusion_knn_embedding.png").exists()


@pytest.fixture
def silent(trained, monkeypatch):
    """Fails if anything is computed; the run need not be loaded for that."""
    monkeypatch.setattr(subject, "open_trained_encoder", lambda *_: (trained.encoder, 0))
    monkeypatch.setattr(FeatureExtractor, "_embed", lambda *_: pytest.fail("features were extracted"))
    monkeypatch.setattr(tuned, "fine_tune", lambda *_, **__: pytest.fail("something was trained"))


def test_no_more_neighbours_than_images(run, silent):
    assert "Received: knn_k=2000, 1437 images" in refusal("knn", workdir=str(run), knn_k=(5, 2000))
    assert "Received: neighbours=2000, 1437 images" in refusal("retrieve", workdir=str(run), neighbours=2000)


def test_labels_must_be_there(run, silent, tmp_path):
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
    shutil.rmtree(tmp_path / "images" / "test" / "c")
    said = refusal("knn", workdir=str(run), dataset=dataset, knn_k=(1,))
    assert "3 classes (a, b, c); and 2 classes (a, b)" in said


def test_images_must_fit_the_encoder(run, silent, tmp_path):
    dataset = write_images(tmp_path / "rgb", "0.png", shape=(9, 9, 3))
    said = refusal("embed", workdir=str(run), dataset=dataset, split="train")
    assert "of 3 channel(s)" in said and "of 1." in said
    assert f"Received: image_size=16 for {run} of {SIZE}." in refusal("knn", workdir=str(run), image_size=16)


def test_best_checkpoint_must_have_been_measured(run):
    assert "Received: best, in " in refusal("knn", workdir=str(run), checkpoint="best")


def test_what_a_model_alone_does_not_have(trained, tmp_path):
    output = {"output": str(tmp_path / "x"), "image_size": SIZE}
    assert f"{trained.export} without --dataset" in refusal("knn", model=str(trained.export), **output)
    settings = {"dataset": "digits", "features": "embedding", **output}
    assert f"--features=embedding for {trained.export}" in refusal("knn", model=str(trained.export), **settings)
    said = refusal("semi", model=str(trained.export / "saved_model"), dataset="digits", **output)
    assert "Received: backbone, out of a SavedModel" in said
    assert not (tmp_path / "x").exists()


def test_what_holds_no_backbone(tmp_path):
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
