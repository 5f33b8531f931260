"""Modes that put features to use: looking images up, features in a file, the exported backbone."""

import numpy as np

from keras_moco import data
from keras_moco.errors import UserError
from keras_moco.evaluation import FeatureExtractor, draw_neighbours, extract_features, nearest_neighbours
from keras_moco.evaluation.modes.base import IMAGES, mode
from keras_moco.export.backbone import export_backbone
from keras_moco.storage.atomic import replace_when_written


@mode(*IMAGES, "split", "features", "queries", "neighbours")
def retrieve(subject):
    """The training images most similar to given ones, as a picture."""
    config, train = subject.config, subject.train
    if config.neighbours > train.num_examples:
        raise UserError(
            "`neighbours` must not exceed the number of training images, among which they are. "
            f"Received: neighbours={config.neighbours}, {train.num_examples} images. Lower --neighbours."
        )
    queries, labels = _queries(subject)
    extractor = FeatureExtractor(subject.features)
    looked_up = extractor.extract([{"image": queries, "label": labels, "index": labels}])
    numbers = []

    def bank():
        # Their features go by in blocks, so that a large set need not fit into memory.
        for block in extractor.blocks(subject.dataset_of(train)):
            numbers.append(block.index)  # a row of the bank is no number of an image: unreadable ones have no row
            yield block.features

    found = nearest_neighbours(bank(), looked_up.features, config.neighbours)
    images, classes = _gathered(subject, train, np.concatenate(numbers)[found.rows])
    path = subject.place("neighbours.png")
    known = (
        {}
        if train.class_names is None or labels.min() < 0
        else {"query_labels": labels, "neighbour_labels": classes, "class_names": train.class_names}
    )
    draw_neighbours(path, _pixels(queries), _pixels(images), found.similarity, **known)
    print(f"picture    {path}")


@mode(*IMAGES, "split", "features")
def embed(subject):
    """The features of all images of a split, in a file for NumPy, with the names of their files."""
    source = subject.images
    found = extract_features(subject.features, subject.dataset_of(source))
    path = subject.place(f"features_{source.split}.npz")
    arrays = {**found._asdict()}
    if source.files:
        arrays["files"] = np.array([source.files[index] for index in found.index])

    def write(temporary):
        with open(temporary, "wb") as file:  # to a name, NumPy would add an ending
            np.savez(file, **arrays)

    replace_when_written(path, write)
    print(f"{len(found.features):,} x {found.features.shape[1]} features of {source.name} ({source.split})")
    print(f"features   {path}, with {', '.join(arrays)}")


@mode()
def export(subject):
    """The backbone as SavedModel and .keras file, again."""
    folder = export_backbone(subject.encoder, subject.card.parent)
    print(f"exported to {folder}")


def _queries(subject):
    """Images `(q, s, s, C)` to look up, and their labels, -1 where there are none."""
    names = subject.config.queries
    if all(name.isdecimal() for name in names):
        return _gathered(subject, subject.images, list(map(int, names)))
    images = data.read_images(names, subject.image_size, subject.train.image_shape[-1])
    return images, np.full(len(images), -1)


def _gathered(subject, source, numbers):
    """Images of a source by their numbers in it, in the order and shape of these, with their labels.

    Raises:
        ValueError: if one of them cannot be read, or there is none of that number.
    """
    wanted, places = np.unique(numbers, return_inverse=True)
    batches = list(subject.dataset_of(data.subset(source, wanted)).as_numpy_iterator())
    images, labels, read = (np.concatenate([batch[name] for batch in batches]) for name in ("image", "label", "index"))
    if len(read) < len(wanted):
        missing = np.setdiff1d(np.arange(len(wanted)), read)
        raise UserError(
            "Images that are asked for must be readable. "
            f"Received: {', '.join(map(str, wanted[missing]))} of {source.name} ({source.split}). Name others."
        )
    places = places.reshape(np.shape(numbers))
    return images[places], labels[places]


def _pixels(images):
    return np.round(images).astype("uint8")
