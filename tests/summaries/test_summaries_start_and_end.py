"""What a run shows at its start and at its end, and that none of it can stop the run."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops
from PIL import Image

from keras_moco.augment import moco_cifar
from keras_moco.config import Config
from keras_moco.data import array_source, open_source
from keras_moco.evaluation import nearest_neighbours
from keras_moco.runs.directory import RunDirectory
from keras_moco.runs.plan import Plan
from keras_moco.summaries import start_and_end
from keras_moco.summaries.projector import CopyingExtractor, embed_images
from keras_moco.summaries.start_and_end import show_end, show_start

CONFIG = Config(dataset="digits", image_size=8, knn_features="backbone", batch_size=64, queue_size=64, bn_splits=1)
PLAN = Plan(CONFIG, 1437, 1, 1)
PIXELS = SimpleNamespace(features=lambda images: ops.reshape(images, (-1, 64)))  # what pixels alone make of images
COLLAPSED = SimpleNamespace(features=lambda images: ops.ones((ops.shape(images)[0], 4)))
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), dtype="uint8")


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    return run


@pytest.fixture
def drawn(monkeypatch):
    """What is to be drawn, by name: neighbours, and the labels of the map, whose t-SNE takes its time."""
    drawn = {}

    def draw(path, queries, neighbours, similarity, **known):
        drawn.update(queries=queries, neighbours=neighbours, similarity=similarity, **known)

    monkeypatch.setattr(start_and_end, "draw_neighbours", draw)
    monkeypatch.setattr(start_and_end, "draw_projection", lambda _, features, labels, *__: drawn.update(labels=labels))
    return drawn


def test_test_images_are_shown_with_the_training_images_most_similar_to_them(run, drawn):
    train, test = open_source("digits"), open_source("digits", "test")
    show_end(run, CONFIG, PIXELS, train, test)
    bank, queries = (source.arrays()[0].numpy().reshape(-1, 64).astype("float32") for source in (train, test))
    rows = [row for row, image in enumerate(queries) for query in drawn["queries"] if (image == query.ravel()).all()]
    assert len(rows) == 6 and rows == sorted(rows) and rows[0] == 0 and rows[-1] == 359
    expected = nearest_neighbours(bank, queries[rows], 7)
    np.testing.assert_allclose(drawn["similarity"], expected.similarity, rtol=1e-5)
    np.testing.assert_array_equal(drawn["neighbours"].reshape(6, 7, 64), bank[expected.rows])
    np.testing.assert_array_equal(drawn["query_labels"], test.labels()[rows])
    np.testing.assert_array_equal(drawn["neighbour_labels"], train.labels()[expected.rows])
    assert drawn["class_names"] == train.class_names
    assert drawn["query_names"] == [f"image {row}" for row in rows]
    assert drawn["neighbour_names"] == [[f"image {row}" for row in line] for line in expected.rows]
    np.testing.assert_array_equal(drawn["labels"], test.labels())
    assert (run.events / "features.tsv").read_text().count("\n") == 360


def test_without_tensorboard_only_the_picture_files_are_written(run, drawn):
    config = dataclasses.replace(CONFIG, log_to=("csv",))
    show_start(run, Plan(config, 1437, 1, 1), open_source("digits"), moco_cifar(8), ("query", "key"))
    show_end(run, config, PIXELS, array_source(IMAGES))
    assert run.views.exists() and drawn and not run.tensorboard.exists()
    assert "tensorboard --logdir" not in start_and_end.closing_lines(run, {})


def test_without_test_images_no_image_is_its_own_neighbour(run, drawn):
    show_end(run, CONFIG, PIXELS, array_source(IMAGES))
    assert drawn["similarity"].shape == (6, 7) and drawn["similarity"].max() < 0.999
    assert "query_labels" not in drawn and (drawn["labels"] == -1).all()
    assert (run.events / "labels.tsv").read_text().split() == list(map(str, range(30)))


def test_points_keep_their_indices_if_an_image_is_unreadable(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(8):
        Image.fromarray(np.full((8, 8), 30 * number, "uint8")).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "3.png").write_bytes(b"damaged")
    images = open_source(f"folder:{tmp_path / 'images'}", max_bad_fraction=0.3)
    seen = embed_images(images, CopyingExtractor(PIXELS.features), 8, 100)
    np.testing.assert_array_equal(seen.index, [0, 1, 2, 4, 5, 6, 7])
    np.testing.assert_array_equal(seen.images[:, 0, 0, 0], 30 * seen.index)
    np.testing.assert_array_equal(seen.features[:, 0], 30 * seen.index)
    assert seen.paths() == [images.files[index] for index in (0, 1, 2, 4, 5, 6, 7)]
    assert seen.at([4]).paths() == [images.files[5]]


def test_the_number_of_images_is_limited(run, drawn, monkeypatch):
    monkeypatch.setattr(start_and_end, "draw_neighbours_of", lambda _, queries, others, __: drawn.update(others=others))
    monkeypatch.setattr(start_and_end, "REFERENCES", 100)
    monkeypatch.setattr(start_and_end, "SHOWN", 40)
    show_end(run, CONFIG, PIXELS, open_source("digits"), open_source("digits", "test"))
    assert (len(drawn["others"].labels), len(drawn["labels"])) == (100, 40)
    assert len(np.unique(drawn["labels"])) == 10  # not those of the first classes


def test_what_cannot_be_drawn_is_reported_and_the_rest_is_written(run, capsys):
    """A projection of identical features, and a plot whose path is a folder."""
    run.neighbours.mkdir()
    show_end(run, CONFIG, COLLAPSED, array_source(IMAGES))
    first, second = capsys.readouterr().out.splitlines()
    assert f"{run.neighbours} was not written (" in first
    assert second.startswith(f"note: {run.embedding} is not drawn")
    assert not run.embedding.exists() and (run.events / "projector_config.pbtxt").exists()
    assert list(run.path.rglob(".*")) == []


def test_few_images_have_neither_neighbours_nor_a_projection(run, capsys):
    show_end(run, CONFIG, PIXELS, array_source(IMAGES[:3]))
    assert re.fullmatch(rf"note: {run.embedding} is not drawn.*\(3, 64\)\n", capsys.readouterr().out)
    assert not run.neighbours.exists() and (run.events / "features.tsv").exists()


def test_bug_in_a_plot_is_not_hidden(run, monkeypatch):
    monkeypatch.setattr(start_and_end, "draw_neighbours", lambda *_, **__: [].index("no such thing"))
    with pytest.raises(ValueError, match="no such thing|not in list"):
        show_end(run, CONFIG, PIXELS, array_source(IMAGES))


def test_a_run_that_can_write_nothing_only_reports_it(run, drawn, capsys, monkeypatch):
    monkeypatch.setattr(start_and_end, "first_views", lambda *_: ([IMAGES[:8]] * 2, range(8)))
    run.path.rmdir()
    run.path.write_text("a file where the folder was")
    show_start(run, PLAN, open_source("digits"), moco_cifar(8), ("query", "key"))
    show_end(run, CONFIG, PIXELS, array_source(IMAGES))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("warning: ") for line in lines)
    assert run.path.read_text() == "a file where the folder was"


def test_views_are_drawn_once_in_the_life_of_a_run_and_settings_at_each_start(run):
    settings, inodes = run.events / "events.out.tfevents.0.settings.whole", []
    for _ in range(2):
        show_start(run, PLAN, open_source("digits"), moco_cifar(8), ("query", "index"))
        inodes.append((settings.stat().st_ino, run.views.stat().st_ino))  # a file that is replaced has another one
    assert inodes[0][0] != inodes[1][0] and inodes[0][1] == inodes[1][1]
    with Image.open(run.views) as picture:
        assert picture.size == (8 * 96 + 7 * 4, 96 + 16)  # queries alone, and their names
