"""Plots of evaluations as PNG files: confusion matrices, and accuracy by the share of labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_moco.errors import UserError
from keras_moco.evaluation.accuracy import sample_std
from keras_moco.evaluation.labelled import check_labels
from keras_moco.evaluation.plot_names import DPI, fit_names, sizes_within
from keras_moco.storage.atomic import replace_when_written
from keras_moco.storage.paths import StrPath

NUMBERED = 20  # classes up to which the cells of a confusion matrix show numbers, and a projection has a legend
NAMED = 100  # classes up to which a confusion matrix shows names
LISTED = 10  # pairs of classes that are listed by name below a larger one
LONGEST = 220  # points, the width of a name beside a confusion matrix: 60 letters of the smallest size


def draw_confusion(path: StrPath, truth: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> Path:
    """Draws a confusion matrix: for each true class, a row, the percentage of every predicted class.

    The colour scale is that of square roots, beyond 60 classes of fourth roots, so that a few percent are visible. Up
    to 20 classes the cells show numbers, up to 100 the rows and columns have names. Beyond, the ten pairs of classes
    that are confused most often are listed below the matrix. A class without an image stays gray. Long names are
    wrapped, then drawn in a smaller size, down to 6 points, and at last shortened in the middle.

    Args:
        path: path of the PNG file; its folder exists.
        truth: `(n,)` integers in `[0, C)`, the true classes.
        predicted: `(n,)` integers in `[0, C)`, the predicted classes.
        class_names: `C` strings.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if there are no labels, or they do not fit.
        OSError: if the file cannot be written.

    Example:

    ```python
    votes = knn_predict(train.features, train.labels, test.features, num_classes=10)
    draw_confusion("confusion.png", test.labels, votes.argmax(axis=1), source.class_names)
    ```
    """
    from matplotlib.colors import PowerNorm
    from sklearn.metrics import confusion_matrix

    classes = len(class_names)
    truth = check_labels("truth", truth, classes)
    predicted = check_labels("predicted", predicted, classes, truth.shape)
    counts = confusion_matrix(truth, predicted, labels=np.arange(classes))  # (C, C)
    totals = counts.sum(axis=1, keepdims=True)
    percent = np.divide(100 * counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)

    side = _side(classes)
    pitch = 72 * side / classes  # points that a row has
    names = fit_names(class_names, LONGEST, sizes_within(pitch), range(classes)) if classes <= NAMED else None
    upright = not names or names.width < 0.9 * pitch
    left = 0.55 + (names.width / 72 if names else 0.4)
    below = 0.5 + (0.2 * (LISTED + 2) if not names else 0.2 if upright else names.width / 72)
    figure, (axes, bar) = _axes_of(side, left, below)
    scale = PowerNorm(0.5 if classes <= 60 else 0.25, 0, 100)
    image = axes.imshow(percent, cmap="Blues", norm=scale, interpolation="nearest")
    axes.set_facecolor("lightgray")
    if classes <= NUMBERED:
        for row, column in np.argwhere(counts):
            color = "white" if percent[row, column] > 40 else "black"
            text = f"{percent[row, column]:.1f}" if percent[row, column] < 99.95 else "100"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    accuracy = 100 * np.mean(truth == predicted)
    axes.set(title=f"Accuracy {accuracy:.2f} % of {len(truth):,} images", xlabel="predicted", ylabel="true")
    if names:
        axes.set_xticks(range(classes), names.texts, rotation=0 if upright else 90, **names.style)
        axes.set_yticks(range(classes), names.texts, **names.style)
    else:
        lines, style = _most_confused(percent, class_names, 72 * side)
        axes.set_xlabel("\n".join(["predicted, class number\n", *lines]), **style)
        axes.set_ylabel("true, class number")
    figure.colorbar(image, cax=bar, label="% of the true class", ticks=[0, 1, 5, 10, 25, 50, 100])
    return save_figure(path, figure)


def _side(classes):
    """The side of a confusion matrix in inches; of a thousand classes each has more than a pixel."""
    return float(np.clip(0.45 * classes, 2.5, 11) if classes <= 60 else np.clip(0.13 * classes, 11, 13))


def _axes_of(side, left, below):
    """A plot with a square and a bar for its colours, and as much space beside and below as given, in inches."""
    width, height = left + side + 1.2, below + side + 0.4
    figure = new_figure(width, height, layout=None)
    square = figure.add_axes((left / width, below / height, side / width, side / height))
    bar = figure.add_axes(
        ((left + side + 0.25) / width, (below + side / 10) / height, 0.2 / width, 0.8 * side / height)
    )
    return figure, (square, bar)


def _most_confused(percent, class_names, width):
    """Lines of at most `width` points about the pairs of classes that are confused most often, and their font."""
    others = np.where(np.eye(len(percent), dtype=bool), 0, np.nan_to_num(percent))
    rows, columns = np.unravel_index(np.argsort(-others, axis=None, kind="stable")[:LISTED], others.shape)
    names = fit_names([class_names[n] for n in (*rows, *columns)], width / 2 - 100, {10: 1}, (*rows, *columns))
    pairs = zip(rows, columns, names.texts[: len(rows)], names.texts[len(rows) :], strict=True)
    lines = [
        f"{others[row, column]:.1f} % of {row} ({name}) are taken for {column} ({other})"
        for row, column, name, other in pairs
        if others[row, column]
    ]
    return lines, names.style


def draw_label_fractions(path: StrPath, results: dict[str, dict[float, Sequence[float]]]) -> Path:
    """Draws accuracy against the share of the labels that was used, a line for each method.

    Points are means over seeds, bars standard deviations of the sample (divisor `n - 1`); a single seed has no bar.

    Args:
        path: path of the PNG file; its folder exists.
        results: dict of the name of a method to a dict of fraction, in (0, 1], to accuracies in percent, one per seed.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if there are no results, or a fraction or an accuracy is out of range.
        OSError: if the file cannot be written.

    Example:

    ```python
    results = {"fine-tuned": {0.01: [71.2, 69.8], 0.1: [83.0, 83.4]}, "from scratch": {0.01: [48.1, 52.0], 0.1: [77.9]}}
    draw_label_fractions("labels.png", results)
    ```
    """
    _check_fractions(results)
    fractions = sorted({fraction for curve in results.values() for fraction in curve})
    figure = new_figure(7, 5)
    axes = figure.subplots()
    for name, curve in results.items():
        points = sorted(curve.items())
        means = [np.mean(values) for _, values in points]
        deviations = [sample_std(values) for _, values in points]
        axes.errorbar([100 * share for share, _ in points], means, deviations, marker="o", ms=4, capsize=3, label=name)
    axes.set_xscale("log")
    axes.set_xticks([100 * share for share in fractions], [f"{100 * share:g} %" for share in fractions], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(title="Accuracy by share of labels", xlabel="labels used", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(path, figure)


def new_figure(width, height, layout="constrained"):
    # The object interface, which needs no window system and leaves pyplot's figures alone.
    from matplotlib.figure import Figure  # half a second of import time

    # Whole pixels: of 359.99 some versions of matplotlib would make 359.
    return Figure(figsize=(round(width, 2), round(height, 2)), dpi=DPI, layout=layout)


def save_figure(path, figure):
    return replace_when_written(path, lambda temporary: figure.savefig(temporary, format="png", dpi=DPI))


def _check_fractions(results):
    if not results or not all(results.values()):
        raise UserError(
            "`results` must hold at least one name with a fraction. Received: "
            f"{ ({name: sorted(curve) for name, curve in results.items()}) }. Omit names without a result."
        )
    for name, curve in results.items():
        for fraction, accuracies in curve.items():
            within = len(accuracies) and all(0 <= accuracy <= 100 for accuracy in accuracies)
            if not (0 < fraction <= 1 and within):
                raise UserError(
                    "`results` must map fractions in (0, 1] to at least one accuracy in percent. "
                    f"Received: {name}: {fraction}: {accuracies}. Correct that entry."
                )
