"""Plots of an evaluation: their contents, and, with `DRAW`, that they are written."""

import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import cbook
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits

from keras_moco.evaluation import draw_confusion, draw_label_fractions, draw_neighbours, draw_projection

DIGITS = load_digits()
IMAGES = np.round(DIGITS.images * 255 / 16).astype("uint8")[..., None]
NAMES = tuple("0123456789")
RESULTS = {"fine-tuned": {0.1: [83.0, 84.0, 85.5], 0.01: [70.0, 72.0], 1: [90.0]}, "from scratch": {0.1: [60.0, 50.0]}}


def texts_of(labels):
    return [label.get_text() for label in labels]


def size(path):
    """Width and height of a PNG file of more than one colour."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 5
        return picture.size


def neighbours_of_digits(rows=3, columns=4):
    """Of the first digits among the next hundred: arguments of `draw_neighbours`."""
    unit = DIGITS.data / np.linalg.norm(DIGITS.data, axis=1, keepdims=True)
    similarity = unit[:rows] @ unit[100:200].T
    best = np.argsort(-similarity, axis=1)[:, :columns]
    return IMAGES[:rows], IMAGES[100:200][best], np.take_along_axis(similarity, best, 1), DIGITS.target[100:200][best]


def test_of_other_channels_than_gray_and_rgb_some_are_shown(tmp_path, figures, quick):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 13), dtype="uint8")
    shown = np.concatenate([images, images])[..., :3]  # queries and neighbours
    black, white = np.percentile(shown, (1, 99), axis=(0, 1, 2))  # each band is stretched for display
    stretched = np.clip((images[0, ..., :3] - black) / (white - black), 0, 1)
    for channels, expected in ((2, images[0, ..., 0]), (13, stretched)):
        pixels = images[..., :channels]
        draw_neighbours(tmp_path / "a.png", pixels, pixels[:, None], np.ones((2, 1)))
        np.testing.assert_allclose(figures[-1].axes[0].images[0].get_array(), expected)


# Names

UGLY = (r"$\frac", "a_b$c$d", "_nolegend_", r"cut \$ off", "tab\there\nnew line", "\N{ZERO WIDTH JOINER}end")
SHOWN = (r"$\frac", "a_b$c$d", " _nolegend_", r"cut \$ off", "tab here new line", "end")


def shown(labels):
    """The text that matplotlib shows for each label; none is a formula."""
    texts = texts_of(labels)
    assert not any(map(cbook.is_math_text, texts))
    return [text.replace(r"\$", "$").replace("\n", " ") for text in texts]


def test_class_names_are_shown_literally(tmp_path, figures, quick):
    order, pixels = np.arange(6), IMAGES[:6]
    draw_confusion(tmp_path / "a.png", order, order, UGLY)
    draw_neighbours(tmp_path / "b.png", pixels, pixels[:, None], np.ones((6, 1)), order, order[:, None], UGLY)
    draw_projection(tmp_path / "c.png", 7 * np.eye(6), order, UGLY)
    confusion, neighbours, projection = figures
    assert shown(confusion.axes[0].get_xticklabels()) == shown(confusion.axes[0].get_yticklabels()) == list(SHOWN)
    assert shown(axes.texts[0] for axes in neighbours.axes[::2]) == list(SHOWN)
    assert shown(projection.legends[0].get_texts()) == list(SHOWN)  # all of them, also the third


# Confusions


def test_cells_are_percent_of_the_true_class(tmp_path, figures):
    truth, predicted = [0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2, 2]
    draw_confusion(tmp_path / "a.png", truth, predicted, ("cat", "dog", "cow", "never seen"))
    axes = figures[0].axes[0]
    expected = np.array([[75, 25, 0, 0], [0, 50, 50, 0], [0, 0, 100, 0], 4 * [np.nan]])
    np.testing.assert_array_equal(np.ma.filled(axes.images[0].get_array(), np.nan), expected)
    texts = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "75.0", (0, 1): "25.0", (1, 1): "50.0", (1, 2): "50.0", (2, 2): "100"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


# A map

CLUSTERS = np.repeat(np.eye(3, 8), 20, axis=0) + np.random.default_rng(0).normal(0, 0.05, (60, 8))
CLUSTER = np.repeat([0, 1, 2], 20)


@pytest.mark.slow
def test_images_of_a_cluster_are_close_together(tmp_path, figures):
    lengths = np.random.default_rng(1).uniform(0.1, 10, (60, 1))  # only the direction counts
    draw_projection(tmp_path / "a.png", lengths * CLUSTERS, CLUSTER, ("cat", "dog", "cow"))
    places = np.concatenate([np.asarray(group.get_offsets()) for group in figures[0].axes[0].collections])
    distances = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag(np.full(60, np.inf))
    np.testing.assert_array_equal(CLUSTER[distances.argmin(axis=1)], CLUSTER)


def test_images_have_the_colour_of_their_class(tmp_path, figures, quick):
    draw_projection(tmp_path / "a.png", 7 * CLUSTERS, CLUSTER, ("cat", "dog", "cow"))
    groups = figures[0].axes[0].collections
    assert [group.get_label() for group in groups] == ["cat", "dog", "cow"]
    assert texts_of(figures[0].legends[0].get_texts()) == ["cat", "dog", "cow"]
    assert len({to_hex(group.get_facecolor()[0]) for group in groups}) == 3
    unit = CLUSTERS / np.linalg.norm(CLUSTERS, axis=1, keepdims=True)
    for label, group in enumerate(groups):
        np.testing.assert_allclose(group.get_offsets(), unit[CLUSTER == label, :2])
    draw_projection(tmp_path / "b.png", CLUSTERS, np.where(np.arange(60) % 2, CLUSTER, -1), NAMES)
    counts = {group.get_label(): len(group.get_offsets()) for group in figures[1].axes[0].collections}
    assert counts == {"no label": 30, "0": 10, "1": 10, "2": 10}


def test_a_seed_chooses_which_images_are_drawn(tmp_path, figures, quick):
    for number, seed in enumerate((0, 0, 1)):
        draw_projection(tmp_path / f"{number}.png", CLUSTERS, None, None, limit=12, seed=seed)
    places = [np.asarray(figure.axes[0].collections[0].get_offsets()) for figure in figures]
    assert [len(these) for these in places] == [12, 12, 12]
    np.testing.assert_array_equal(places[0], places[1])
    assert not np.allclose(places[0], places[2])


# Neighbours


def test_neighbours_are_beside_their_query_with_similarity_and_class(tmp_path, figures):
    queries, neighbours, similarity, labels = neighbours_of_digits()
    labels[1, 2] = 7  # not that of the query, 1
    names = [f"digit {n}" for n in range(10)]
    draw_neighbours(tmp_path / "a.png", queries, neighbours, similarity, [0, 1, 2], labels, names)
    grid = np.array(figures[0].axes).reshape(3, 5)
    for row in range(3):
        np.testing.assert_array_equal(grid[row, 0].images[0].get_array(), queries[row, ..., 0])
        assert texts_of(grid[row, 0].texts) == [f"digit {row}"]
        for column in range(4):
            axes = grid[row, 1 + column]
            np.testing.assert_array_equal(axes.images[0].get_array(), neighbours[row, column, ..., 0])
            assert axes.get_title() == f"{similarity[row, column]:.3f}"
            assert texts_of(axes.texts) == [f"digit {labels[row, column]}"]
            frame = to_hex(axes.spines["left"].get_edgecolor())
            assert frame == to_hex("tab:green" if labels[row, column] == row else "tab:red")


# Shares of labels


def test_lines_are_means_over_seeds_with_their_deviations(tmp_path, figures):
    draw_label_fractions(tmp_path / "a.png", RESULTS)
    (axes,) = figures[0].axes
    tuned, scratch = axes.containers
    assert [container.get_label() for container in axes.containers] == list(RESULTS)
    np.testing.assert_allclose(tuned.lines[0].get_xydata(), [[1, 71], [10, (83 + 84 + 85.5) / 3], [100, 90]])
    np.testing.assert_allclose(scratch.lines[0].get_xydata(), [[10, 55]])
    # Two values a and b have the deviation |a - b| / sqrt(2); one value has none.
    bars = [segment[:, 1] for segment in tuned.lines[2][0].get_segments() if len(segment)]
    assert len(bars) == 2
    np.testing.assert_allclose(bars[0], [71 - 2**0.5, 71 + 2**0.5])
    np.testing.assert_allclose(bars[1][1] - bars[1][0], 2 * np.sqrt(((7 / 6) ** 2 + (1 / 6) ** 2 + (4 / 3) ** 2) / 2))


# All of them: a function that draws, and the size of the picture.

DRAW = {
    "confusion": (lambda path: draw_confusion(path, [0, 1], [0, 0], ("cat", "dog")), (452, 360)),
    "projection": (lambda path: draw_projection(path, CLUSTERS, CLUSTER, NAMES, limit=8), (900, 700)),
    "neighbours": (lambda path: draw_neighbours(path, *neighbours_of_digits(1, 2)[:3]), (360, 135)),
    "fractions": (lambda path: draw_label_fractions(path, RESULTS), (700, 500)),
}


@pytest.mark.parametrize("draw, expected", DRAW.values(), ids=DRAW)
def test_picture_replaces_a_file_and_leaves_matplotlib_unchanged(draw, expected, tmp_path):
    pyplot_before, settings = "matplotlib.pyplot" in sys.modules, dict(matplotlib.rcParams)
    path = tmp_path / "a.png"
    path.write_text("not a picture")
    assert draw(path) == path and size(path) == pytest.approx(expected, abs=4)  # widths of letters differ
    assert list(tmp_path.iterdir()) == [path]
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before
    assert dict(matplotlib.rcParams) == settings


def test_a_picture_that_cannot_be_written_leaves_the_one_before_it(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")

    def full(self, target, **_):
        target.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="no space left"):
        draw_label_fractions(path, {"other": {0.5: [1.0]}})
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


# Refused arguments; no file may be written.


def test_bad_arguments_are_refused(tmp_path):
    names = ("cat", "dog", "cow")
    queries, neighbours, similarity, labels = neighbours_of_digits()
    for draw, *arguments, received in (
        (draw_confusion, [], [], names, "truth of shape (0,)"),
        (draw_confusion, [1, 0], [1], names, "predicted of shape (1,)"),
        (draw_confusion, [1, -1], [1, 1], names, "labels from -1 to 1, num_classes=3"),
        (draw_confusion, [1, 1], [1, 3], names, "labels from 1 to 3, num_classes=3"),
        (draw_label_fractions, {}, "Received: {}"),
        (draw_label_fractions, {"a": {0: [1.0]}}, "a: 0: [1.0]"),
        (draw_label_fractions, {"a": {0.1: []}}, "a: 0.1: []"),
        (draw_label_fractions, {"a": {0.1: [101]}}, "[101]"),
        (draw_projection, CLUSTERS[0], None, names, "shape (8,)"),
        (draw_projection, CLUSTERS[:3], None, names, "shape (3, 8)"),
        (draw_projection, CLUSTERS, None, names, 3, "limit=3"),
        (draw_projection, np.nan * CLUSTERS, None, names, "NaN or infinite"),
        (draw_projection, np.ones((60, 8)), None, names, "Received: features that are all identical."),
        (draw_projection, CLUSTERS, CLUSTER[1:], names, "59 labels from 0 to 2, 3 class names, 60 rows"),
        (draw_projection, CLUSTERS, CLUSTER + 1, names, "60 labels from 1 to 3, 3 class names, 60 rows"),
        (draw_neighbours, queries[..., 0], neighbours[..., 0], similarity, "uint8 (3, 8, 8), uint8 (3, 4, 8, 8)"),
        (draw_neighbours, queries[:2], neighbours, similarity, "uint8 (2, 8, 8, 1)"),
        (draw_neighbours, queries / 255, neighbours, similarity, "float64 (3, 8, 8, 1)"),
        (draw_neighbours, queries, neighbours, similarity[:, :0], "and (3, 0)"),
        (draw_neighbours, queries, neighbours, similarity, None, labels, "Received: one of them"),
        (draw_neighbours, queries, neighbours, similarity, *4 * [None], [["a"]], "Received: one of them"),
        (
            draw_neighbours,
            queries,
            neighbours,
            similarity,
            *3 * [None],
            "abc",
            "abc",
            "3 names, and lists of [1, 1, 1]",
        ),
        (
            draw_neighbours,
            queries,
            neighbours,
            similarity,
            [0, 1, 10],
            labels,
            NAMES,
            "to 10, num_classes=10",
        ),
    ):
        with pytest.raises(ValueError) as error:
            draw(tmp_path / "a.png", *arguments)
        assert received in str(error.value)
        assert list(tmp_path.iterdir()) == []
