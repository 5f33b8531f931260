"""Images written as files, TFRecords and TensorFlow Datasets, for tests of sources."""

import contextlib
import io
import signal
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image


def smooth(number, height, width):
    """An image with an outline of its own, in which every crop looks different."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype="uint8")
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels, kind, **options):
    """The bytes of an image file, written by Pillow."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, kind, **options)
        return file.getvalue()


def record(image=None, label=None, feature="image/encoded", label_feature="image/class/label"):
    """A serialised `tf.train.Example`."""
    features = {}
    if image is not None:
        features[feature] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    if label is not None:
        features[label_feature] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(path, records, compression=""):
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for each in records:
            writer.write(each)


def write_tar(path, files, mode="w", **options):
    """Writes the bytes of files into a tar archive; `files` is a dict by name, or a list of pairs."""
    with tarfile.open(path, mode, **options) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_zip(path, files, compression=zipfile.ZIP_STORED):
    """Writes the bytes of files, a dict by name, into a zip archive; a name that ends in a slash is a folder."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def store_tfds(data_dir, name, splits, channels=3, classes=0, encoding="png", how=None, **image):
    """Stores a set without registering it; `splits` are lists of images or paths, with classes of `(image, label)`.

    `how` is a dict of further arguments of TFDS.
    """
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()
    features = {"image": tfds.features.Image(shape=(None, None, channels), encoding_format=encoding, **image)}
    if classes:
        features["label"] = tfds.features.ClassLabel(num_classes=classes)

    def rows(examples):
        for row, example in enumerate(examples):
            yield row, dict(zip(features, example if classes else [example], strict=True))

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        data_dir=data_dir,
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: rows(examples) for split, examples in splits.items()},
        **(how or {}),
    )


def write(folder, kind, files):
    """Writes encoded images, in this order, as the source of a kind; returns its name and `data_dir`."""
    if kind == "tfrecord":
        for shard in range(2):
            write_records(folder / f"images-{shard}", map(record, files[shard::2]))
        return f"tfrecord:{folder}/images-*", None
    if kind == "webdataset":
        middle = len(files) // 2
        for shard, part in enumerate((files[:middle], files[middle:])):
            write_tar(folder / f"{shard}.tar", {f"{number:02}.jpg": data for number, data in enumerate(part)})
        return f"webdataset:{folder}/*.tar", None
    if kind == "zip":
        write_zip(folder / "images.zip", {f"{number:02}.jpg": data for number, data in enumerate(files)})
        return f"zip:{folder}/images.zip", None
    paths = [folder / f"{number:02}.jpg" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    if kind == "folder":
        return f"folder:{folder}", None
    store_tfds(folder / "sets", "stored", {"train": map(str, paths)}, encoding=None)  # files are taken as they are
    return "tfds:stored", folder / "sets"


@contextlib.contextmanager
def time_limit(seconds):
    """Fails where a block would wait for ever."""

    def fail(*_):
        raise TimeoutError(f"still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(source, seed=None):
    """All examples of a source."""
    return list(source.examples(seed).as_numpy_iterator())
