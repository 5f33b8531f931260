"""Images beside their most similar images, as a PNG file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_moco.data.shown_bands import stretch_of, take_bands
from keras_moco.errors import UserError
from keras_moco.evaluation.labelled import check_labels
from keras_moco.evaluation.plot_names import LINE, fit_names
from keras_moco.evaluation.plots import new_figure, save_figure
from keras_moco.storage.paths import StrPath

EQUAL, OTHER, PLAIN = "tab:green", "tab:red", "lightgray"  # frames: the class of the query, another class, no labels
WIDTH = 78  # points below an image
CLASS_SIZES, NAME_SIZES = {8: 2, 7: 3, 6: 3}, {7: 2, 6: 2}  # font sizes, and numbers of lines


def draw_neighbours(
    path: StrPath,
    queries: np.ndarray,
    neighbours: np.ndarray,
    similarity: np.ndarray,
    query_labels: np.ndarray | None = None,
    neighbour_labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    query_names: Sequence[str] | None = None,
    neighbour_names: Sequence[Sequence[str]] | None = None,
) -> Path:
    """Draws images, each beside its most similar images, with the similarity above, class and name below.

    The frame of a neighbour is green if it has the class of the query, red if not, and gray without labels. Long names
    are wrapped, then drawn in a smaller size, down to 6 points, and at last shortened in the middle.

    Args:
        path: path of the PNG file; its folder exists.
        queries: uint8 `(n, h, w, c)`. Of other channels than 1 and 3, the first three are shown as red, green and blue,
            of two the first one as gray.
        neighbours: uint8 `(n, k, h, w, c)`, best first.
        similarity: `(n, k)`.
        query_labels: `(n,)` integers in `[0, C)`. Defaults to `None`: no labels.
        neighbour_labels: `(n, k)` integers in `[0, C)`, given if and only if `query_labels` is.
        class_names: `C` strings. Defaults to the numbers of the classes.
        query_names: `n` strings, such as names of files. Defaults to `None`: no names.
        neighbour_names: `n` sequences of `k` strings, given if and only if `query_names` are.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: if images, similarities, labels and names do not fit together.
        OSError: if the file cannot be written.

    Example:

    ```python
    similarity = test.features @ train.features.T  # of unit vectors
    best = np.argsort(-similarity, axis=1)[:8, :6]
    draw_neighbours("neighbours.png", test_images[:8], train_images[best], np.take_along_axis(similarity[:8], best, 1))
    ```
    """
    queries, neighbours, similarity = map(np.asarray, (queries, neighbours, similarity))
    _check_neighbours(queries, neighbours, similarity)
    _check_texts("labels", query_labels, neighbour_labels, similarity.shape)
    _check_texts("names", query_names, neighbour_names, similarity.shape)
    shape, frames, texts = similarity.shape, np.full(similarity.shape, PLAIN), []
    if query_labels is not None:
        classes = None if class_names is None else len(class_names)
        query_labels = check_labels("query_labels", query_labels, classes, shape[:1])
        neighbour_labels = check_labels("neighbour_labels", neighbour_labels, classes, shape)
        frames = np.where(neighbour_labels == query_labels[:, None], EQUAL, OTHER)
        labels = np.column_stack([query_labels, neighbour_labels]).ravel()
        names = labels if class_names is None else [class_names[label] for label in labels]
        texts.append(fit_names(names, WIDTH, CLASS_SIZES, labels))
    if query_names is not None and neighbour_names is not None:
        names = [name for query, others in zip(query_names, neighbour_names, strict=True) for name in (query, *others)]
        texts.append(fit_names(names, WIDTH, NAME_SIZES))

    cells = (shape[0], 1 + shape[1])
    heights = [LINE * text.lines * text.style["fontsize"] + 2 for text in texts]  # points
    stretch = stretch_of([queries, neighbours])
    figure = new_figure(1.2 * cells[1], (1.35 + sum(heights) / 72) * cells[0])
    for (row, column), axes in np.ndenumerate(figure.subplots(*cells, squeeze=False)):
        if column:
            place = row, column - 1
            _show(axes, neighbours[place], stretch, frames[place], f"{similarity[place]:.3f}")
        else:
            _show(axes, queries[row], stretch, "black", "" if row else "query")
        for text, offset in zip(texts, _offsets(texts, row, cells[1]), strict=True):
            axes.annotate(
                text.texts[row * cells[1] + column],
                *((0.5, 0), (0, -offset)),
                **{"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "top"},
                **text.style,
                color="black" if offset == 4 else "dimgray",
            )
    return save_figure(path, figure)


def _offsets(texts, row, columns):
    """How far below its image each kind of text begins in a row, in points."""
    offsets = [4.0]
    for text in texts[:-1]:
        lines = 1 + max(each.count("\n") for each in text.texts[row * columns : (row + 1) * columns])
        offsets.append(offsets[-1] + LINE * lines * text.style["fontsize"] + 2)
    return offsets[: len(texts)]


def _show(axes, image, stretch, frame, above):
    """An image in a coloured frame with a line of text above."""
    image = take_bands(image)
    if stretch:  # many bands, most of which would be dark
        black, white = stretch
        image = np.clip((image - black) / (white - black), 0, 1)
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(above, fontsize=8, pad=3)
    axes.spines[:].set(color=frame, linewidth=2.5)


def _check_neighbours(queries, neighbours, similarity):
    fits = queries.ndim == 4 and neighbours.ndim == 5 and similarity.ndim == 2 and similarity.size
    fits = fits and neighbours.shape == (*similarity.shape, *queries.shape[1:])
    if not (fits and len(queries) == len(similarity) and queries.dtype == neighbours.dtype == np.uint8):
        raise UserError(
            "`queries`, `neighbours` and `similarity` must be uint8 (n, h, w, c), uint8 (n, k, h, w, c) and (n, k). "
            f"Received: {queries.dtype} {queries.shape}, {neighbours.dtype} {neighbours.shape} and "
            f"{similarity.shape}. Give the same number of neighbours for every query."
        )


def _check_texts(kind, of_queries, of_neighbours, shape):
    """Labels or names: both or neither; one name for each image."""
    if (of_queries is None) != (of_neighbours is None):
        raise UserError(
            f"`query_{kind}` and `neighbour_{kind}` must be given together. Received: one of them. "
            "Give both or neither."
        )
    if kind == "names" and of_queries is not None:
        counts = [len(names) for names in of_neighbours]
        if (len(of_queries), counts) != (shape[0], shape[0] * [shape[1]]):
            raise UserError(
                "`query_names` and `neighbour_names` must hold one name per image. Received: "
                f"{len(of_queries)} names, and lists of {counts} names, for {shape[0]} queries with {shape[1]} "
                "neighbours each. Take names and images from the same data, in the same order."
            )
