"""A folder of image files as a source."""

import os
import pathlib

import tensorflow as tf

from keras_moco.data.memory import permutation
from keras_moco.data.read_errors import RULE
from keras_moco.data.sources import Source, kept

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}


def open_folder(path, split):
    """Opens the image files below a folder.

    Sub-folders are classes, labelled in the sorted order of their names; images below them are found at any
    depth. A folder that holds its images directly is unlabelled. If `<path>/train` exists, the splits are
    `<path>/train` and `<path>/test` (or `val`, or `validation`); otherwise everything is the `train` split.
    Files and folders whose names begin with a dot are ignored.

    Args:
        path: str.
        split: str. `"train"` or `"test"`.

    Returns:
        A `Source` of images of any size: JPEG, PNG, BMP, or the first frame of a GIF. The first file decides
        whether all have 1 channel or 3; others are converted, an alpha channel is dropped and 16 bits become
        8.

    Raises:
        ValueError: There is no such folder or split, it holds no images, or images lie beside class
            sub-folders.
    """
    name = f"folder:{path}"
    root = _split_folder(pathlib.Path(path).expanduser(), name, split)
    class_names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [(file, -1) for file in _image_files(root, depth=1)]
    if files and class_names:
        raise ValueError(
            "A folder of images must hold either class sub-folders or images, not both. "
            f"Received: {root} with {len(files)} images beside {len(class_names)} sub-folders. Move the "
            "images."
        )
    for label, class_name in enumerate(class_names):
        in_class = [(file, label) for file in _image_files(root / class_name)]
        if not in_class:
            raise ValueError(
                f"Every class sub-folder must hold images ({' '.join(EXTENSIONS)}). Received: "
                f"{root / class_name}, "
                "which holds none. Delete it, or fill it."
            )
        files += in_class
    if not files:
        raise ValueError(
            f"A folder of images must hold images ({' '.join(EXTENSIONS)}). Received: {root}, with none. Add some."
        )
    channels = _channels(files[0][0])
    with tf.device("CPU"):
        paths = tf.constant([file for file, _ in files])
        labels = tf.constant([label for _, label in files])

    def read(seed, keep):
        def load(index):
            image = _read_image(paths[index], channels)
            return {"image": image, "label": labels[index], "index": index}

        order = kept(tf.data.Dataset.from_tensor_slices(permutation(len(files), seed)), keep)
        return order.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    return Source(
        name=name,
        split=split,
        num_examples=len(files),
        image_shape=(None, None, channels),
        class_names=tuple(class_names) or None,
        read=read,
    )


def _split_folder(root, name, split):
    if not root.is_dir():
        raise ValueError(f"`path` of folder:<path> must be an existing folder. Received: {name!r}. Correct it.")
    if not (root / "train").is_dir():
        if split == "train":
            return root
        raise ValueError(
            "A folder must have the sub-folders `train` and `test` (or `val`) to be opened as "
            f"split={split!r}. "
            f"Received: {name!r}, without `train`. Its images are the `train` split."
        )
    for folder in SPLIT_FOLDERS[split]:
        if (root / folder).is_dir():
            return root / folder
    raise ValueError(
        f"A folder must have one of the sub-folders {', '.join(SPLIT_FOLDERS[split])} to be opened as "
        f"split={split!r}. "
        f"Received: {name!r}, with `train` only."
    )


def _image_files(folder, depth=None):
    """Sorted paths of the image files below a folder, directly in it if `depth` is 1."""
    found = []
    for directory, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = [] if depth == 1 else [name for name in subfolders if not name.startswith(".")]
        chosen = (name for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith("."))
        found += [os.path.join(directory, name) for name in chosen]
    return sorted(found)


def _channels(file):
    """1 if the file is a gray image, else 3."""
    try:
        decoded = _decode(file)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{RULE} Received: {file}. Delete or replace it.") from error
    return 1 if decoded.shape[-1] < 3 else 3


def _decode(path):
    image = tf.io.decode_image(tf.io.read_file(path), expand_animations=False)
    return tf.ensure_shape(image, [None, None, None])


def _read_image(path, channels):
    """Decodes one file to uint8 `(h, w, channels)`; its error names the file, as TensorFlow's does not."""
    # A nested data set that drops what fails: after a failed op there is no other way to go on and name the
    # file.
    decoded = tf.data.Dataset.from_tensors(path).map(_decode).ignore_errors().map(lambda image: (True, image))
    nothing = tf.data.Dataset.from_tensors((False, tf.zeros([0, 0, 0], tf.uint8)))
    complete, image = decoded.concatenate(nothing).take(1).get_single_element()
    with tf.control_dependencies([tf.debugging.Assert(complete, [f"{RULE} Received:", path])]):
        image = tf.identity(image)
    # 1 gray, 2 gray and alpha, 3 colour, 4 colour and alpha
    gray = tf.shape(image)[-1] < 3
    if channels == 1:
        image = tf.cond(gray, lambda: image[..., :1], lambda: tf.image.rgb_to_grayscale(image[..., :3]))
    else:
        image = tf.cond(gray, lambda: tf.repeat(image[..., :1], 3, axis=-1), lambda: image[..., :3])
    return tf.ensure_shape(image, [None, None, channels])
