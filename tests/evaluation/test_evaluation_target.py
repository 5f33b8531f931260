"""What can be evaluated: forms of a model, and checkpoints of a run."""

import functools
import shutil

import keras
import numpy as np
import pytest

from keras_moco.commands.evaluate import evaluate
from keras_moco.config import EvaluationConfig
from keras_moco.evaluation.target import EvaluationTarget
from keras_moco.layers import FeatureQueue
from keras_moco.methods import MoCo
from keras_moco.optimizers import SGD
from keras_moco.runs.checkpoints import save
from keras_moco.runs.load import load_backbone, load_encoder, load_model, open_trained_encoder
from tests.evaluation.finished_run import SIZE, digits, refusal, results, train_on

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
    backbone = load_backbone(other_form(form, trained, tmp_path), trust_saved_model=form == "saved_model")
    np.testing.assert_allclose(backbone(images), trained.encoder.features(images), atol=1e-5)
    assert backbone.trainable and len(backbone.trainable_variables) == 9


@pytest.mark.slow
@pytest.mark.parametrize("form", ["saved_model", "backbone.keras"])
def test_a_model_is_fine_tuned(form, trained, tmp_path, monkeypatch):
    path, settings = str(trained.export / form), {"image_size": SIZE, "output": str(tmp_path), "pictures": False}
    trust = {"trust_saved_model": form == "saved_model"}
    settings |= {
        **trust,
        "epochs": 3,
        "batch_size": 64,
        "learning_rate": 0.8,
        "crop_min_area": 0.6,
        "dataset": "digits",
    }
    backbones, load = [], functools.partial(load_backbone, path, **trust)
    monkeypatch.setattr(EvaluationTarget, "backbone", lambda _: backbones.append(load()) or backbones[-1])
    evaluate("finetune", EvaluationConfig(model=path, **settings))
    assert results(tmp_path)["other_data"]["digits"]["finetune_top1"] > 20  # chance is 10, give or take 1.6
    before, after = (np.concatenate([np.ravel(v) for v in b.variables]) for b in (load(), *backbones))
    assert np.mean(before != after) > 0.99
    classifier = keras.models.load_model(tmp_path / "classifier.keras", safe_mode=False)
    assert classifier.output_shape == (None, 10)


def test_only_the_encoder_of_a_run_is_built(run, monkeypatch):
    """Neither key encoder nor queue nor optimizer; bits identical to those of the whole model."""
    expected = load_model(run)[1].encoder.weights
    for owner, name in ((FeatureQueue, "__init__"), (MoCo, "__init__"), (SGD, "__init__"), (SGD, "build")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("more than the encoder was made"))
    evaluated = EvaluationTarget(EvaluationConfig(workdir=str(run)))
    for ours, theirs in zip(evaluated.encoder.weights, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert evaluated.backbone().output_shape == (None, evaluated.encoder.feature_dim)


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
        for load in (load_encoder, lambda *args, **named: open_trained_encoder(*args, **named)[0]):
            np.testing.assert_array_equal(load(run, checkpoint=checkpoint).weights[0], expected[step], checkpoint)

    # Results of an older checkpoint are stored apart.
    before = results(run)
    evaluate("embed", EvaluationConfig(workdir=str(run), checkpoint="best"))
    assert results(run) == before
    folder = run / "evaluation" / "best"
    assert {path.name for path in folder.iterdir()} == {"features_test.npz", "results.json", "MODEL_CARD.md"}
    for checkpoint in ("7", "last"):
        said = refusal("knn", workdir=str(run), checkpoint=checkpoint)
        assert "of 0, 11, 22. " in said and f"Received: {checkpoint}, in {run / 'checkpoints'}" in said


def test_checkpoint_of_a_run_is_preferred_to_a_backbone_file(run, trained, tmp_path):
    other = keras.Sequential([keras.Input((SIZE, SIZE, 1)), keras.layers.Flatten()])
    other.save(run / "backbone.keras")
    (run / "saved_model.pb").write_bytes(b"x")
    for encoder in (EvaluationTarget(EvaluationConfig(workdir=str(run))).encoder, load_encoder(run)):
        np.testing.assert_array_equal(encoder.weights[0], trained.encoder.weights[0])
    for folder in (run / "checkpoints").iterdir():
        shutil.rmtree(folder)
    assert f"Received: {run} without one. Train" in refusal("embed", workdir=str(run))


def test_newer_checkpoints_do_not_change_the_target(run):
    evaluated = EvaluationTarget(EvaluationConfig(workdir=str(run)))
    expected = evaluated.backbone().get_weights()
    train_on(run)
    shutil.rmtree(run / "checkpoints" / "step-000000000")  # no longer kept
    backbone = evaluated.backbone()
    for ours, theirs in zip(backbone.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    backbone.weights[0].assign(backbone.weights[0] + 1)  # each call returns a new model
    np.testing.assert_array_equal(evaluated.backbone().weights[0], expected[0])


def test_replaced_model_file_is_refused(tmp_path):
    def write(seed):
        keras.utils.set_random_seed(seed)
        keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]).save(path)

    path = tmp_path / "model.keras"
    write(0)
    evaluated = EvaluationTarget(EvaluationConfig(model=str(path), dataset="digits", output=str(tmp_path / "out")))
    np.testing.assert_array_equal(evaluated.backbone().weights[0], evaluated.encoder.weights[0])
    write(1)
    with pytest.raises(ValueError, match=f"Received: {path}, which has other weights now"):
        evaluated.backbone()


def test_step_may_be_a_number_or_text(trained):
    for checkpoint in (0, "0", np.int64(0)):
        found = load_backbone(trained.path, checkpoint=checkpoint)
        for ours, theirs in zip(found.get_weights(), trained.encoder.backbone.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for checkpoint in (1170, "1170", -1):
        with pytest.raises(ValueError, match=rf"a step that is saved, of 0\. Received: {checkpoint}, in "):
            load_backbone(trained.path, checkpoint=checkpoint)
