"""Image retrieval: the training images most similar to given images, as a picture and as a table."""

import csv
import dataclasses

import numpy as np

from keras_moco import data
from keras_moco.errors import UserError
from keras_moco.evaluation.batches import Pixels
from keras_moco.evaluation.features import IMAGE_SETTINGS, FeatureExtractor
from keras_moco.evaluation.neighbour_plot import draw_neighbours
from keras_moco.evaluation.neighbours import nearest_neighbours
from keras_moco.evaluation.plot_names import image_names
from keras_moco.storage.atomic import replace_when_written

SETTINGS = (*IMAGE_SETTINGS, "split", "features", "queries", "neighbours")
COLUMNS = ("query", "rank", "index", "file", "label", "class", "cosine similarity")


def run(target):
    """`evaluate.py retrieve`: for images of a split, or image files."""
    config, train = target.config, target.train
    if config.neighbours > train.num_examples:
        raise UserError(
            "`neighbours` must not exceed the number of training images. "
            f"Received: neighbours={config.neighbours}, {train.num_examples} images. Lower --neighbours."
        )
    queries, labels, query_files, query_index = _queries(target)
    extractor = FeatureExtractor(target.features)
    query_features = extractor.extract(Pixels([{"image": queries}])).features
    numbers = []

    def reference_set():
        # Streamed in blocks: the features of a large data set need not fit into memory.
        for block in extractor.blocks(target.dataset_of(train)):
            numbers.append(block.index)  # not the row: unreadable images have a number but no row
            yield block.features

    found = nearest_neighbours(reference_set(), query_features, config.neighbours)
    index = np.concatenate(numbers)[found.rows]  # (q, k)
    images, classes = _gathered(target, train, index)
    files = train.files_of(index.ravel())
    table = target.output.path_of("neighbours.csv")
    _write_table(table, query_files, query_index, index, files, classes, train.class_names, found.similarity)
    known = (
        {}
        if train.class_names is None or labels.min() < 0
        else {"query_labels": labels, "neighbour_labels": classes, "class_names": train.class_names}
    )
    names = image_names([*query_files, *files], [*query_index, *index.ravel()])
    known["query_names"] = names[: len(queries)]
    known["neighbour_names"] = np.reshape(names[len(queries) :], index.shape).tolist()
    path = target.output.path_of("neighbours.png")
    draw_neighbours(path, _pixels(queries), _pixels(images), found.similarity, **known)
    print(f"picture    {path}\ntable      {table}")


def _write_table(path, query_files, query_index, index, files, classes, class_names, similarity):
    """Writes a CSV file with a line for each neighbour of each query.

    A query is named by its file, or by its number if it has none. A neighbour without file or label has empty cells.
    """
    places, neighbours = np.ndindex(index.shape), zip(index.flat, files, classes.flat, similarity.flat, strict=True)

    def write(temporary):
        # A name that is not UTF-8 is written with the bytes that it has on the disk.
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for (row, column), (number, name, label, cosine) in zip(places, neighbours, strict=True):
                query = query_index[row] if query_files[row] is None else query_files[row]
                known = label >= 0 and class_names is not None
                of_class = (label, class_names[label]) if known else ("", "")
                writer.writerow((query, column + 1, number, name or "", *of_class, f"{cosine:.6f}"))

    replace_when_written(path, write)


def _queries(target):
    """The query images.

    Returns:
        `(images, labels, files, index)`: `(q, s, s, C)`; `(q,)`, -1 for image files; and lists, of a path or `None` and
        of the number in the split, which image files do not have.
    """
    names = target.config.queries
    if all(name.isdecimal() for name in names):
        index = list(map(int, names))
        return *_gathered(target, target.images, index), target.images.files_of(index), index
    images = data.read_images(names, target.image_size, target.train.decoding or target.train.image_shape[-1])
    return images, np.full(len(images), -1), list(names), [None] * len(images)


def _gathered(target, source, numbers):
    """Images of a source by their numbers, in the order and shape of `numbers`, with their labels.

    Raises:
        ValueError: if an image does not exist, or cannot be read.
    """
    wanted, places = np.unique(numbers, return_inverse=True)
    chosen = data.subset(source, wanted)
    if chosen.bad:  # an error about their share would not say which ones
        chosen = dataclasses.replace(chosen, bad=chosen.bad.without_limit())
    batches = list(target.dataset_of(chosen).as_numpy_iterator())
    missing = np.setdiff1d(np.arange(len(wanted)), [index for batch in batches for index in batch["index"]])
    if len(missing):
        known = chosen.bad.met if chosen.bad else {}
        names = (f"{wanted[place]}, {known[place]}" if place in known else f"{wanted[place]}" for place in missing)
        raise UserError(
            "Query images must be readable. "
            f"Received: {'; '.join(names)} in {source.name} ({source.split}). Choose other images."
        )
    images, labels = (np.concatenate([batch[name] for batch in batches]) for name in ("image", "label"))
    places = places.reshape(np.shape(numbers))
    return images[places], labels[places]


def _pixels(images):
    return np.round(images).astype("uint8")
