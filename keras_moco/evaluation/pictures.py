"""What an encoder has learnt, to be looked at: PNG files of confusions, a map, neighbours, and accuracy by labels."""

import numpy as np

from keras_moco.errors import UserError
from keras_moco.evaluation.accuracy import spread
from keras_moco.evaluation.measures import feature_std
from keras_moco.storage.atomic import replace_when_written

NUMBERED = 20  # classes up to which cells of a confusion matrix show their number, and a map has a legend
NAMED = 60  # classes up to which a confusion matrix shows their names
UNLABELLED = -1
EQUAL, OTHER, PLAIN = "tab:green", "tab:red", "lightgray"  # frames


def draw_confusion(path, truth, predicted, class_names):
    """Draws which classes are taken for which: the share of each true class, a row, in percent.

    The colour scale is that of square roots, beyond 60 classes of fourth roots, so that a few percent are seen. Up to
    20 classes the cells show their numbers, up to 60 the rows and columns their names. A class without an image stays
    gray.

    Args:
        path: path of the PNG file; its folder exists.
        truth: `(n,)` integers in `[0, C)`, the labels.
        predicted: `(n,)`, likewise, what they were taken for.
        class_names: `C` strings.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if there is nothing to draw, or labels do not fit.
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
    truth = _labels("truth", truth, classes)
    predicted = _labels("predicted", predicted, classes, (len(truth),))
    counts = confusion_matrix(truth, predicted, labels=np.arange(classes))  # (C, C)
    totals = counts.sum(axis=1, keepdims=True)
    percent = np.divide(100 * counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)

    side = float(np.clip(3 + 0.45 * classes, 5, 14))  # inches; at 14, a thousand classes have a pixel each
    figure = _figure(side, 0.88 * side)
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
        names = [_plain(name, 24) for name in class_names]
        axes.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(classes), names)
    accuracy = 100 * np.mean(truth == predicted)
    axes.set(title=f"Accuracy {accuracy:.2f} % of {len(truth):,} images", xlabel="predicted", ylabel="true")
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8, ticks=[0, 1, 5, 10, 25, 50, 100])
    return _save(path, figure)


def draw_projection(path, features, labels, class_names, limit=2000, seed=0):
    """Draws a map of images in which those with similar features lie together: t-SNE (van der Maaten & Hinton 2008).

    scikit-learn's, of unit vectors, whose squared distances are `2 - 2 cos`, beginning with their two principal
    components. Distances between far groups mean little. Takes 6 seconds of one core for 2,000 images.

    Args:
        path: path of the PNG file; its folder exists.
        features: `(n, D)` features, at least 4 of at least 2 numbers; they need not be normalised.
        labels: `(n,)` integers in `[0, C)`, `-1` where an image has none; or `None`.
        class_names: `C` strings, for the legend; above 20 classes there is a scale of class numbers. `None` without
            labels.
        limit: int, at least 4. Images to draw at most. Defaults to `2000`.
        seed: int. Decides which ones, and where the search begins. Defaults to `0`.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if features or labels do not fit, or all features are one.
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
    labels = np.full(len(features), UNLABELLED) if labels is None else np.asarray(labels)
    class_names = () if class_names is None else class_names
    _check_projection(features, labels, class_names, limit)
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(len(features))[:limit])
    features, labels = normalize(features[rows]), labels[rows]
    perplexity = min(30, (len(rows) - 1) / 3)
    # Its threads wait for each other by spinning: on two busy cores two of them took ten times as long as one.
    with threadpool_limits(1):
        places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)  # (n, 2)

    figure = _figure(9, 7)
    axes = figure.subplots()
    dots = {"s": float(np.clip(20_000 / len(rows), 5, 40)), "linewidths": 0}
    known = labels != UNLABELLED
    if not known.all():
        axes.scatter(*places[~known].T, color="tab:blue" if not known.any() else PLAIN, label="no label", **dots)
    if len(class_names) <= NUMBERED:
        from matplotlib import colormaps

        palette = colormaps["tab10" if len(class_names) <= 10 else "tab20"]
        for label in np.unique(labels[known]):
            name = _plain(class_names[label], 40)
            axes.scatter(*places[labels == label].T, color=palette(int(label)), label=name, **dots)
        if known.any():
            figure.legend(loc="outside right upper", markerscale=2, frameon=False)
    elif known.any():
        scale = {"cmap": "turbo", "vmin": 0, "vmax": len(class_names) - 1}
        points = axes.scatter(*places[known].T, c=labels[known], **scale, **dots)
        figure.colorbar(points, ax=axes, label="class number")
    axes.set(title=f"t-SNE of the features of {len(rows):,} images", xticks=[], yticks=[])
    axes.set_aspect("equal", "datalim")
    return _save(path, figure)


def lacks_for_projection(features):
    """What features lack to be drawn as a map by `draw_projection`: a few words, or an empty text if nothing.

    Args:
        features: array.

    Example:

    >>> lacks_for_projection(np.ones((9, 3))), lacks_for_projection(np.eye(4))
    ('features that are all one', '')
    """
    if features.ndim != 2 or min(features.shape[0] / 2, features.shape[1]) < 2:
        return f"features of shape {features.shape}"
    return "features that are all one" if feature_std(features) < 1e-6 else ""


def draw_neighbours(path, queries, neighbours, similarity, query_labels=None, neighbour_labels=None, class_names=None):
    """Draws images, each beside those most similar to it, with the similarity above and the class below.

    A neighbour has a green frame if it is of the query's class, a red one if not, and a gray one without labels.

    Args:
        path: path of the PNG file; its folder exists.
        queries: uint8 `(n, h, w, c)`, `c` 1 or 3.
        neighbours: uint8 `(n, k, h, w, c)`, the best first.
        similarity: `(n, k)`.
        query_labels: `(n,)` integers in `[0, C)`. Defaults to none.
        neighbour_labels: `(n, k)`, likewise; with `query_labels` or not at all.
        class_names: `C` strings. Defaults to the numbers of the classes.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if images, similarities and labels do not fit together.
        OSError: if the file cannot be written.

    Example:

    ```python
    similarity = test.features @ train.features.T  # of unit vectors
    best = np.argsort(-similarity, axis=1)[:8, :6]
    draw_neighbours("neighbours.png", test_images[:8], train_images[best], np.take_along_axis(similarity[:8], best, 1))
    ```
    """
    queries, neighbours, similarity = map(np.asarray, (queries, neighbours, similarity))
    _check_neighbours(queries, neighbours, similarity, query_labels, neighbour_labels)
    rows, columns = similarity.shape
    labelled = query_labels is not None
    if labelled:
        classes = None if class_names is None else len(class_names)
        query_labels = _labels("query_labels", query_labels, classes, (rows,))
        neighbour_labels = _labels("neighbour_labels", neighbour_labels, classes, (rows, columns))

    def name(label):
        return _plain(label if class_names is None else class_names[label], 14)

    figure = _figure(1.2 * (columns + 1), (1.5 if labelled else 1.35) * rows)
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    for row, (query, *others) in enumerate(grid):
        _show(query, queries[row], "black", "query" if row == 0 else "", name(query_labels[row]) if labelled else "")
        for column, axes in enumerate(others):
            frame, below = PLAIN, ""
            if labelled:
                label = neighbour_labels[row, column]
                frame, below = EQUAL if label == query_labels[row] else OTHER, name(label)
            _show(axes, neighbours[row, column], frame, f"{similarity[row, column]:.3f}", below)
    return _save(path, figure)


def draw_label_fractions(path, results):
    """Draws accuracy against the share of the labels that was used, a line for each way to use them.

    Points are means over seeds, bars their standard deviations (of a sample, divided by one less than their number);
    a single seed has no bar.

    Args:
        path: path of the PNG file; its folder exists.
        results: dict of name to a dict of fraction, in (0, 1], to a list of accuracies in percent, one per seed.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if there is nothing to draw, or a fraction or an accuracy is out of its range.
        OSError: if the file cannot be written.

    Example:

    ```python
    results = {"fine-tuned": {0.01: [71.2, 69.8], 0.1: [83.0, 83.4]}, "from scratch": {0.01: [48.1, 52.0], 0.1: [77.9]}}
    draw_label_fractions("labels.png", results)
    ```
    """
    _check_fractions(results)
    fractions = sorted({fraction for curve in results.values() for fraction in curve})
    figure = _figure(7, 5)
    axes = figure.subplots()
    for name, curve in results.items():
        points = sorted(curve.items())
        means = [np.mean(values) for _, values in points]
        spreads = [spread(values) for _, values in points]
        axes.errorbar([100 * share for share, _ in points], means, spreads, marker="o", ms=4, capsize=3, label=name)
    axes.set_xscale("log")
    axes.set_xticks([100 * share for share in fractions], [f"{100 * share:g} %" for share in fractions], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(title="Accuracy by share of labels", xlabel="labels used", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(path, figure)


def _figure(width, height):
    # The object interface: no window system, and nobody else's pyplot figures are touched.
    from matplotlib.figure import Figure  # half a second of import time

    return Figure(figsize=(width, height), layout="constrained")


def _save(path, figure):
    return replace_when_written(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))


def _plain(name, width):
    """A name as one line of so many letters at most, which matplotlib shows as it is."""
    text = " ".join(str(name).split())
    text = text if len(text) <= width else text[: width - 1] + "…"
    text = f" {text}" if text.startswith("_") else text  # or it would not be in the legend
    return text.replace("$", r"\$")  # or what is between two of them would be a formula


def _show(axes, image, frame, above, below):
    """An image in a coloured frame with a line of text above and below."""
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(above, fontsize=8, pad=3)
    axes.set_xlabel(below, fontsize=8, labelpad=2)
    axes.spines[:].set(color=frame, linewidth=2.5)


def _labels(name, labels, classes, shape=None):
    """Checked labels as an array: of a shape, or of any length, and below `classes` where that is known."""
    labels = np.asarray(labels)
    if labels.shape != shape and not (shape is None and labels.ndim == 1 and len(labels)):
        wanted = "of shape " + str(shape) if shape else "a list of at least one"
        raise UserError(
            f"`{name}` must be {wanted}, a label for each image. Received: {name} of shape {labels.shape}. "
            "Take labels and images in one order."
        )
    if labels.min() < 0 or labels.max() >= (np.inf if classes is None else classes):
        raise UserError(
            f"`{name}` must be numbers of classes, from 0. Received: labels from {labels.min()} to {labels.max()}, "
            f"{classes} class names. Name all classes, and leave out images without a label."
        )
    return labels


def _check_projection(features, labels, class_names, limit):
    lacking = lacks_for_projection(features)
    if lacking:
        raise UserError(
            "`features` must be a matrix (n, D) of at least 4 rows and 2 columns, and differ from image to image. "
            f"Received: {lacking}. Give one row of features per image, of an encoder that has not collapsed."
        )
    if limit < 4:
        raise UserError(f"`limit` must be at least 4 images. Received: limit={limit}. The usual value is 2000.")
    if labels.shape != features.shape[:1] or labels.min() < UNLABELLED or labels.max() >= len(class_names):
        raise UserError(
            "`labels` must be one number of a class per row, from 0, or -1 without a label. "
            f"Received: {labels.size} labels from {labels.min()} to {labels.max()}, {len(class_names)} class names, "
            f"{len(features)} rows. Name all classes, or give labels=None."
        )


def _check_neighbours(queries, neighbours, similarity, query_labels, neighbour_labels):
    fits = queries.ndim == 4 and neighbours.ndim == 5 and similarity.ndim == 2 and similarity.size
    fits = fits and queries.shape[-1] in (1, 3) and neighbours.shape == (*similarity.shape, *queries.shape[1:])
    if not (fits and len(queries) == len(similarity) and queries.dtype == neighbours.dtype == np.uint8):
        raise UserError(
            "`queries`, `neighbours` and `similarity` must be uint8 (n, h, w, c), uint8 (n, k, h, w, c) and (n, k), c "
            f"1 or 3. Received: {queries.dtype} {queries.shape}, {neighbours.dtype} {neighbours.shape} and "
            f"{similarity.shape}. Give as many neighbours to every query."
        )
    if (query_labels is None) != (neighbour_labels is None):
        raise UserError(
            "`query_labels` and `neighbour_labels` must be given together. Received: one of them. Give both or none."
        )


def _check_fractions(results):
    if not results or not all(results.values()):
        raise UserError(
            "`results` must hold a name with a fraction at least. Received: "
            f"{ ({name: sorted(curve) for name, curve in results.items()}) }. Leave out names without a result."
        )
    for name, curve in results.items():
        for fraction, accuracies in curve.items():
            within = len(accuracies) and all(0 <= accuracy <= 100 for accuracy in accuracies)
            if not (0 < fraction <= 1 and within):
                raise UserError(
                    "`results` must map fractions in (0, 1] to accuracies in percent, one at least. "
                    f"Received: {name}: {fraction}: {accuracies}. Correct that entry."
                )
