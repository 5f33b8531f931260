"""Images with their features, and TensorBoard's embedding projector of them, in which each point is its image."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_moco.checks.graph import plain_failures
from keras_moco.data import evaluation_dataset
from keras_moco.data.subset import sample
from keras_moco.errors import one_line
from keras_moco.evaluation import FeatureExtractor
from keras_moco.storage.atomic import replace_when_written, write_text
from keras_moco.storage.paths import user_path
from keras_moco.summaries.image_grid import grid, save, to_rgb

KEPT = 96  # pixels, the largest side of an image that is kept
LIMIT = 8192  # pixels, the largest side of a sprite that TensorBoard accepts
SIDE = 48  # pixels, the largest side of an image in it: 2,000 photographs are 8 MB


class EmbeddedImages(NamedTuple):
    """Images, small enough to be kept, with their features.

    Attributes:
        features: float32 array `(n, F)`.
        labels: int32 array `(n,)`, -1 for an image without a label.
        index: int64 array `(n,)`, the position of each image in its source.
        images: uint8 array `(n, s, s, C)`, with `s` at most 96.
        files: array `(n,)` of paths, or `None` for images that are in no files of their own.
    """

    features: np.ndarray
    labels: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # a tuple has a method of that name
    images: np.ndarray
    files: np.ndarray | None = None

    def at(self, rows):
        """The images of these rows."""
        files = None if self.files is None else self.files[rows]
        return EmbeddedImages(self.features[rows], self.labels[rows], self.index[rows], self.images[rows], files)

    def paths(self):
        """The path of each image, or `None`, a list."""
        return [None] * len(self.index) if self.files is None else self.files.tolist()


class CopyingExtractor(FeatureExtractor):
    """A `FeatureExtractor` that also returns the entry `"copy"` of its batches."""

    def call(self, batch):
        return {**super().call(batch), "copy": batch["copy"]}


def embed_images(source, extractor, image_size, count, seed=0):
    """Reads some images of a source once, for their features and for small copies of them.

    Args:
        source: `Source`.
        extractor: `CopyingExtractor`.
        image_size: int, side of the images that the extractor takes, in pixels.
        count: int, how many images at most.
        seed: int, decides which images, as in `keras_moco.data.subset.sample`.

    Returns:
        `EmbeddedImages`.
    """

    def with_copy(batch):
        return {**batch, "copy": shrink(batch["image"], KEPT)}

    batches = evaluation_dataset(sample(source, count, seed), image_size).map(with_copy)
    with warnings.catch_warnings(), plain_failures():
        # Keras warns of every data set of unknown length that it ended.
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        found = extractor.predict(batches, verbose=0)
    files = np.array(source.files_of(found["index"])) if source.files else None
    return EmbeddedImages(
        np.asarray(found["features"], "float32"), found["label"], found["index"], found["copy"], files
    )


def shrink(images, side):
    """Images `(n, s, s, C)` with values 0..255 as a uint8 tensor, at most `side` pixels wide."""
    if images.shape[1] > side:
        images = tf.image.resize(images, (side, side), antialias=True)
    return tf.cast(tf.round(images), "uint8")


def write_projector(log_dir, embedded, class_names=None):
    """Writes features, labels and small images where TensorBoard's projector finds them; earlier ones are replaced.

    Args:
        log_dir: path of the folder in which the run's events are, made if it is missing.
        embedded: `EmbeddedImages`.
        class_names: list of strings, the names of the labels. Defaults to `None`: the points have no class.

    Returns:
        `pathlib.Path` of the projector's configuration, which is written last.
    """
    from google.protobuf import text_format
    from tensorboard.plugins import projector

    folder = user_path(log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    columns = math.ceil(math.sqrt(len(embedded.images)))
    images = shrink(embedded.images, min(SIDE, LIMIT // columns)).numpy()
    cells = [to_rgb(image) for image in images]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    save(folder / "sprite.png", grid(rows, gap=0))
    replace_when_written(
        folder / "features.tsv", lambda path: np.savetxt(path, embedded.features, fmt="%.5g", delimiter="\t")
    )
    write_text(folder / "labels.tsv", labels_table(embedded, class_names))

    config = projector.ProjectorConfig()
    embedding = config.embeddings.add(tensor_name="features", tensor_path="features.tsv", metadata_path="labels.tsv")
    embedding.tensor_shape.extend(embedded.features.shape)
    embedding.sprite.image_path = "sprite.png"
    embedding.sprite.single_image_dim.extend(2 * [images.shape[1]])
    path = folder / "projector_config.pbtxt"
    write_text(path, text_format.MessageToString(config))
    return path


def labels_table(embedded, class_names):
    """A line for each point: its class and its file, if there are any, and its index in the source."""
    columns = {"index": [str(index) for index in embedded.index]}
    if embedded.files is not None:
        columns = {"file": [one_line(file) for file in embedded.files.tolist()], **columns}  # a tab would end a cell
    if class_names is not None:
        names = [one_line(" ".join(name.split())) for name in class_names]
        columns = {"class": [names[label] if label >= 0 else "no label" for label in embedded.labels], **columns}
    header = ["\t".join(columns)] if len(columns) > 1 else []  # one column has no header
    return "".join(f"{line}\n" for line in [*header, *map("\t".join, zip(*columns.values(), strict=True))])
