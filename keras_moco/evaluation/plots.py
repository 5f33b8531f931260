"""Plots of evaluations as PNG files: confusion matrices, and accuracy by the share of labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_moco.errors import UserError
from keras_moco.evaluation.accuracy import sample_std
from keras_moco.evaluation.labelled import check_labels
from keras_moco.storage.atomic import replace_when_written
from keras_moco.storage.paths import StrPath

NUMBERED = 20  # classes up to which the cells of a confusion matrix show numbers, and a projection has a legend
NAMED = 60  # classes up to which a confusion matrix shows names


def draw_confusion(path: StrPath, truth: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> Path:
    """Draws a confusion matrix: for each true class, a row, the percentage of every predicted class.

    The colour scale is that of square roots, beyond 60 classes of fourth roots, so that a few percent are visible. Up
    to 20 classes the cells show numbers, up to 60 the rows and columns have names. A class without an image stays gray.

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

    side = float(np.clip(3 + 0.45 * classes, 5, 14))  # inches; at 14, a thousand classes have a pixel each
    figure = new_figure(side, 0.88 * side)
    axes = figure.subplots()
    scale = PowerNorm(0.5 if classes <= NAMED else 0.25, 0, 100)
    image = axes.imshow(percent, cmap="Blues", norm=scale, interpolation="nearest")
    axes.set_facecolor("lightgray")
    if classes <= NUMBERED:
        for row, column in np.argwhere(counts):
            color = "white" if percent[row, column] > 40 else "black"
            text = f"{percent[row, column]:.1f}" if percent[row, column] < 99.95 else "100"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    if classes <= NAMED:
        names = [plain_text(name, 24) for name in class_names]
        axes.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(classes), names)
    accuracy = 100 * np.mean(truth == predicted)
    axes.set(title=f"Accuracy {accuracy:.2f} % of {len(truth):,} images", xlabel="predicted", ylabel="true")
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8, ticks=[0, 1, 5, 10, 25, 50, 100])
    return save_figure(path, figure)


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


def new_figure(width, height):
    # The object interface, which needs no window system and leaves pyplot's figures alone.
    from matplotlib.figure import Figure  # half a second of import time

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(path, figure):
    return replace_when_written(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))


def plain_text(name, width):
    """A name as one line of at most `width` letters, which matplotlib shows literally."""
    text = " ".join(str(name).split())
    text = text if len(text) <= width else text[: width - 1] + "…"
    text = f" {text}" if text.startswith("_") else text  # which matplotlib would omit from the legend
    return text.replace("$", r"\$")  # a pair of which would enclose a formula


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
