"""What can be evaluated, on which images; and what is refused before any work."""

import dataclasses
import errno
import functools
import html
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from markdown_it import MarkdownIt

from keras_moco.commands.evaluate import evaluate
from keras_moco.config import EvaluationConfig
from keras_moco.config.settings import to_text
from keras_moco.evaluation import FeatureExtractor, target
from keras_moco.evaluation.model_card import write_card
from keras_moco.evaluation.modes import MODES, tuned
from keras_moco.evaluation.target import Subject
from keras_moco.layers import FeatureQueue
from keras_moco.methods import MoCo
from keras_moco.optimizers import SGD
from keras_moco.runs.checkpoints import save
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.load import load_backbone, load_encoder, load_model, open_trained_encoder
from keras_moco.storage import locks
from tests.evaluation.finished_run import SIZE, digits, refusal, results, train_on, write_images
from tests.processes import ROOT

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
    monkeypatch.setattr(Subject, "backbone", lambda _: backbones.append(load()) or backbones[-1])
    evaluate("finetune", EvaluationConfig(model=path, **settings))
    assert results(tmp_path)["other_data"]["digits"]["finetune_top1"] > 20  # chance is 10, give or take 1.6
    before, after = (np.concatenate([np.ravel(v) for v in b.variables]) for b in (load(), *backbones))
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
        for load in (load_encoder, lambda *args, **named: open_trained_encoder(*args, **named)[0]):
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


def test_a_backbone_beside_the_checkpoints_of_a_run_is_not_taken_for_it(run, trained, tmp_path):
    other = keras.Sequential([keras.Input((SIZE, SIZE, 1)), keras.layers.Flatten()])
    other.save(run / "backbone.keras")
    (run / "saved_model.pb").write_bytes(b"x")
    for encoder in (Subject(EvaluationConfig(workdir=str(run))).encoder, load_encoder(run)):
        np.testing.assert_array_equal(encoder.weights[0], trained.encoder.weights[0])
    for folder in (run / "checkpoints").iterdir():
        shutil.rmtree(folder)
    assert f"Received: {run} without one. Train" in refusal("embed", workdir=str(run))


def test_every_figure_and_file_says_which_checkpoint_it_is_of(run):
    config = EvaluationConfig(workdir=str(run))
    first = Subject(config)
    first.record(linear_top1=80.0, semi=lambda _: {"1 %": {"settings": {"checkpoint": first.checkpoint}, "a": [7.0]}})
    first.config = dataclasses.replace(config, dataset="folder:elsewhere")
    first.record(knn_top1=70.0)
    old = {"step": 0, "weights": first.checkpoint["weights"]}
    assert results(run)["checkpoints"] == {"linear_top1": old, "semi": old}
    assert results(run)["other_data"]["folder:elsewhere"]["checkpoints"] == {"knn_top1": old}
    train_on(run)
    second = Subject(config)
    second.place("features_test.npz").touch()
    second.finish()
    new = {"step": 11, "weights": second.checkpoint["weights"]}
    assert new["weights"] != old["weights"] and len(new["weights"]) == 16
    assert results(run)["checkpoints"] == {"linear_top1": old, "semi": old, "features_test.npz": new}
    second.record(knn_top1=90.0)
    RunDirectory(run).results.record(logistic_top1=60.0)  # as earlier versions did

    write_card(second)
    card = (run / "export" / "MODEL_CARD.md").read_text()
    outdated = f"step 0, `{old['weights']}`, **not this one**"
    for row in (
        f"| checkpoint | step 11, `{new['weights']}` |",
        "| steps | 11 |",
        f"| linear top1 | 80 | {outdated} |",
        f"| semi, 1 %, a | 7.00 %, 1 draw | {outdated} |",
        f"| knn top1 | 90 | step 11, `{new['weights']}` |",
        f"| knn top1 | 70 | {outdated} |",
        "| logistic top1 | 60 | not recorded |",
    ):
        assert row in card.splitlines()


def test_all_of_an_evaluation_is_of_the_checkpoint_that_it_began_with(run):
    subject = Subject(EvaluationConfig(workdir=str(run)))
    expected = subject.backbone().get_weights()
    train_on(run)
    shutil.rmtree(run / "checkpoints" / "step-000000000")  # not kept any longer
    backbone = subject.backbone()
    for ours, theirs in zip(backbone.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    backbone.weights[0].assign(backbone.weights[0] + 1)  # each call gives a new one
    np.testing.assert_array_equal(subject.backbone().weights[0], expected[0])


def test_a_model_that_is_replaced_meanwhile_is_refused(tmp_path):
    def write(seed):
        keras.utils.set_random_seed(seed)
        keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]).save(path)

    path = tmp_path / "model.keras"
    write(0)
    subject = Subject(EvaluationConfig(model=str(path), dataset="digits", output=str(tmp_path / "out")))
    np.testing.assert_array_equal(subject.backbone().weights[0], subject.encoder.weights[0])
    write(1)
    with pytest.raises(ValueError, match=f"Received: {path}, which has other weights now"):
        subject.backbone()


def test_a_step_is_a_number_or_its_digits(trained):
    for checkpoint in (0, "0", np.int64(0)):
        found = load_backbone(trained.path, checkpoint=checkpoint)
        for ours, theirs in zip(found.get_weights(), trained.encoder.backbone.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for checkpoint in (1170, "1170", -1):
        with pytest.raises(ValueError, match=rf"a step that is saved, of 0\. Received: {checkpoint}, in "):
            load_backbone(trained.path, checkpoint=checkpoint)


# Where it is written


def test_what_cannot_be_written_is_found_out_before_any_work(run, silent, tmp_path, monkeypatch):
    monkeypatch.setattr(target, "open_trained_encoder", lambda *_: pytest.fail("the encoder was loaded"))
    (tmp_path / "file").touch()
    for output in ("file", "file/new"):
        said = refusal("finetune", workdir=str(run), output=str(tmp_path / output))
        assert f"Received: {tmp_path / output} (Not a directory). " in said
    real = locks.os.open

    def read_only(path, flags, *mode):
        if flags & locks.os.O_CREAT and str(path).startswith(str(run / "export")):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *mode)

    monkeypatch.setattr(locks.os, "open", read_only)
    assert f"Received: {run / 'export'} (Permission denied). " in refusal("finetune", workdir=str(run))
    assert not (run / "evaluation").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv, by which permissions bind root too")
def test_a_run_that_only_may_be_read_is_evaluated_elsewhere(run, tmp_path):
    program = "from tests import tiny; import runpy; runpy.run_path('evaluate.py', run_name='__main__')"
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", program, "embed"]
    run.chmod(0o555)
    try:
        refused, done = (
            subprocess.run([*command, f"--workdir={run}", *flags], cwd=ROOT, capture_output=True, text=True)
            for flags in ([], [f"--output={tmp_path / 'out'}"])
        )
    finally:
        run.chmod(0o755)
    assert refused.returncode == 2 and "features of digits" not in refused.stdout
    assert f"Received: {run} (Permission denied). " in refused.stderr.splitlines()[-1]
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "features_test.npz").exists() and not (run / "evaluation").exists()


def test_two_models_that_are_evaluated_into_one_folder_at_once_are_not_mixed(trained, tmp_path):
    settings = {"dataset": "digits", "image_size": SIZE, "output": str(tmp_path / "out")}
    first, second = (
        Subject(EvaluationConfig(model=str(path), **settings))
        for path in (trained.export, trained.export / "backbone.keras")
    )
    first.record(knn_top1=1.0)
    with pytest.raises(ValueError, match=f"Received: {tmp_path / 'out'}, with those of {trained.export} newest"):
        second.record(knn_top1=2.0)
    assert results(tmp_path / "out")["other_data"]["digits"]["knn_top1"] == 1.0


@pytest.mark.parametrize("dataset", [None, "folder:elsewhere"])
def test_evaluations_side_by_side_keep_the_figures_of_both(run, dataset, monkeypatch):
    """Each is there before the other has written."""
    first, second = (Subject(EvaluationConfig(workdir=str(run), dataset=dataset)) for _ in range(2))
    settings = {"epochs": 1, "checkpoint": first.checkpoint}

    def found(**accuracies):
        return {"settings": settings, **accuracies}

    first.record(knn_top1=1.0)
    second.record(linear_top1=2.0)
    record_share = tuned._record_share
    assert record_share(first, "1 %", found(a=[10.0])) == found(a=[10.0])
    assert record_share(second, "10 %", found(a=[90.0], b=[80.0])) == found(a=[90.0], b=[80.0])
    assert record_share(second, "1 %", found(b=[20.0])) == found(a=[10.0], b=[20.0])
    assert record_share(first, "1 %", found(a=[10.0, 11.0])) == found(a=[10.0, 11.0], b=[20.0])
    other = {"settings": settings | {"epochs": 2}, "a": [5.0]}
    assert record_share(second, "1 %", other) == other
    recorded = first.recorded()
    assert (recorded["knn_top1"], recorded["linear_top1"]) == (1.0, 2.0)
    assert recorded["semi"] == {"1 %": other, "10 %": found(a=[90.0], b=[80.0])}
    assert set(recorded["checkpoints"]) == {"knn_top1", "linear_top1", "semi"}


def test_a_card_shows_names_of_others_as_they_are(run, tmp_path):
    ugly = "a|b`c` [x](javascript:y) <script>alert(1)</script> # *z* $w$ \\|\n# new"
    (run / "results.json").write_text(
        json.dumps({"other_data": {ugly: {"knn_top1": 9.5}}, "data_licence": ugly, "converted_from": ugly})
    )
    write_card(Subject(EvaluationConfig(workdir=str(run))))
    card = (run / "export" / "MODEL_CARD.md").read_text()
    (licence,) = [line for line in card.splitlines() if line.startswith("| licence of the data |")]
    assert licence == (
        r"| licence of the data | a\|b\`c\` \[x\](javascript:y) &lt;script&gt;alert(1)&lt;/script&gt; \# \*z\* \$w\$ "
        r"\\\| \# new |"
    )
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    assert "<script" not in rendered and "href" not in rendered and rendered.count("<h1>") == 1
    shown = html.escape(" ".join(ugly.split()), quote=False)
    assert f"<td>{shown}</td>" in rendered  # the licence
    assert f"<p>On <code>{shown}</code>:</p>" in rendered and f"converted from <code>{shown}</code></td>" in rendered


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
    monkeypatch.setattr(target, "open_trained_encoder", lambda *_: (trained.encoder, 0))
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
    served = {"model": str(trained.export / "saved_model"), "trust_saved_model": True}
    said = refusal("semi", **served, dataset="digits", **output)
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
