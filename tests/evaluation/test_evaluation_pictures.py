import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits

from keras_moco.evaluation import draw_confusion, draw_label_fractions, draw_neighbours, draw_projection

DIGITS = load_digits()
IMAGES = np.round(DIGITS.images * 255 / 16).astype("uint8")[..., None]
NAMES = tuple("0123456789")
RESULTS = {"fine-tuned": {0.1: [83.0, 84.0, 85.5], 0.01: [70.0, 72.0], 1: [90.0]}, "from scratch": {0.1: [60.0, 50.0]}}


@pytest.fixture
def figures(monkeypatch):
    """All figures that are saved."""
    saved, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), savefig(self, *a, **k)))
    return saved


def size(path):
    """Width and height of a PNG file that is no single colour."""
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


# Confusions


def test_cells_are_percent_of_the_true_class(tmp_path, figures):
    truth, predicted = [0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2, 2]
    path = draw_confusion(tmp_path / "a.png", truth, predicted, ("cat", "dog", "cow", "never seen"))
    axes = figures[0].axes[0]
    expected = np.array([[75, 25, 0, 0], [0, 50, 50, 0], [0, 0, 100, 0], 4 * [np.nan]])
    np.testing.assert_array_equal(np.ma.filled(axes.images[0].get_array(), np.nan), expected)
    texts = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "75.0", (0, 1): "25.0", (1, 1): "50.0", (1, 2): "50.0", (2, 2): "100"}
    assert axes.get_title() == "Accuracy 71.43 % of 7 images"
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == ["cat", "dog", "cow", "never seen"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert path == tmp_path / "a.png" and size(path) == (500, 440)


@pytest.mark.parametrize("classes, numbers, names", [(20, True, True), (21, False, True), (61, False, False)])
def test_many_classes_go_without_numbers_and_very_many_without_names(classes, numbers, names, tmp_path, figures):
    labels = np.arange(classes)
    draw_confusion(tmp_path / "a.png", labels, labels, [f"class {n}" for n in labels])
    axes = figures[0].axes[0]
    assert len(axes.texts) == classes * numbers
    assert ("class 0" in [label.get_text() for label in axes.get_xticklabels()]) == names


def test_a_thousand_classes_have_a_pixel_each(tmp_path, figures):
    labels = np.arange(1000)
    assert size(draw_confusion(tmp_path / "a.png", labels, labels[::-1], list(map(str, labels)))) == (1400, 1232)
    assert min(figures[0].axes[0].get_window_extent().size) >= 1000


@pytest.mark.parametrize(
    "name, labels, words",
    [
        ("truth", ([], []), "a list of at least one, a label for each image. Received: truth of shape (0,)."),
        ("truth", ([[1]], [1]), "a list of at least one, a label for each image. Received: truth of shape (1, 1)."),
        ("predicted", ([1, 0], [1]), "of shape (2,), a label for each image. Received: predicted of shape (1,)."),
        ("truth", ([1, -1], [1, 1]), "numbers of classes, from 0. Received: labels from -1 to 1, 2 class names."),
        ("predicted", ([1, 1], [1, 2]), "numbers of classes, from 0. Received: labels from 1 to 2, 2 class names."),
    ],
)
def test_labels_that_do_not_fit_are_refused(name, labels, words, tmp_path):
    with pytest.raises(ValueError) as error:
        draw_confusion(tmp_path / "a.png", *labels, ("cat", "dog"))
    assert str(error.value).startswith(f"`{name}` must be {words} ")
    assert list(tmp_path.iterdir()) == []


# A map

CLUSTERS = np.repeat(np.eye(3, 8), 20, axis=0) + np.random.default_rng(0).normal(0, 0.05, (60, 8))
CLUSTER = np.repeat([0, 1, 2], 20)
MATRIX = "`features` must be a matrix (n, D) of at least 4 rows and 2 columns. "
NUMBERS = "`labels` must be one number of a class per row, from 0, or -1 without a label. "


def test_images_of_a_cluster_lie_together_in_the_colour_of_their_class(tmp_path, figures):
    lengths = np.random.default_rng(1).uniform(0.1, 10, (60, 1))  # only the direction counts
    path = draw_projection(tmp_path / "a.png", lengths * CLUSTERS, CLUSTER, ("cat", "dog", "cow"))
    assert size(path) == (900, 700)
    groups = figures[0].axes[0].collections
    assert [group.get_label() for group in groups] == ["cat", "dog", "cow"]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["cat", "dog", "cow"]
    assert len({to_hex(group.get_facecolor()[0]) for group in groups}) == 3
    places = np.concatenate([np.asarray(group.get_offsets()) for group in groups])
    distances = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag(np.full(60, np.inf))
    np.testing.assert_array_equal(CLUSTER[distances.argmin(axis=1)], CLUSTER)


def test_a_seed_chooses_which_images_are_drawn(tmp_path, figures):
    for number, seed in enumerate((0, 0, 1)):
        draw_projection(tmp_path / f"{number}.png", CLUSTERS, None, None, limit=12, seed=seed)
    places = [np.asarray(figure.axes[0].collections[0].get_offsets()) for figure in figures]
    assert [len(these) for these in places] == [12, 12, 12]
    np.testing.assert_array_equal(places[0], places[1])
    assert not np.allclose(places[0], places[2])
    assert figures[0].axes[0].get_title() == "t-SNE of the features of 12 images"


def test_images_without_labels_have_one_colour_and_no_legend(tmp_path, figures):
    draw_projection(tmp_path / "a.png", CLUSTERS, None, None, limit=10)
    (group,) = figures[0].axes[0].collections
    assert len(group.get_facecolor()) == 1 and figures[0].legends == []


def test_some_images_without_labels_are_gray(tmp_path, figures):
    labels = np.where(np.arange(60) % 2, CLUSTER, -1)
    draw_projection(tmp_path / "a.png", CLUSTERS, labels, NAMES)
    groups = {group.get_label(): group for group in figures[0].axes[0].collections}
    assert [(name, len(group.get_offsets())) for name, group in groups.items()] == [
        ("no label", 30),
        *((name, 10) for name in "012"),
    ]
    assert to_hex(groups["no label"].get_facecolor()[0]) == to_hex("lightgray")


def test_many_classes_have_a_scale_in_place_of_a_legend(tmp_path, figures):
    draw_projection(tmp_path / "a.png", CLUSTERS, CLUSTER + 20, list(map(str, range(23))))
    (group,) = figures[0].axes[0].collections
    np.testing.assert_array_equal(group.get_array(), CLUSTER + 20)
    assert group.get_clim() == (0, 22)
    assert figures[0].legends == [] and figures[0].axes[1].get_ylabel() == "class number"


@pytest.mark.parametrize(
    "features, labels, settings, words",
    [
        (CLUSTERS[0], None, {}, MATRIX + "Received: shape (8,)."),
        (CLUSTERS[:3], None, {}, MATRIX + "Received: shape (3, 8)."),
        (CLUSTERS[:, :1], None, {}, MATRIX + "Received: shape (60, 1)."),
        (CLUSTERS, None, {"limit": 3}, "`limit` must be at least 4 images. Received: limit=3."),
        (np.nan * CLUSTERS, None, {}, "`features` must be finite. Received: NaN or infinite features."),
        (np.ones((60, 8)), None, {}, "`features` must differ from image to image. Received: features that are "),
        (CLUSTERS, CLUSTER[1:], {}, NUMBERS + "Received: 59 labels from 0 to 2, 3 class names, 60 rows."),
        (CLUSTERS, CLUSTER + 1, {}, NUMBERS + "Received: 60 labels from 1 to 3, 3 class names, 60 rows."),
        (CLUSTERS, CLUSTER - 2, {}, NUMBERS + "Received: 60 labels from -2 to 0, 3 class names, 60 rows."),
    ],
)
def test_what_cannot_be_mapped_is_refused(features, labels, settings, words, tmp_path):
    with pytest.raises(ValueError) as error:
        draw_projection(tmp_path / "a.png", features, labels, ("cat", "dog", "cow"), **settings)
    assert str(error.value).startswith(words)
    assert list(tmp_path.iterdir()) == []


# Neighbours


def frames(figure, rows=3):
    """The colours of the frames, row by row."""
    colors = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes]
    return np.array(colors).reshape(rows, -1)


def test_neighbours_stand_beside_their_query_with_similarity_and_class(tmp_path, figures):
    queries, neighbours, similarity, labels = neighbours_of_digits()
    labels[1, 2] = 7  # not that of the query, 1
    names = [f"digit {n}" for n in range(10)]
    path = draw_neighbours(tmp_path / "a.png", queries, neighbours, similarity, [0, 1, 2], labels, names)
    assert size(path) == (600, 450)
    grid = np.array(figures[0].axes).reshape(3, 5)
    for row in range(3):
        np.testing.assert_array_equal(grid[row, 0].images[0].get_array(), queries[row, ..., 0])
        assert grid[row, 0].get_xlabel() == f"digit {row}"
        for column in range(4):
            axes = grid[row, 1 + column]
            np.testing.assert_array_equal(axes.images[0].get_array(), neighbours[row, column, ..., 0])
            assert axes.images[0].get_clim() == (0, 255)
            assert axes.get_title() == f"{similarity[row, column]:.3f}"
            assert axes.get_xlabel() == f"digit {labels[row, column]}"
    equal = labels == np.arange(3)[:, None]
    assert not equal.all()
    np.testing.assert_array_equal(frames(figures[0])[:, 1:] == to_hex("tab:green"), equal)
    np.testing.assert_array_equal(frames(figures[0])[:, 1:] == to_hex("tab:red"), ~equal)


def test_without_labels_frames_are_gray_and_nothing_stands_below(tmp_path, figures):
    queries, neighbours, similarity, _ = neighbours_of_digits()
    draw_neighbours(tmp_path / "a.png", np.repeat(queries, 3, -1), np.repeat(neighbours, 3, -1), similarity)
    assert {axes.get_xlabel() for axes in figures[0].axes} == {""}
    assert set(frames(figures[0])[:, 1:].ravel()) == {to_hex("lightgray")}
    assert figures[0].axes[0].images[0].get_array().shape == (8, 8, 3)


def test_classes_without_names_are_numbers(tmp_path, figures):
    queries, neighbours, similarity, labels = neighbours_of_digits(rows=1)
    draw_neighbours(tmp_path / "a.png", queries, neighbours, similarity, [12], labels)
    assert [axes.get_xlabel() for axes in figures[0].axes] == ["12", *map(str, labels[0])]


def test_images_that_do_not_fit_are_refused(tmp_path):
    queries, neighbours, similarity, labels = neighbours_of_digits()
    for wrong in (
        (queries[..., 0], neighbours[..., 0], similarity),
        (queries[:2], neighbours, similarity),
        (queries, neighbours[:, :3], similarity),
        (queries, neighbours, similarity[:, :0]),
        (queries / 255, neighbours, similarity),
        (np.repeat(queries, 2, -1), np.repeat(neighbours, 2, -1), similarity),
        (queries[:, :4], neighbours, similarity),
    ):
        with pytest.raises(ValueError) as error:
            draw_neighbours(tmp_path / "a.png", *wrong)
        assert str(error.value) == (
            "`queries`, `neighbours` and `similarity` must be uint8 (n, h, w, c), uint8 (n, k, h, w, c) and (n, k), c "
            f"1 or 3. Received: {wrong[0].dtype} {wrong[0].shape}, {wrong[1].dtype} {wrong[1].shape} and "
            f"{wrong[2].shape}. Give as many neighbours to every query."
        )
    with pytest.raises(ValueError, match="^`query_labels` and `neighbour_labels` must be given together. Received: "):
        draw_neighbours(tmp_path / "a.png", queries, neighbours, similarity, neighbour_labels=labels)
    with pytest.raises(ValueError, match=r"^`neighbour_labels` must be of shape \(3, 4\), a label for each image\. "):
        draw_neighbours(tmp_path / "a.png", queries, neighbours, similarity, [0, 1, 2], labels[:2])
    with pytest.raises(ValueError, match="^`query_labels` must be numbers of classes, from 0. Received: labels from "):
        draw_neighbours(tmp_path / "a.png", queries, neighbours, similarity, [0, 1, 10], labels, NAMES)
    assert list(tmp_path.iterdir()) == []


# Shares of labels

PERCENT = "`results` must map fractions in (0, 1] to accuracies in percent, one at least. "


def test_lines_are_means_over_seeds_with_their_deviations(tmp_path, figures):
    assert size(draw_label_fractions(tmp_path / "a.png", RESULTS)) == (700, 500)
    (axes,) = figures[0].axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1 %", "10 %", "100 %"]
    tuned, scratch = axes.containers
    assert [container.get_label() for container in axes.containers] == list(RESULTS)
    np.testing.assert_allclose(tuned.lines[0].get_xydata(), [[1, 71], [10, (83 + 84 + 85.5) / 3], [100, 90]])
    np.testing.assert_allclose(scratch.lines[0].get_xydata(), [[10, 55]])
    # Two values a and b have the deviation |a - b| / sqrt(2); one value has none.
    bars = [segment[:, 1] for segment in tuned.lines[2][0].get_segments() if len(segment)]
    assert len(bars) == 2
    np.testing.assert_allclose(bars[0], [71 - 2**0.5, 71 + 2**0.5])
    np.testing.assert_allclose(bars[1][1] - bars[1][0], 2 * np.sqrt(((7 / 6) ** 2 + (1 / 6) ** 2 + (4 / 3) ** 2) / 2))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(RESULTS)


@pytest.mark.parametrize(
    "results, words",
    [
        ({}, "`results` must hold a name with a fraction at least. Received: {}. "),
        ({"a": {}}, "`results` must hold a name with a fraction at least. Received: {'a': []}. "),
        ({"a": {0: [1.0]}}, PERCENT + "Received: a: 0: [1.0]. "),
        ({"a": {10: [1.0]}}, PERCENT + "Received: a: 10: [1.0]. "),
        ({"a": {0.1: []}}, PERCENT + "Received: a: 0.1: []. "),
        ({"a": {0.1: [101]}}, PERCENT + "Received: a: 0.1: [101]. "),
    ],
)
def test_results_that_cannot_be_are_refused(results, words, tmp_path):
    with pytest.raises(ValueError) as error:
        draw_label_fractions(tmp_path / "a.png", results)
    assert str(error.value).startswith(words)


# All of them

DRAW = {
    "confusion": lambda path: draw_confusion(path, [0, 1], [0, 0], ("cat", "dog")),
    "projection": lambda path: draw_projection(path, CLUSTERS, CLUSTER, NAMES, limit=8),
    "neighbours": lambda path: draw_neighbours(path, *neighbours_of_digits(1, 2)[:3]),
    "fractions": lambda path: draw_label_fractions(path, RESULTS),
}


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_a_picture_replaces_another_and_leaves_nothing_beside_it_nor_in_matplotlib(draw, tmp_path):
    pyplot_before, settings = "matplotlib.pyplot" in sys.modules, dict(matplotlib.rcParams)
    path = tmp_path / "a.png"
    path.write_text("not a picture")
    assert draw(path) == path and size(path)
    assert list(tmp_path.iterdir()) == [path]
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before
    assert dict(matplotlib.rcParams) == settings


def test_a_picture_that_cannot_be_written_leaves_the_one_before_it(tmp_path, monkeypatch):
    path = draw_label_fractions(tmp_path / "a.png", RESULTS)
    before = path.read_bytes()

    def full(self, target, **_):
        target.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="no space left"):
        draw_label_fractions(path, {"other": {0.5: [1.0]}})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
