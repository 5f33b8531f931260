"""The evaluations of evaluate.py, on a finished run."""

import csv
import dataclasses
import json
import os

import keras
import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from keras_moco.commands.evaluate import evaluate
from keras_moco.config import EvaluationConfig
from keras_moco.data import open_source, pretrain_dataset
from keras_moco.evaluation import (
    accuracy_of,
    export,
    knn,
    knn_accuracy,
    linear_accuracy,
    representation_measures,
    retrieve,
    semi,
    target,
    unfinished,
)
from keras_moco.networks import Encoder, linear_head
from keras_moco.runs.build import build_augmentation
from keras_moco.runs.directory import RunDirectory
from tests.evaluation.finished_run import SIZE, digits, refusal, results, train_on, write_images

ONE_IMAGE = 100 / 360  # percent; rounding, which differs between processors, may decide a close vote


def test_knn_votes_for_every_k_and_temperature(run, features, capsys, monkeypatch):
    maps = {}  # t-SNE takes seconds
    monkeypatch.setattr(knn, "draw_projection", lambda path, rows, labels, *_, **__: maps.update({path.name: rows}))
    settings = {"knn_k": (5, 200), "knn_temperature": (0.002, 0.5), "features": "backbone"}
    evaluate("knn", EvaluationConfig(workdir=str(run), **settings))
    found = results(run)
    train, test = features["train"], features["test"]
    for k in (5, 200):
        for temperature in (0.002, 0.5):
            expected = knn_accuracy(*train[:2], *test[:2], 10, k=k, temperature=temperature)
            assert found["knn_backbone"][f"k={k}, temperature={temperature}"] == pytest.approx(expected, abs=ONE_IMAGE)
    assert len({tuple(pair) for pair in found["knn_backbone"].values()}) > 2
    assert found["knn_top1_backbone"] == found["knn_backbone"]["k=5, temperature=0.002"][0]
    assert matplotlib.image.imread(run / "evaluation" / "confusion_knn_backbone.png").shape[0] > 200
    assert {name: rows.shape for name, rows in maps.items()} == {"projection_backbone.png": (360, 8)}
    assert found["steps"] == 22 and "knn_top1_embedding" not in found  # earlier results stay
    assert f"{found['knn_top1_backbone']:.2f} %" in capsys.readouterr().out


def test_default_k_follows_from_the_data(run, features, capsys):
    evaluate("knn", EvaluationConfig(workdir=str(run), features="backbone", pictures=False))
    train, test = features["train"], features["test"]
    k = np.bincount(train.labels).min() - 1  # less than 143, a tenth
    expected = knn_accuracy(*train[:2], *test[:2], 10, k=k)
    assert results(run)["knn_backbone"] == {f"k={k}, temperature=0.1": pytest.approx(expected, abs=ONE_IMAGE)}
    assert f"note: --knn_k was not given; {k} " in capsys.readouterr().out


class Count(keras.layers.Layer):
    """Counts the images that pass."""

    def build(self, shape):
        self.seen = self.add_weight((), "zeros", dtype="int32", trainable=False)

    def call(self, images):
        self.seen.assign_add(keras.ops.shape(images)[0])
        return images


@pytest.mark.parametrize("mode, images", [("knn", 1437 + 360), ("measures", 2 * 256)])  # views of one batch of 256
def test_backbone_sees_each_image_once_for_both_levels(mode, images, run, monkeypatch):
    count = Count()
    backbone = keras.Sequential([keras.Input((SIZE, SIZE, 1)), count, keras.layers.Flatten()])
    encoder = Encoder(backbone, linear_head(SIZE * SIZE, 4), mean=0.3, std=0.4)
    monkeypatch.setattr(target, "open_trained_encoder", lambda *_: (encoder, 0))
    count.seen.assign(0)
    settings = {"pictures": False, "knn_k": (9,)} if mode == "knn" else {}
    evaluate(mode, EvaluationConfig(workdir=str(run), **settings))
    assert int(count.seen) == images
    if mode == "knn":  # scikit-learn, of each level alone
        (bank, bank_labels), (queries, labels) = digits("train"), digits("test")
        neighbours = KNeighborsClassifier(9, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
        for level, embed in (("backbone", encoder.features), ("embedding", encoder)):
            bank_features, features = (np.array(embed(part.astype("float32"))) for part in (bank, queries))
            expected = 100 * neighbours.fit(bank_features, bank_labels).score(features, labels)
            assert results(run)[f"knn_top1_{level}"] == pytest.approx(expected, abs=2 * ONE_IMAGE)


@pytest.mark.slow
@pytest.mark.parametrize("on", ["features", pytest.param("images", marks=pytest.mark.slow)])
def test_linear_trains_all_rates_and_not_the_encoder(on, run, capsys):
    rates, epochs = {"features": ((0.01, 30.0), 4), "images": ((30.0,), 8)}[on]
    settings = {"linear_on": on, "rates": rates, "epochs": epochs, "batch_size": 64}
    settings |= {"crop_min_area": 0.6} if on == "images" else {}
    evaluate("linear", EvaluationConfig(workdir=str(run), **settings))
    found = results(run)
    assert found["linear_rate"] == 30.0 and found["linear_on"] == on
    assert list(found["linear_rates"]) == [f"{rate:g}" for rate in rates]
    assert found["linear_rates"]["30"] == [found["linear_top1"], found["linear_top5"]]
    assert 16 < found["linear_top1"] < found["linear_top5"] <= 100  # chance is 10, give or take 1.6
    assert f"{found['linear_top1']:.2f} %" in capsys.readouterr().out
    assert [path.name for path in (run / "evaluation").iterdir()] == ["confusion_linear.png"]


@pytest.mark.slow
def test_logistic_is_on_the_card_with_what_the_backbone_is(run, trained, features):
    evaluate("logistic", EvaluationConfig(workdir=str(run)))
    found = results(run)
    # Three images: the solver amplifies the rounding of features.
    assert found["logistic_top1"] == pytest.approx(linear_accuracy(*features.values()).accuracy, abs=3 * ONE_IMAGE)
    assert 40 < found["logistic_top1"] <= 100
    card = (run / "export" / "MODEL_CARD.md").read_text()
    parameters = sum(np.prod(weight.shape) for weight in trained.encoder.backbone.trainable_weights)
    accuracy = f"| logistic top1 | {found['logistic_top1']:g} |"
    for text in (f"| parameters | {parameters:,} |", "`digits`, 1,437 images", "| queue_size | `500` |", accuracy):
        assert text in card, text


@pytest.mark.slow
def test_semi_compares_shares_of_the_labels_and_random_weights(trained, tmp_path, capsys, monkeypatch):
    """The training itself is replaced; what is trained on, recorded and kept is checked."""
    seen = []

    def fine_tune(backbone, train, size, **settings):
        seen.append((train.num_examples, settings["seed"], float(np.sum(np.abs(backbone.weights[0])))))

    monkeypatch.setattr(semi, "fine_tune", fine_tune)
    monkeypatch.setattr(semi, "predict_labelled", lambda *_: (np.eye(10)[[0, 1, 2, len(seen) % 10]], np.arange(4)))
    settings = {"model": str(trained.export), "dataset": "digits", "image_size": SIZE, "output": str(tmp_path)}
    settings |= {"fractions": (2.0, 10.0), "seeds": 2, "epochs": 1, "batch_size": 64, "learning_rate": 0.4}
    evaluate("semi", EvaluationConfig(**settings))

    def recorded():
        return results(tmp_path)["other_data"]["digits"]["semi"]

    found = recorded()
    for share in ("2 %", "10 %"):
        assert [len(found[share][name]) for name in ("pre-trained", "random weights")] == [2, 2]
    assert found["2 %"]["pre-trained"] == [75, 75] and found["2 %"]["random weights"] == [100, 75]
    assert [(count, seed) for count, seed, _ in seen] == [(29, 0), (29, 1)] * 2 + [(144, 0), (144, 1)] * 2
    weights = [weight for *_, weight in seen]
    assert weights[0] == weights[1] == weights[4] and len(set(weights)) == 3  # one pre-trained, random ones by seed
    text = f"87.50 +- {np.std([100, 75], ddof=1):.2f} %, 2 seeds"
    assert f"random weights: top-1 {text}" in capsys.readouterr().out
    assert f"| semi, 2 %, random weights | {text} |" in (tmp_path / "MODEL_CARD.md").read_text()
    assert (tmp_path / "label_fractions.png").exists()

    # Results of an interrupted evaluation are kept, but only with the same settings.
    stopped = results(tmp_path)
    del stopped["other_data"]["digits"]["semi"]["10 %"]["random weights"][1:]
    (tmp_path / "results.json").write_text(json.dumps(stopped))
    seen.clear()
    evaluate("semi", EvaluationConfig(**settings))
    assert [(count, seed) for count, seed, _ in seen] == [(144, 1)]
    seen.clear()
    evaluate("semi", EvaluationConfig(**settings | {"learning_rate": 0.2, "fractions": (2,), "random_weights": False}))
    assert len(seen) == 2 and set(recorded()["2 %"]) == {"settings", "pre-trained"}
    assert set(recorded()["10 %"]) == set(found["10 %"])


@pytest.mark.slow
def test_semi_learns_from_few_labels(run):
    settings = {"fractions": (10.0,), "seeds": 1, "epochs": 20, "batch_size": 16, "learning_rate": 0.8}
    evaluate("semi", EvaluationConfig(workdir=str(run), crop_min_area=0.6, **settings))
    found = results(run)["semi"]["10 %"]
    assert min(found["pre-trained"] + found["random weights"]) > 20  # chance is 10, give or take 1.6


@pytest.mark.slow
def test_finetune_saves_a_classifier(run, capsys):
    settings = {"epochs": 2, "batch_size": 64, "learning_rate": 1.6, "crop_min_area": 0.6}
    evaluate("finetune", EvaluationConfig(workdir=str(run), **settings))
    path = run / "evaluation" / "classifier.keras"
    images, labels = digits("test")
    top1 = accuracy_of(keras.models.load_model(path).predict(images.astype("float32"), verbose=0), labels).top1
    assert results(run)["finetune_top1"] == pytest.approx(top1, abs=ONE_IMAGE) and top1 > 16
    assert str(path) in capsys.readouterr().out
    assert {file.name for file in path.parent.iterdir()} == {"classifier.keras", "confusion_finetune.png"}


@pytest.mark.slow
@pytest.mark.parametrize("mode, file", [("finetune", "classifier.keras"), ("semi", "label_fractions.png")])
def test_interrupted_run_resumes_unless_the_encoder_has_changed(mode, file, run, monkeypatch):
    settings = {"epochs": 3, "batch_size": 128, "pictures": mode == "semi"}
    settings |= {"fractions": (100.0,), "seeds": 1, "random_weights": False} if mode == "semi" else {}
    config = EvaluationConfig(workdir=str(run), **settings)
    epochs, folder = [], run / "evaluation"

    def on_epoch_begin(callback, epoch, logs=None):
        epochs.append((epoch, int(callback.model.optimizer.iterations)))
        if len(epochs) in (3, 6):
            raise KeyboardInterrupt

    monkeypatch.setattr(unfinished, "SHARE", 1.0)
    monkeypatch.setattr(unfinished.Unfinished, "on_epoch_begin", on_epoch_begin)
    with pytest.raises(KeyboardInterrupt):
        evaluate(mode, config)
    (left,) = folder.iterdir()
    with pytest.raises(KeyboardInterrupt):
        evaluate(mode, dataclasses.replace(config, learning_rate=0.2))  # other settings: a second file
    assert epochs[3:] == [(0, 0), (1, 11), (2, 22)] and len(list(folder.iterdir())) == 2
    evaluate(mode, config)
    assert epochs[6:] == [(2, 22)] and file in os.listdir(folder) and not left.exists()

    evaluate(mode, config)
    known = epochs[7:]
    assert known == ([] if mode == "semi" else [(0, 0), (1, 11), (2, 22)])
    train_on(run)
    evaluate(mode, config)
    assert epochs[7 + len(known) :] == [(0, 0), (1, 11), (2, 22)]
    assert os.listdir(folder) == [file] or set(os.listdir(folder)) == {file, "confusion_finetune.png"}


@pytest.mark.slow
def test_retrieve_finds_the_most_similar_training_images(run, features, monkeypatch):
    drawn = {}
    real = retrieve.draw_neighbours

    def watched(path, queries, neighbours, similarity, **known):
        drawn.update(queries=queries, neighbours=neighbours, similarity=similarity, **known)
        real(path, queries, neighbours, similarity, **known)

    monkeypatch.setattr(retrieve, "draw_neighbours", watched)
    evaluate("retrieve", EvaluationConfig(workdir=str(run), queries=("7", "300", "3"), neighbours=4))
    (images, labels), (queries, query_labels) = digits("train"), digits("test")
    unit = {name: normalize(rows.features) for name, rows in features.items()}
    best = np.sort(unit["test"][[7, 300, 3]] @ unit["train"].T)[:, ::-1][:, :4]
    np.testing.assert_allclose(drawn["similarity"], best, atol=1e-5)
    for row, query in enumerate([7, 300, 3]):
        np.testing.assert_array_equal(drawn["queries"][row], queries[query])
        assert drawn["query_labels"][row] == query_labels[query]
        for column in range(4):
            (place,) = np.flatnonzero((images == drawn["neighbours"][row, column]).all(axis=(1, 2, 3)))
            assert unit["test"][query] @ unit["train"][place] == pytest.approx(best[row, column], abs=1e-5)
            assert drawn["neighbour_labels"][row, column] == labels[place]
    assert (run / "evaluation" / "neighbours.png").exists()

    # An image of a file is found by itself.
    Image.fromarray(images[100, ..., 0]).save(run / "some.png")
    evaluate("retrieve", EvaluationConfig(workdir=str(run), queries=(str(run / "some.png"),), neighbours=2))
    np.testing.assert_array_equal(drawn["neighbours"][0, 0], images[100])
    assert drawn["similarity"][0, 0] == pytest.approx(1, abs=1e-5)


def test_images_after_an_unreadable_one_keep_their_numbers(tmp_path, monkeypatch):
    """Images of one colour each, which is their only feature; number 50 of 101 is damaged."""
    angles = np.linspace(0, 1, 101) ** 1.5 * np.pi / 2  # uneven, so that no two neighbours are at the same distance
    colors = np.round(np.stack([250 * np.cos(angles), 250 * np.sin(angles), 40 + 0 * angles], axis=1)).astype("uint8")
    names = [f"{'ab'[number >= 60]}/{number:03}.png" for number in range(101)]
    for name, color in zip(names, colors, strict=True):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.broadcast_to(color, (6, 7, 3))).save(tmp_path / "images" / name)
    (tmp_path / "images" / names[50]).write_bytes(b"damaged")
    images = keras.Input((None, None, 3))
    model, folder = str(tmp_path / "colour.keras"), f"folder:{tmp_path / 'images'}"
    keras.Model(images, keras.layers.GlobalAveragePooling2D()(images)).save(model)
    drawn = {}
    monkeypatch.setattr(retrieve, "draw_neighbours", lambda _, *parts, **known: drawn.update(parts=parts, **known))
    settings = {"model": model, "dataset": folder, "image_size": 4, "split": "train", "output": str(tmp_path / "out")}

    evaluate("retrieve", EvaluationConfig(**settings, queries=("70", "3", "100", "59"), neighbours=3))
    queries, neighbours, _ = drawn["parts"]
    np.testing.assert_array_equal(queries[:, 0, 0], colors[[70, 3, 100, 59]])
    unit = normalize(colors.astype("float64"))
    similarity = unit[[70, 3, 100, 59]] @ np.delete(unit, 50, axis=0).T
    expected = np.delete(np.arange(101), 50)[np.argsort(-similarity, axis=1)[:, :3]]
    np.testing.assert_array_equal(neighbours[:, :, 0, 0], colors[expected])
    np.testing.assert_array_equal(drawn["neighbour_labels"], expected >= 60)
    np.testing.assert_array_equal(drawn["query_labels"], [1, 0, 1, 0])
    assert drawn["query_names"] == ["070.png", "003.png", "100.png", "059.png"]
    assert drawn["neighbour_names"] == [[f"{number:03}.png" for number in row] for row in expected]

    with open(tmp_path / "out" / "neighbours.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["query", "rank", "index", "file", "label", "class", "cosine similarity"]
    for line, (row, column) in zip(table, np.ndindex(expected.shape), strict=True):
        number = expected[row, column]
        assert line["query"] == str(tmp_path / "images" / names[[70, 3, 100, 59][row]])
        assert (line["rank"], line["index"]) == (str(column + 1), str(number))
        assert line["file"] == str(tmp_path / "images" / names[number])
        assert (line["label"], line["class"]) == (("1", "b") if number >= 60 else ("0", "a"))
        cosine = unit[[70, 3, 100, 59][row]] @ unit[number]
        assert float(line["cosine similarity"]) == pytest.approx(cosine, abs=1e-5)

    evaluate("embed", EvaluationConfig(**settings))
    with np.load(tmp_path / "out" / "features_train.npz") as found:
        assert found["files"].tolist() == [str(tmp_path / "images" / name) for name in np.delete(names, 50)]
        assert found["class_names"].tolist() == ["a", "b"]
        assert found["index"].tolist() == [*range(50), *range(51, 101)]
        np.testing.assert_array_equal(found["labels"], found["index"] >= 60)
        np.testing.assert_allclose(found["features"], np.delete(colors, 50, axis=0), atol=1e-3)


@pytest.mark.slow
def test_names_that_are_not_utf8_are_kept(tmp_path, figures):
    """As the bytes that the files have on the disk; in a picture they are escaped."""
    names = [b'caf\xe9/2, "\n.png', b"caf\xe9/\xff1.png", "\N{CAT FACE}/3.png".encode()]
    root = os.fsencode(tmp_path / "images")
    for number, name in enumerate(names):
        os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
        Image.new("RGB", (4, 4), (50 * number, 90, 200)).save(tmp_path / "some.png")
        os.replace(tmp_path / "some.png", os.path.join(root, name))
    images = keras.Input((None, None, 3))
    keras.Model(images, keras.layers.GlobalAveragePooling2D()(images)).save(tmp_path / "colour.keras")
    settings = {"model": str(tmp_path / "colour.keras"), "dataset": f"folder:{tmp_path / 'images'}", "image_size": 4}
    settings |= {"split": "train", "output": str(tmp_path / "out")}
    evaluate("retrieve", EvaluationConfig(**settings, queries=("0", "1", "2"), neighbours=1))
    evaluate("embed", EvaluationConfig(**settings))
    with open(tmp_path / "out" / "neighbours.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = [[line["query"], line["file"], line["class"]] for line in csv.DictReader(file)]
    files = [os.path.join(root, name) for name in names]
    assert [list(map(os.fsencode, line)) for line in table] == [
        [file, file, name.split(b"/")[0].decode(errors="backslashreplace").encode()]
        for file, name in zip(files, names, strict=True)
    ]
    with np.load(tmp_path / "out" / "features_train.npz") as found:
        assert list(map(os.fsencode, found["files"].tolist())) == files
        assert list(map(os.fsencode, found["class_names"].tolist())) == [rb"caf\xe9", names[2].split(b"/")[0]]
    figures[0].draw_without_rendering()
    assert [text.get_text() for text in figures[0].axes[2].texts] == [r"caf\xe9", r"\udcff1.png"]


def test_unreadable_query_is_refused(run, tmp_path):
    dataset = write_images(tmp_path / "images", *(f"train/a/{number}.png" for number in range(9)))
    folder = tmp_path / "images" / "train" / "a"
    damaged = {4: (b"damaged", "of no known format"), 6: (b"", "an empty file")}
    for number, (content, _) in damaged.items():
        (folder / f"{number}.png").write_bytes(content)
    settings = {"workdir": str(run), "dataset": dataset, "split": "train", "neighbours": 2}
    named = "; ".join(f"{number}, {folder}/{number}.png ({reason})" for number, (_, reason) in damaged.items())
    assert f"Received: {named} in {dataset} (train). " in refusal("retrieve", **settings, queries=tuple("3456"))
    assert f"{named.split(';')[0]} in " in refusal("retrieve", **settings, queries=("4",))
    files = tuple(str(folder / f"{number}.png") for number in (3, 4))
    assert f"Received: {files[1]} (of no known format). " in refusal("retrieve", **settings, queries=files)


def test_embed_writes_features_with_labels_and_files(run, trained, features, capsys):
    evaluate("embed", EvaluationConfig(workdir=str(run), features="embedding"))
    with np.load(run / "evaluation" / "features_test.npz") as found:
        assert set(found) == {"features", "labels", "index", "class_names"}
        assert found["class_names"].tolist() == list("0123456789")
        expected = trained.encoder(digits("test")[0].astype("float32"))
        np.testing.assert_allclose(found["features"], expected, atol=1e-5)  # unit vectors in float32
        np.testing.assert_array_equal(found["labels"], features["test"].labels)
        np.testing.assert_array_equal(found["index"], np.arange(360))
    assert "360 x 16 features of digits (test)" in capsys.readouterr().out


@pytest.mark.slow
def test_measures_are_those_of_two_views(run, trained):
    for split in ("test", "train"):
        settings = {"split": split, "seed": 3, "features": "embedding", "data_licence": "MIT"}
        evaluate("measures", EvaluationConfig(workdir=str(run), **settings))
    assert results(run)["measures_train_embedding"] != results(run)["measures_test_embedding"]
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread may take a minute to end when the iterator is disposed of
    augmentation = build_augmentation(RunDirectory(run).config())
    pairs = pretrain_dataset(open_source("digits", "test"), augmentation, 256, seed=3)
    (pair,) = pairs.take(1).with_options(options)
    expected = representation_measures(*(np.array(trained.encoder(pair[name])) for name in ("query", "key")))
    for name, value in expected._asdict().items():
        assert results(run)["measures_test_embedding"][name] == pytest.approx(value, rel=1e-3, abs=1e-4)
    assert "| licence of the data | MIT |" in (run / "export" / "MODEL_CARD.md").read_text()


def test_export_writes_the_backbone_again(run, trained):
    images = digits("test")[0][:8].astype("float32")
    for path in (run / "export").glob("*.keras"):
        path.unlink()
    evaluate("export", EvaluationConfig(workdir=str(run)))
    backbone = keras.models.load_model(run / "export" / "backbone.keras")
    np.testing.assert_allclose(backbone(images), trained.encoder.features(images), atol=1e-5)
    assert (run / "export" / "saved_model" / "saved_model.pb").exists()


def test_a_backbone_without_a_head_is_exported(trained, tmp_path):
    settings = {"model": str(trained.export / "backbone.keras"), "output": str(tmp_path / "out")}
    evaluate("export", EvaluationConfig(**settings))
    images = digits("test")[0][:8].astype("float32")
    expected = trained.encoder.features(images)
    again = keras.models.load_model(tmp_path / "out" / "backbone.keras")
    np.testing.assert_allclose(again(images), expected, atol=1e-5)
    loaded = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))
    served = loaded.serve(images)
    np.testing.assert_allclose(served, expected, atol=1e-5)


# Where results are stored


def test_card_lists_recorded_facts_and_opens_no_data(run, monkeypatch):
    monkeypatch.setattr(target.data, "open_source", lambda *_, **__: pytest.fail("a data set was opened"))
    monkeypatch.setattr(export, "export_backbone", lambda encoder, folder, value_range: folder)
    flags = RunDirectory(run).flagfile
    flags.write_text(flags.read_text().replace("--train_examples=1437\n", "--train_examples=1234\n"))
    for recorded, data, licence in (
        ({}, "1,234 images", "not recorded; look it up"),
        ({"train_examples": 9876, "train_licence": None}, "9,876 images", "not stated by the data set; look it up"),
        ({"train_licence": "CC BY 4.0"}, "9,876 images", "CC BY 4.0 |"),
        ({"data_licence": "MIT"}, "9,876 images", "MIT |"),  # looked up by a person
    ):
        RunDirectory(run).results.record(**recorded)
        evaluate("export", EvaluationConfig(workdir=str(run)))
        card = (run / "export" / "MODEL_CARD.md").read_text()
        assert f"| data | `digits`, {data}, without their labels |" in card
        assert f"| licence of the data | {licence}" in card


@pytest.mark.slow
def test_results_on_other_images_are_stored_apart(run, tmp_path):
    dataset = write_images(
        tmp_path / "images",
        *(f"train/{'ab'[number % 2]}/{number}.png" for number in range(6)),
        *(f"test/{'ab'[number % 2]}/{number}.png" for number in range(3)),
    )
    before = results(run)
    evaluate("knn", EvaluationConfig(workdir=str(run), dataset=dataset, knn_k=(1,), pictures=False))
    found = results(run)
    others = found.pop("other_data")
    metrics = {"knn_top1_backbone", "knn_top1_embedding", "knn_backbone", "knn_embedding"}
    assert set(others[dataset]) == {*metrics, "checkpoints"}
    assert found == before
    assert dataset in (run / "export" / "MODEL_CARD.md").read_text()
    assert not (run / "evaluation").exists()  # no pictures


def test_projection_of_too_few_images_is_skipped(run, tmp_path, capsys):
    names = [f"{split}/{name}.png" for split in ("train", "test") for name in ("a/0", "a/1", "b/0")]
    evaluate("knn", EvaluationConfig(workdir=str(run), dataset=write_images(tmp_path / "images", *names)))
    out = capsys.readouterr().out
    assert [f"projection_{level}.png is not drawn" in out for level in ("backbone", "embedding")] == [True, True]
    assert (run / "evaluation" / "confusion_knn_embedding.png").exists()
