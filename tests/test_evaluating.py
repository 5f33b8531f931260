"""The modes of evaluate.py, on a run and on everything else that holds an encoder."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import keras
import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from keras_moco import distribution
from keras_moco.building import build_augmentation, build_model, plan_of
from keras_moco.callbacks import save
from keras_moco.config import Config
from keras_moco.data import evaluation_dataset, open_source, pretrain_dataset
from keras_moco.evaluating import evaluate
from keras_moco.evaluation import (
    FeatureExtractor,
    accuracy_of,
    extract_features,
    knn_accuracy,
    representation_measures,
)
from keras_moco.evaluation_config import EvaluationConfig
from keras_moco.export import export_backbone
from keras_moco.loading import load_backbone, load_encoder
from keras_moco.modes import MODES, tuned, use
from keras_moco.run_directory import RunDirectory
from keras_moco.trained_run import load_model

SIZE, CLASSES = 8, 10
RECIPE = Config(
    dataset="digits",
    train_examples=1437,
    channels=1,
    image_mean=(0.3,),
    image_std=(0.4,),
    backbone="resnet10",
    backbone_width=4,
    stem="cifar",
    image_size=SIZE,
    embedding_dim=16,
    queue_size=512,
    batch_size=128,
    bn_splits=4,
    augment="moco_cifar",
    strategy="one",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with one checkpoint, of random weights; most of what follows does not ask how good they are."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "run")
    config = dataclasses.replace(RECIPE, workdir=str(run.path))
    model = build_model(plan_of(config, 1), distribution.make_strategy("one"))
    for weight in model.encoder.trainable_weights:  # weights that no seed gives
        weight.assign(1.05 * weight)
    for _ in range(3):  # BatchNorm's statistics leave their first values
        model.encoder(np.random.default_rng(0).uniform(0, 255, (32, SIZE, SIZE, 1)), training=True)
    run.claim(config)
    save(model, run.checkpoints)
    export_backbone(model.encoder, run.export)
    run.record(steps=22, versions={"keras": "3"})
    return SimpleNamespace(path=run.path, encoder=model.encoder, export=run.export)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained.path, tmp_path / "run")


def results(folder):
    return json.loads((folder / "results.json").read_text())


def refusal(mode, **settings):
    with pytest.raises(ValueError) as caught:
        evaluate(mode, EvaluationConfig(**settings))
    return str(caught.value)


def all_of(split):
    return open_source("digits", split)


def features_of(encoder, split):
    return extract_features(encoder.features, evaluation_dataset(all_of(split), SIZE))


# The modes


def test_knn_votes_for_every_k_and_temperature(run, trained, capsys):
    evaluate("knn", EvaluationConfig(workdir=str(run), knn_k=(5, 200), knn_temperature=(0.1, 0.5)))
    found = results(run)
    train, test = (features_of(trained.encoder, split) for split in ("train", "test"))
    for k in (5, 200):
        for temperature in (0.1, 0.5):
            expected = knn_accuracy(*train[:2], *test[:2], CLASSES, k=k, temperature=temperature)
            told = found["knn_backbone"][f"k={k}, temperature={temperature}"]
            assert told == [round(expected.top1, 2), round(expected.top5, 2)]
    assert found["knn_top1_backbone"] == found["knn_backbone"]["k=5, temperature=0.1"][0]
    assert found["knn_top1_embedding"] == found["knn_embedding"]["k=5, temperature=0.1"][0]
    assert found["steps"] == 22  # what was there stays
    printed = capsys.readouterr().out
    assert f"kNN (k=5, temperature 0.1) on the backbone: top-1 {found['knn_top1_backbone']:.2f} %, top-5 " in printed
    for name in ("confusion_knn_backbone", "projection_backbone", "confusion_knn_embedding", "projection_embedding"):
        assert matplotlib.image.imread(run / "evaluation" / f"{name}.png").shape[0] > 200


def test_pictures_can_be_left_out(run):
    evaluate("knn", EvaluationConfig(workdir=str(run), pictures=False, features="backbone"))
    assert not (run / "evaluation").exists()
    assert "knn_top1_backbone" in results(run) and "knn_top1_embedding" not in results(run)


@pytest.mark.parametrize("on", ["features", "images"])
def test_linear_trains_all_rates_and_not_the_encoder(on, run, capsys):
    rates, epochs = {"features": ((0.01, 30.0), 20), "images": ((30.0,), 8)}[on]
    settings = {"linear_on": on, "rates": rates, "epochs": epochs, "batch_size": 64, "crop_min_area": 0.6}
    evaluate("linear", EvaluationConfig(workdir=str(run), **settings))
    found = results(run)
    assert found["linear_rate"] == 30.0 and found["linear_on"] == on
    assert list(found["linear_rates"]) == [f"{rate:g}" for rate in rates]
    assert found["linear_rates"]["30"] == [found["linear_top1"], found["linear_top5"]]
    assert 16 < found["linear_top1"] < found["linear_top5"] <= 100  # chance is 10, give or take 1.6
    assert f"linear: top-1 {found['linear_top1']:.2f} % (learning rate 30); no bit of the" in capsys.readouterr().out
    assert [path.name for path in (run / "evaluation").iterdir()] == ["confusion_linear.png"]


def test_logistic_is_a_regression_on_the_features(run, trained):
    evaluate("logistic", EvaluationConfig(workdir=str(run)))
    assert 40 < results(run)["logistic_top1"] <= 100


def test_semi_compares_shares_of_the_labels_and_random_weights(run, capsys, monkeypatch):
    settings = {"fractions": (2.0, 10.0), "seeds": 2, "epochs": 1, "batch_size": 64, "learning_rate": 0.4}
    seen = []
    real = tuned.fine_tune

    def watched(backbone, train, *args, **kwargs):
        seen.append((train.num_examples, kwargs["seed"], float(np.sum(np.abs(backbone.weights[0])))))
        return real(backbone, train, *args, **kwargs)

    monkeypatch.setattr(tuned, "fine_tune", watched)
    evaluate("semi", EvaluationConfig(workdir=str(run), **settings))
    found = results(run)["semi"]
    for share in ("2 %", "10 %"):
        assert [len(found[share][name]) for name in ("pre-trained", "random weights")] == [2, 2]
    assert [(count, seed) for count, seed, _ in seen] == [(29, 0), (29, 1)] * 2 + [(144, 0), (144, 1)] * 2
    weights = [weight for *_, weight in seen]
    assert weights[0] == weights[1] == weights[4] and len(set(weights)) == 3  # learnt once, random by seed
    assert "2 % of the labels, pre-trained: top-1 " in capsys.readouterr().out
    assert (run / "evaluation" / "label_fractions.png").exists()

    # What an interrupted evaluation had found is kept, under the same settings only.
    stopped = results(run)
    del stopped["semi"]["10 %"]["random weights"][1:]
    (run / "results.json").write_text(json.dumps(stopped))
    seen.clear()
    evaluate("semi", EvaluationConfig(workdir=str(run), **settings))
    assert [(count, seed) for count, seed, _ in seen] == [(144, 1)]
    assert results(run)["semi"] == found
    seen.clear()
    others = {**settings, "learning_rate": 0.2, "fractions": (2.0,), "random_weights": False}
    evaluate("semi", EvaluationConfig(workdir=str(run), **others))
    assert len(seen) == 2 and set(results(run)["semi"]["2 %"]) == {"settings", "pre-trained"}
    assert results(run)["semi"]["10 %"] == found["10 %"]


def test_finetune_leaves_a_classifier(run, capsys):
    settings = {"epochs": 3, "batch_size": 64, "learning_rate": 0.4, "crop_min_area": 0.6}
    evaluate("finetune", EvaluationConfig(workdir=str(run), **settings))
    path = run / "evaluation" / "classifier.keras"
    classifier = keras.models.load_model(path)
    images, labels = (array.numpy() for array in all_of("test").arrays())
    top1 = accuracy_of(classifier.predict(images.astype("float32"), verbose=0), labels).top1
    assert results(run)["finetune_top1"] == pytest.approx(top1, abs=0.01) and top1 > 40
    assert f"classifier {path}" in capsys.readouterr().out
    assert sorted(path.name for path in (run / "evaluation").iterdir()) == [
        "classifier.keras",
        "confusion_finetune.png",
    ]


def test_a_fine_tuning_that_is_stopped_goes_on_after_its_last_epoch(run, monkeypatch):
    config = EvaluationConfig(workdir=str(run), epochs=3, batch_size=64, learning_rate=0.4, pictures=False)
    epochs = []

    class Epochs(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            epochs.append((epoch, int(self.model.optimizer.iterations)))
            if len(epochs) == 3:
                raise KeyboardInterrupt

    real = tuned.backup
    monkeypatch.setattr(tuned, "backup", lambda *args: keras.callbacks.CallbackList([real(*args), Epochs()]))
    with pytest.raises(KeyboardInterrupt):
        evaluate("finetune", config)
    assert not (run / "evaluation" / "classifier.keras").exists()
    evaluate("finetune", config)
    assert epochs == [(0, 0), (1, 22), (2, 44), (2, 44)]
    assert [path.name for path in (run / "evaluation").iterdir()] == ["classifier.keras"]


def test_retrieve_finds_the_most_similar_training_images(run, trained, monkeypatch):
    drawn = {}
    real = use.draw_neighbours

    def watched(path, queries, neighbours, similarity, **known):
        drawn.update(queries=queries, neighbours=neighbours, similarity=similarity, **known)
        real(path, queries, neighbours, similarity, **known)

    monkeypatch.setattr(use, "draw_neighbours", watched)
    evaluate("retrieve", EvaluationConfig(workdir=str(run), queries=("7", "3"), neighbours=4))
    train, test = (features_of(trained.encoder, split) for split in ("train", "test"))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train.features, test.features)]
    similarity = unit[1][[7, 3]] @ unit[0].T
    best = np.argsort(-similarity, axis=1)[:, :4]
    images = all_of("train").arrays()[0].numpy()
    np.testing.assert_array_equal(drawn["neighbours"], images[best])
    np.testing.assert_array_equal(drawn["queries"], all_of("test").arrays()[0].numpy()[[7, 3]])
    np.testing.assert_allclose(drawn["similarity"], np.take_along_axis(similarity, best, axis=1), atol=1e-5)
    np.testing.assert_array_equal(drawn["neighbour_labels"], train.labels[best])
    np.testing.assert_array_equal(drawn["query_labels"], test.labels[[7, 3]])
    assert (run / "evaluation" / "neighbours.png").exists()

    # An image of a file is found by itself.
    Image.fromarray(images[100, ..., 0]).save(run / "some.png")
    evaluate("retrieve", EvaluationConfig(workdir=str(run), queries=(str(run / "some.png"),), neighbours=2))
    np.testing.assert_array_equal(drawn["neighbours"][0, 0], images[100])
    assert drawn["similarity"][0, 0] == pytest.approx(1, abs=1e-5)


def arrays(path):
    """What a file of NumPy holds: a dict of arrays."""
    with np.load(path) as file:
        return dict(file)


def test_embed_writes_features_with_labels(run, trained, capsys):
    evaluate("embed", EvaluationConfig(workdir=str(run), features="embedding"))
    found = arrays(run / "evaluation" / "features_test.npz")
    expected = extract_features(trained.encoder, evaluation_dataset(all_of("test"), SIZE))
    assert set(found) == {"features", "labels", "index"}
    np.testing.assert_allclose(found["features"], expected.features, atol=1e-6)
    np.testing.assert_array_equal(found["labels"], expected.labels)
    np.testing.assert_array_equal(found["index"], np.arange(360))
    assert "360 x 16 features of digits (test)" in capsys.readouterr().out


def test_measures_are_those_of_two_views(run, trained):
    evaluate("measures", EvaluationConfig(workdir=str(run), seed=3))
    recipe = RunDirectory(run).config()
    pairs = list(pretrain_dataset(all_of("test"), build_augmentation(recipe), 256, seed=3).take(1))
    for level, embed in (("backbone", trained.encoder.features), ("embedding", trained.encoder)):
        views = [np.concatenate([embed(pair[name]) for pair in pairs]) for name in ("query", "key")]
        for name, value in representation_measures(*views)._asdict().items():
            assert results(run)[f"measures_{level}"][name] == pytest.approx(value, rel=1e-3, abs=1e-4)


def test_export_writes_the_backbone_again(run, trained):
    images = all_of("test").arrays()[0].numpy()[:8].astype("float32")
    shutil.rmtree(run / "export")
    evaluate("export", EvaluationConfig(workdir=str(run)))
    backbone = keras.models.load_model(run / "export" / "backbone.keras")
    np.testing.assert_allclose(backbone(images), trained.encoder.features(images), atol=1e-5)
    assert (run / "export" / "saved_model" / "saved_model.pb").exists()


# What can be evaluated


FORMS = ["encoder.keras", "model.keras", "backbone.keras", "saved_model", "export"]


@pytest.fixture(params=[*FORMS, pytest.param("moco.pth", marks=pytest.mark.torch)])
def other(request, trained, tmp_path):
    """The encoder of the run in every other form."""
    if request.param == "moco.pth":
        from keras_moco.convert import to_pytorch

        return to_pytorch(load_model(trained.path)[1], tmp_path / request.param)
    if request.param == "encoder.keras":
        trained.encoder.save(tmp_path / request.param)
        return tmp_path / request.param
    if request.param == "model.keras":
        load_model(trained.path)[1].save(tmp_path / request.param)
        return tmp_path / request.param
    folder = shutil.copytree(trained.export, tmp_path / "export")
    return folder if request.param == "export" else folder / request.param


def test_every_form_has_the_same_features_and_can_be_trained(other, trained):
    images = all_of("test").arrays()[0].numpy()[:8].astype("float32")
    backbone = load_backbone(other)
    np.testing.assert_allclose(backbone(images), trained.encoder.features(images), atol=1e-5)
    statistics = {variable.path for variable in backbone.non_trainable_variables}
    assert len(backbone.trainable_variables) >= 24 and backbone.trainable
    classifier = keras.Sequential([backbone, keras.layers.Dense(10)])
    before = [np.array(variable) for variable in backbone.trainable_variables]
    classifier.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier.fit(images, np.arange(8), verbose=0)
    moved = [np.any(np.array(new) != old) for new, old in zip(backbone.trainable_variables, before, strict=True)]
    assert all(moved), statistics


@pytest.mark.parametrize("form", ["saved_model", "backbone.keras"])
def test_a_model_is_fine_tuned(form, trained, tmp_path):
    path, settings = str(trained.export / form), {"image_size": SIZE, "output": str(tmp_path), "pictures": False}
    settings |= {"epochs": 2, "batch_size": 64, "learning_rate": 0.4, "crop_min_area": 0.6, "dataset": "digits"}
    evaluate("finetune", EvaluationConfig(model=path, **settings))
    assert results(tmp_path)["other_data"]["digits"]["finetune_top1"] > 30
    classifier = keras.models.load_model(tmp_path / "classifier.keras", safe_mode=False)
    assert classifier.output_shape == (None, 10)


def test_a_model_is_evaluated_like_the_run(other, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate("knn", EvaluationConfig(workdir=str(run), features="backbone", pictures=False))
    evaluate(
        "knn",
        EvaluationConfig(model=str(other), dataset="digits", image_size=SIZE, features="backbone", pictures=False),
    )
    (folder,) = (tmp_path / "evaluation").iterdir()
    found = results(folder)
    assert found["model"] == str(other)
    assert found["other_data"]["digits"]["knn_backbone"] == results(run)["knn_backbone"]
    assert "knn top1 backbone" in (folder / "MODEL_CARD.md").read_text()


def test_a_folder_belongs_to_one_model(trained, tmp_path):
    settings = {"dataset": "digits", "image_size": SIZE, "output": str(tmp_path / "out"), "pictures": False}
    evaluate("embed", EvaluationConfig(model=str(trained.export), **settings))
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert refusal("embed", model=str(trained.export / "backbone.keras"), **settings) == (
        "`output` must be new, or hold evaluations of the same model. "
        f"Received: {tmp_path / 'out'}, with those of {trained.export} newest. Choose another --output."
    )
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_figures_on_other_images_stand_apart(run, tmp_path):
    for split, count in (("train", 6), ("test", 3)):
        for number in range(count):
            folder = tmp_path / "images" / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.full((12, 10), 30 * number + 20, "uint8")
            Image.fromarray(pixels).save(folder / f"{number}.png")
    dataset = f"folder:{tmp_path / 'images'}"
    before = results(run)
    evaluate("knn", EvaluationConfig(workdir=str(run), dataset=dataset, knn_k=(1,), pictures=False))
    found = results(run)
    others = found.pop("other_data")
    assert set(others[dataset]) == {"knn_top1_backbone", "knn_top1_embedding", "knn_backbone", "knn_embedding"}
    assert found == before
    assert f"On `{dataset}`:" in (run / "export" / "MODEL_CARD.md").read_text()

    evaluate("embed", EvaluationConfig(workdir=str(run), dataset=dataset, split="train"))
    kept = arrays(run / "evaluation" / "features_train.npz")
    assert [path[-7:] for path in kept["files"]] == ["a/0.png", "a/2.png", "a/4.png", "b/1.png", "b/3.png", "b/5.png"]


# The model card


def test_the_card_says_what_the_backbone_is(run):
    evaluate("logistic", EvaluationConfig(workdir=str(run)))
    card = (run / "export" / "MODEL_CARD.md").read_text()
    for text in (
        "float32 images `(n, height, width, 1)` with values in 0..255",
        "divided by 255, less 0.3, divided by 0.4",
        "| output | `(n, 32)` float32 features |",
        "`digits`, 1,437 images, without their labels",
        "| licence of the data | CC BY 4.0 (Alpaydin and Kaynak",
        "| steps | 22 |",
        "| queue_size | `512` |",
        f"| logistic top1 | {results(run)['logistic_top1']:g} |",
    ):
        assert text in card
    parameters = sum(np.prod(weight.shape) for weight in load_encoder(run).backbone.trainable_weights)
    assert f"| parameters | {parameters:,} |" in card


def test_the_licence_can_be_said(run):
    evaluate("logistic", EvaluationConfig(workdir=str(run), data_licence="MIT"))
    assert "| licence of the data | MIT |" in (run / "export" / "MODEL_CARD.md").read_text()


# Bad input, before any work


@pytest.fixture
def silent(monkeypatch):
    """Fails if anything is computed."""
    monkeypatch.setattr(FeatureExtractor, "extract", lambda *_: pytest.fail("features were extracted"))
    monkeypatch.setattr(tuned, "fine_tune", lambda *_, **__: pytest.fail("something was trained"))


def test_there_must_be_such_a_mode():
    assert refusal("fly", workdir="x").startswith(
        f"evaluate.py must be given one mode of {', '.join(MODES)}. Received: fly."
    )


@pytest.mark.parametrize(
    "settings, received", [({}, "workdir=None, model=None"), ({"workdir": "a", "model": "b"}, "workdir=a, model=b")]
)
def test_either_a_run_or_a_model_is_evaluated(settings, received):
    with pytest.raises(ValueError) as caught:
        EvaluationConfig(**settings)
    assert str(caught.value) == (
        f"Either a run or a model must be given to be evaluated. Received: {received}. Give --workdir or --model."
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"knn_k": (5, 0)}, "`knn_k` must be at least 1. Received: knn_k=5,0. Correct the flag --knn_k."),
        ({"fractions": (101.0,)}, "`fractions` must be in (0, 100]. Received: fractions=101.0. Correct the flag"),
        ({"rates": (0.0,)}, "`rates` must be positive. Received: rates=0.0. Correct the flag --rates."),
        ({"split": "val"}, "`split` must be train or test. Received: split='val'. Correct the flag --split."),
        ({"linear_on": "x"}, "`linear_on` must be images or features. Received: linear_on='x'."),
    ],
)
def test_settings_must_be_in_their_ranges(settings, message):
    with pytest.raises(ValueError) as caught:
        EvaluationConfig(workdir="x", **settings)
    assert str(caught.value).startswith(message)


def test_k_must_not_exceed_the_bank(run, silent):
    assert refusal("knn", workdir=str(run), knn_k=(5, 2000)) == (
        "`knn_k` must not exceed the number of training images, which vote. "
        "Received: knn_k=2000, 1437 images in digits. Lower --knn_k."
    )


def test_no_more_neighbours_than_images(run, silent):
    assert "Received: neighbours=2000, 1437 images." in refusal("retrieve", workdir=str(run), neighbours=2000)


@pytest.mark.parametrize("mode", ["knn", "linear", "logistic", "semi", "finetune"])
def test_labels_must_be_there(mode, run, silent, tmp_path):
    for number in range(8):
        (tmp_path / "flat").mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 9), number, "uint8")).save(tmp_path / "flat" / f"{number}.png")
    dataset = f"folder:{tmp_path / 'flat'}"
    before = results(run)
    assert refusal(mode, workdir=str(run), dataset=dataset, knn_k=(1,)) == (
        f"The data must have labels to be evaluated by them. Received: {dataset}, without labels. "
        "Give a folder with one sub-folder per class."
    )
    assert results(run) == before


@pytest.fixture
def folders(tmp_path):
    """Class folders by split: a function."""

    def made(**splits):
        for split, classes in splits.items():
            for name in classes:
                (tmp_path / "data" / split / name).mkdir(parents=True)
                Image.fromarray(np.zeros((9, 9), "uint8")).save(tmp_path / "data" / split / name / "0.png")
        return f"folder:{tmp_path / 'data'}"

    return made


def test_both_splits_must_have_the_same_classes(run, silent, folders):
    dataset = folders(train="abc", test="ab")
    assert refusal("knn", workdir=str(run), dataset=dataset, knn_k=(1,)) == (
        "Training and test images must have the same classes. Received: 3 classes (a, b, c); and 2 classes (a, b). "
        "Correct the folders."
    )


def test_a_share_of_the_labels_must_reach_every_class(run, silent, folders):
    dataset = folders(train="abc", test="abc")
    assert "Received: 1 % of 3 images, 0, for 3 classes. Raise the share." in refusal(
        "semi", workdir=str(run), dataset=dataset
    )


def test_an_exported_backbone_has_no_embedding(trained, silent, tmp_path):
    told = refusal("knn", model=str(trained.export), dataset="digits", features="embedding", output=str(tmp_path / "x"))
    assert told == (
        "An embedding needs a head, which an exported backbone does not have. "
        f"Received: --features=embedding for {trained.export}. Use --features=backbone."
    )
    assert not (tmp_path / "x").exists()


def test_a_saved_model_has_no_random_twin(trained, silent, tmp_path):
    path = trained.export / "saved_model"
    told = refusal("semi", model=str(path), dataset="digits", image_size=SIZE, output=str(tmp_path / "x"))
    assert told == (
        "The backbone must be of Keras layers to be compared with random weights. "
        "Received: backbone, out of a SavedModel. Give the .keras file that was exported beside it."
    )


def test_a_model_needs_images(trained, silent):
    assert refusal("knn", model=str(trained.export)) == (
        "A model must be given images to be evaluated on. "
        f"Received: {trained.export} without --dataset. Give one, such as --dataset=tfds:cifar10."
    )


def test_images_must_have_the_channels_of_the_encoder(run, silent, tmp_path):
    (tmp_path / "rgb").mkdir()
    Image.fromarray(np.zeros((9, 9, 3), "uint8")).save(tmp_path / "rgb" / "0.png")
    told = refusal("embed", workdir=str(run), dataset=f"folder:{tmp_path / 'rgb'}", split="train")
    assert told.startswith("Images must have as many channels as the encoder takes. Received: ")
    assert told.endswith(f"of 3 channel(s) for {run} of 1. Evaluate it on other images.")


def test_an_encoder_of_one_size_takes_no_other(run, silent):
    assert refusal("knn", workdir=str(run), image_size=16).endswith(
        f"Received: image_size=16 for {run} of {SIZE}. Leave --image_size out."
    )


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("nothing", None, "A backbone must exist. Received: {}. Give the folder of a run, a .keras file, "),
        ("x.h5", b"x", "A backbone must be the folder of a run, a .keras file, the folder of a SavedModel, or a .pth"),
        ("x.keras", b"x", "A .keras file must be one of Keras's. Received: {}, and Keras says: "),
    ],
)
def test_what_holds_no_backbone(name, content, message, tmp_path):
    path = tmp_path / name
    if content:
        path.write_bytes(content)
    assert refusal("knn", model=str(path), dataset="digits").startswith(message.format(path))


def test_a_model_of_maps_is_no_backbone(tmp_path):
    images = keras.Input((8, 8, 1))
    keras.Model(images, keras.layers.Conv2D(2, 3)(images)).save(tmp_path / "maps.keras")
    told = refusal("knn", model=str(tmp_path / "maps.keras"), dataset="digits")
    assert told.startswith("A backbone must give one vector of features for each image, (n, F). Received: ")


# Which checkpoint


@pytest.fixture
def several(run):
    """The run with three checkpoints; the second one was the best."""
    _, model = load_model(run)
    expected = {0: np.array(model.encoder.weights[0])}
    for epoch in (1, 2):
        model.step.assign(11 * epoch)
        model.encoder.weights[0].assign_add(np.ones(model.encoder.weights[0].shape))
        log = {0: {"knn_top1": 80.0}, 1: {"knn_top1": 70.0}}
        save(model, run / "checkpoints", epoch=epoch, log={number: log[number] for number in range(epoch)})
        expected[11 * epoch] = np.array(model.encoder.weights[0])
    return SimpleNamespace(path=run, expected=expected)


@pytest.mark.parametrize("checkpoint, step", [("newest", 22), ("best", 11), ("0", 0), ("22", 22)])
def test_any_checkpoint_can_be_evaluated(checkpoint, step, several):
    encoder = load_encoder(several.path, checkpoint=checkpoint)
    np.testing.assert_array_equal(encoder.weights[0], several.expected[step])


def test_figures_of_an_older_checkpoint_stand_apart(several):
    before = results(several.path)
    evaluate("embed", EvaluationConfig(workdir=str(several.path), checkpoint="best"))
    assert results(several.path) == before
    folder = several.path / "evaluation" / "best"
    assert {path.name for path in folder.iterdir()} == {"features_test.npz", "results.json", "MODEL_CARD.md"}


@pytest.mark.parametrize("checkpoint", ["7", "last"])
def test_a_checkpoint_must_be_there(checkpoint, several, silent):
    assert refusal("knn", workdir=str(several.path), checkpoint=checkpoint) == (
        "`checkpoint` must be newest, best (where knn_top1 was measured) or a step that is saved, of 0, 11, 22. "
        f"Received: {checkpoint}, in {several.path / 'checkpoints'}. Choose one of them."
    )


def test_the_best_checkpoint_must_have_been_measured(run, silent):
    assert "Received: best, in " in refusal("knn", workdir=str(run), checkpoint="best")
