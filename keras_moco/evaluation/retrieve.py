"""Image retrieval: the training images most similar to given images, as a picture."""

import numpy as np

from keras_moco import data
from keras_moco.errors import UserError
from keras_moco.evaluation.features import IMAGE_SETTINGS, FeatureExtractor
from keras_moco.evaluation.neighbour_plot import draw_neighbours
from keras_moco.evaluation.neighbours import nearest_neighbours

SETTINGS = (*IMAGE_SETTINGS, "split", "features", "queries", "neighbours")


def run(target):
    """`evaluate.py retrieve`: for images of a split, or image files."""
    config, train = target.config, target.train
    if config.neighbours > train.num_examples:
        raise UserError(
            "`neighbours` must not exceed the number of training images. "
            f"Received: neighbours={config.neighbours}, {train.num_examples} images. Lower --neighbours."
        )
    queries, labels = _queries(target)
    extractor = FeatureExtractor(target.features)
    query_features = extractor.extract([{"image": queries}]).features
    numbers = []

    def reference_set():
        # Streamed in blocks: the features of a large data set need not fit into memory.
        for block in extractor.blocks(target.dataset_of(train)):
            numbers.append(block.index)  # not the row: unreadable images have a number but no row
            yield block.features

    found = nearest_neighbours(reference_set(), query_features, config.neighbours)
    images, classes = _gathered(target, train, np.concatenate(numbers)[found.rows])
    path = target.output.path_of("neighbours.png")
    known = (
        {}
        if train.class_names is None or labels.min() < 0
        else {"query_labels": labels, "neighbour_labels": classes, "class_names": train.class_names}
    )
    draw_neighbours(path, _pixels(queries), _pixels(images), found.similarity, **known)
    print(f"picture    {path}")


def _queries(target):
    """The query images `(q, s, s, C)`, and their labels, -1 for image files."""
    names = target.config.queries
    if all(name.isdecimal() for name in names):
        return _gathered(target, target.images, list(map(int, names)))
    images = data.read_images(names, target.image_size, target.train.decoding or target.train.image_shape[-1])
    return images, np.full(len(images), -1)


def _gathered(target, source, numbers):
    """Images of a source by their numbers, in the order and shape of `numbers`, with their labels.

    Raises:
        ValueError: if an image does not exist, or cannot be read.
    """
    wanted, places = np.unique(numbers, return_inverse=True)
    batches = list(target.dataset_of(data.subset(source, wanted)).as_numpy_iterator())
    images, labels, read = (np.concatenate([batch[name] for batch in batches]) for name in ("image", "label", "index"))
    if len(read) < len(wanted):
        missing = np.setdiff1d(np.arange(len(wanted)), read)
        raise UserError(
            "Query images must be readable. "
            f"Received: {', '.join(map(str, wanted[missing]))} of {source.name} ({source.split}). Choose other images."
        )
    places = places.reshape(np.shape(numbers))
    return images[places], labels[places]


def _pixels(images):
    return np.round(images).astype("uint8")
