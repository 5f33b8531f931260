"""Images beside their most similar images, as a PNG file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_moco.data.shown_bands import take_bands
from keras_moco.errors import UserError
from keras_moco.evaluation.labelled import check_labels
from keras_moco.evaluation.plots import new_figure, plain_text, save_figure
from keras_moco.storage.paths import StrPath

EQUAL, OTHER, PLAIN = "tab:green", "tab:red", "lightgray"  # frames: the class of the query, another class, no labels


def draw_neighbours(
    path: StrPath,
    queries: np.ndarray,
    neighbours: np.ndarray,
    similarity: np.ndarray,
    query_labels: np.ndarray | None = None,
    neighbour_labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Draws images, each beside its most similar images, with the similarity above and the class below.

    The frame of a neighbour is green if it has the class of the query, red if not, and gray without labels.

    Args:
        path: path of the PNG file; its folder exists.
        queries: uint8 `(n, h, w, c)`. Of other channels than 1 and 3, the first three are shown as red, green and blue,
            of two the first one as gray.
        neighbours: uint8 `(n, k, h, w, c)`, best first.
        similarity: `(n, k)`.
        query_labels: `(n,)` integers in `[0, C)`. Defaults to `None`: no labels.
        neighbour_labels: `(n, k)` integers in `[0, C)`, given if and only if `query_labels` is.
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
        query_labels = check_labels("query_labels", query_labels, classes, (rows,))
        neighbour_labels = check_labels("neighbour_labels", neighbour_labels, classes, (rows, columns))

    def name(label):
        return plain_text(label if class_names is None else class_names[label], 14)

    figure = new_figure(1.2 * (columns + 1), (1.5 if labelled else 1.35) * rows)
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    for row, (query, *others) in enumerate(grid):
        _show(query, queries[row], "black", "query" if row == 0 else "", name(query_labels[row]) if labelled else "")
        for column, axes in enumerate(others):
            frame, below = PLAIN, ""
            if labelled:
                label = neighbour_labels[row, column]
                frame, below = EQUAL if label == query_labels[row] else OTHER, name(label)
            _show(axes, neighbours[row, column], frame, f"{similarity[row, column]:.3f}", below)
    return save_figure(path, figure)


def _show(axes, image, frame, above, below):
    """An image in a coloured frame with a line of text above and below."""
    image = take_bands(image)
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(above, fontsize=8, pad=3)
    axes.set_xlabel(below, fontsize=8, labelpad=2)
    axes.spines[:].set(color=frame, linewidth=2.5)


def _check_neighbours(queries, neighbours, similarity, query_labels, neighbour_labels):
    fits = queries.ndim == 4 and neighbours.ndim == 5 and similarity.ndim == 2 and similarity.size
    fits = fits and neighbours.shape == (*similarity.shape, *queries.shape[1:])
    if not (fits and len(queries) == len(similarity) and queries.dtype == neighbours.dtype == np.uint8):
        raise UserError(
            "`queries`, `neighbours` and `similarity` must be uint8 (n, h, w, c), uint8 (n, k, h, w, c) and (n, k). "
            f"Received: {queries.dtype} {queries.shape}, {neighbours.dtype} {neighbours.shape} and "
            f"{similarity.shape}. Give the same number of neighbours for every query."
        )
    if (query_labels is None) != (neighbour_labels is None):
        raise UserError(
            "`query_labels` and `neighbour_labels` must be given together. Received: one of them. Give both or neither."
        )
