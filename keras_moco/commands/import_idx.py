"""Converts IDX files, the format of MNIST and its relatives, to a TensorFlow Datasets data set.

    keras-moco import-idx SRC --name fashion_mnist --data_dir DIR

reads `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two `t10k-` files in SRC, gzipped or not; the
spelling `train-images.idx3-ubyte` is accepted too. Afterwards `tfds:fashion_mnist` with `data_dir=DIR` opens offline.
"""

import contextlib
import gzip
import pathlib
import sys
import zlib

import numpy as np

from keras_moco.commands.registry import COMMANDS
from keras_moco.errors import UserError
from keras_moco.storage.paths import check_file, user_path

IMAGES, LABELS = 0x00000803, 0x00000801  # IDX magic numbers: unsigned bytes in 3 and in 1 dimensions
FILE_PREFIXES = {"train": "train", "test": "t10k"}
CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    ),
}  # fmt: skip


def read_idx(path, magic):
    """Reads an IDX file that starts with a magic number: uint8, images `(n, h, w)` or labels `(n,)`."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"An IDX file must be complete. Received: {path}, whose gzip stream is broken ({error}). Download it again."
        ) from error
    dimensions = magic & 0xFF
    header = np.frombuffer(content[: 4 + 4 * dimensions], dtype=">u4") if len(content) >= 4 + 4 * dimensions else [0]
    if header[0] != magic:
        raise UserError(
            f"An IDX file of {'images' if magic == IMAGES else 'labels'} must start with the magic number "
            f"{magic:#010x}. Received: {path}, which starts with {content[:4].hex() or 'nothing'}. "
            "Download it again, or correct its name."
        )
    shape = tuple(int(size) for size in header[1:])
    received = len(content) - 4 - 4 * dimensions
    if received != np.prod(shape):
        raise UserError(
            f"An IDX file must hold the number of bytes in its header, {np.prod(shape)} for shape {shape}. "
            f"Received: {path} with {received}. Download it again."
        )
    return np.frombuffer(content, dtype="uint8", offset=4 + 4 * dimensions).reshape(shape)


def read_split(source_dir, split):
    """Reads one split of a folder of IDX files: uint8 images `(n, h, w, 1)` and labels `(n,)`."""
    images = read_idx(_find(source_dir, FILE_PREFIXES[split], "images", 3), IMAGES)
    labels = read_idx(_find(source_dir, FILE_PREFIXES[split], "labels", 1), LABELS)
    if len(images) != len(labels) or not len(images):
        raise UserError(
            f"The {split} split in {source_dir} must have as many labels as images, and at least one. "
            f"Received: {len(images)} images, {len(labels)} labels. Download both files again."
        )
    return images[..., None], labels


def _find(source_dir, prefix, kind, dimensions):
    names = [f"{prefix}-{kind}{dot}idx{dimensions}-ubyte{gz}" for dot in "-." for gz in (".gz", "")]
    for name in names:
        if (source_dir / name).exists():
            check_file(source_dir / name, "IDX files must be files.", "Download it again.")
            return source_dir / name
    raise UserError(
        f"The source folder must hold one of {', '.join(names)}. Received: {source_dir}. Copy the file there."
    )


def import_idx(source_dir, name, data_dir, class_names=None):
    """Writes the IDX files of a folder as a TensorFlow Datasets data set.

    The examples keep the order of the IDX files, so an index in `tfds:<name>` is a row of the IDX file.

    Args:
        source_dir: str or path. The folder of the four IDX files.
        name: str. Name of the new data set: lower-case letters, digits and underscores.
        data_dir: str or path. The folder of TensorFlow Datasets' data sets.
        class_names: list of str. Defaults to the known names of mnist, kmnist and fashion_mnist, else "0", "1", ...

    Returns:
        The folder that was written.

    Raises:
        ValueError: if files are missing or damaged, the names do not fit, or the data set already exists.
    """
    source_dir, data_dir = user_path(source_dir), user_path(data_dir)
    if not (name.isidentifier() and name.isascii() and name == name.lower()):
        raise UserError(
            "`name` must be lower-case letters, digits and underscores, and not start with a digit. "
            f"Received: name={name!r}. Choose such a name, for example my_digits."
        )
    if (data_dir / name).exists():
        raise UserError(
            f"`data_dir` must not hold the data set already. Received: {data_dir / name}, which exists. "
            "Choose another `name`, or delete that folder to import again."
        )
    splits = {split: read_split(source_dir, split) for split in FILE_PREFIXES}
    num_classes = 1 + max(int(labels.max()) for _, labels in splits.values())
    class_names = class_names or CLASS_NAMES.get(name) or [str(label) for label in range(num_classes)]
    if len(class_names) < num_classes or len(set(class_names)) < len(class_names):
        raise UserError(
            f"`class_names` must be distinct and name every label, 0 to {num_classes - 1}. "
            f"Received: {len(class_names)} names, {','.join(class_names)}. "
            "Correct the names; where labels count from 1, the first name is one for 0."
        )
    shapes = {images.shape[1:] for images, _ in splits.values()}
    if len(shapes) > 1:
        raise UserError(
            f"Images of all splits must have one shape. Received: {sorted(shapes)} in {source_dir}. "
            "Import sets of different shapes under different names."
        )
    return _store(name, data_dir, splits, shapes.pop(), class_names)


def _store(name, data_dir, splits, image_shape, class_names):
    from keras_moco.data.tfds import quiet, registered_version, tfds

    def rows(images, labels):
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield row, {"image": image, "label": int(label)}

    tfds.disable_progress_bar()  # the bars would end up in log files
    with quiet(), contextlib.redirect_stdout(sys.stderr):  # TFDS prints what it does; stdout is for results
        builder = tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            # The version of TFDS's own builder of that name, if any, so that `tfds.load` finds it too.
            version=registered_version(name) or "1.0.0",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=image_shape, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(class_names)),
                }
            ),
            split_datasets={split: rows(*arrays) for split, arrays in splits.items()},
            data_dir=data_dir,
            description="Imported from IDX files.",
            disable_shuffling=True,
        )
    return pathlib.Path(builder.data_dir)


def work(args):
    """Imports the files and says where they are."""
    path = import_idx(args.source_dir, args.name, args.data_dir, args.class_names)
    print(f"Wrote {path}. Open it as tfds:{args.name} with data_dir={args.data_dir}.")


def main(argv=None):
    """Runs the command; returns its exit status."""
    return COMMANDS["import-idx"].main(argv)
