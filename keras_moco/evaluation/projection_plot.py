"""A map of images by the similarity of their features, as a PNG file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_moco.errors import UserError
from keras_moco.evaluation.measures import feature_std
from keras_moco.evaluation.plot_names import fit_names, sizes_within
from keras_moco.evaluation.plots import NUMBERED, new_figure, save_figure
from keras_moco.storage.paths import StrPath


def draw_projection(
    path: StrPath,
    features: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str] | None,
    limit: int = 2000,
    seed: int = 0,
) -> Path:
    """Draws a map of images in which similar features are close together: t-SNE (van der Maaten & Hinton 2008).

    scikit-learn's t-SNE of unit vectors, whose squared distances are `2 - 2 cos`, initialised with their two principal
    components. Distances between remote groups mean little. Takes 6 seconds of one core for 2,000 images.

    Args:
        path: path of the PNG file; its folder exists.
        features: `(n, D)` features of at least 4 images, `D` at least 2. They need not be normalised.
        labels: `(n,)` integers in `[0, C)`, `-1` for images without a label; or `None`.
        class_names: `C` strings, for the legend; above 20 classes there is a scale of class numbers, and as many names
            as there is room for are above the centres of their classes. `None` without labels.
        limit: int, at least 4. Maximum number of images. Defaults to `2000`.
        seed: int, the random seed of the choice of images and of t-SNE. Defaults to `0`.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if features or labels do not fit, or all features are identical.
        OSError: if the file cannot be written.

    Example:

    ```python
    test = extract_features(model.encoder.features, evaluation_dataset(source, 32))
    draw_projection("map.png", test.features, test.labels, source.class_names)
    ```
    """
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits

    features = np.asarray(features, "float64")
    labels = np.full(len(features), -1) if labels is None else np.asarray(labels)
    class_names = () if class_names is None else class_names
    _check_projection(features, labels, class_names, limit)
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(len(features))[:limit])
    features, labels = normalize(features[rows]), labels[rows]
    perplexity = min(30, (len(rows) - 1) / 3)
    # Its threads spin while they wait: on two busy cores two threads took ten times as long as one.
    with threadpool_limits(1):
        places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)  # (n, 2)

    return save_figure(path, _draw_places(places, labels, class_names))


def _draw_places(places, labels, class_names):
    """A plot of images at their places `(n, 2)`, in the colours of their classes."""
    known = labels != -1
    present = np.unique(labels[known])
    in_legend = len(class_names) <= NUMBERED
    width, sizes = (300, sizes_within(420 / max(1, len(present)) - 6)) if in_legend else (80, {7: 2})
    names = fit_names([class_names[label] for label in present], width, sizes, present)
    figure = new_figure(9 + max(0, names.width / 72 - 1) * in_legend, 7)
    axes = figure.subplots()
    axes.set(title=f"t-SNE of the features of {len(places):,} images", xticks=[], yticks=[])
    axes.set_aspect("equal", "datalim")
    dots = {"s": float(np.clip(20_000 / len(places), 5, 40)), "linewidths": 0}
    if not known.all():
        axes.scatter(*places[~known].T, color="tab:blue" if not known.any() else "lightgray", label="no label", **dots)
    if in_legend:
        from matplotlib import colormaps

        palette = colormaps["tab10" if len(class_names) <= 10 else "tab20"]
        for label, name in zip(present, names.texts, strict=True):
            axes.scatter(*places[labels == label].T, color=palette(int(label)), label=name, **dots)
        if known.any():
            font = {"size": names.style["fontsize"], "family": names.style["family"]}
            figure.legend(loc="outside right upper", markerscale=2, frameon=False, prop=font)
    elif known.any():
        scale = {"cmap": "turbo", "vmin": 0, "vmax": len(class_names) - 1}
        points = axes.scatter(*places[known].T, c=labels[known], **scale, **dots)
        figure.colorbar(points, ax=axes, label="class number")
        _write_names(figure, axes, [places[labels == label] for label in present], names)
    return figure


def _write_names(figure, axes, groups, names):
    """Writes the name of each group of points above its centre, of large groups first, where no other name is."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()  # decides where the axes are
    taken, outline = [], [withStroke(linewidth=2, foreground="white")]
    for number in sorted(range(len(groups)), key=lambda number: -len(groups[number])):
        place = np.median(groups[number], axis=0)
        where = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        text = axes.annotate(names.texts[number], place, **where, path_effects=outline, **names.style)
        text.set_in_layout(False)
        box = text.get_window_extent()
        if box.count_overlaps(taken) or not (axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)):
            text.remove()
        else:
            taken.append(box)


def lacks_for_projection(features):
    """Why `draw_projection` cannot draw features: a few words, or an empty string if it can.

    Args:
        features: array.

    Example:

    >>> lacks_for_projection(np.ones((9, 3))), lacks_for_projection(np.eye(4))
    ('features that are all identical', '')
    """
    if features.ndim != 2 or min(features.shape[0] / 2, features.shape[1]) < 2:
        return f"features of shape {features.shape}"
    return "features that are all identical" if feature_std(features) < 1e-6 else ""


def _check_projection(features, labels, class_names, limit):
    lacking = lacks_for_projection(features)
    if lacking:
        raise UserError(
            "`features` must be a matrix (n, D) of at least 4 rows and 2 columns, and differ from image to image. "
            f"Received: {lacking}. Give one row of features per image, of an encoder that has not collapsed."
        )
    if limit < 4:
        raise UserError(f"`limit` must be at least 4 images. Received: limit={limit}. The usual value is 2000.")
    if labels.shape != features.shape[:1] or labels.min() < -1 or labels.max() >= len(class_names):
        raise UserError(
            "`labels` must be one number of a class per row, from 0, or -1 without a label. "
            f"Received: {labels.size} labels from {labels.min()} to {labels.max()}, {len(class_names)} class names, "
            f"{len(features)} rows. Name all classes, or give labels=None."
        )
