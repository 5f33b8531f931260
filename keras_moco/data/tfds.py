"""TensorFlow Datasets as a source."""

import contextlib
import difflib
import functools
import math
import pathlib
import socket
import urllib.request

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from keras_moco.data.arrays import examples_from_arrays
from keras_moco.data.decode import Files
from keras_moco.data.labels import class_of
from keras_moco.data.record_names import describe_record, record_names
from keras_moco.data.shuffle_buffer import ShuffleBuffer, shuffled_stream
from keras_moco.data.source import Source
from keras_moco.data.tfds_files import (
    RULE,
    check_readable,
    check_split,
    encoded_examples,
    identity,
    record_files,
    refuse_half_written,
)
from keras_moco.errors import UserError
from keras_moco.image_formats.decoding import Decoding

# A data set of at most this many decoded bytes is read once and kept in memory: CIFAR-10 takes 154 MB.
MEMORY_BYTES = 256 * 2**20
MANUAL_FILES = {"imagenet2012": "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (from image-net.org)"}
IDX_SETS = ("mnist", "fashion_mnist", "kmnist")


def open_tfds(name, options):
    """Opens a TensorFlow Datasets data set; one that is prepared already needs no network.

    Args:
        name: str. `<name>` or `<name>/<config>`.
        options: `Options`. The split is `"train"`, `"test"` (the `validation` split where there is no labelled test
            split), or any other split the data set has.

    Returns:
        A `Source`. Images are the feature `image`, labels the feature `label` if there is one.

    Raises:
        ValueError: There is no such data set or split, it could not be prepared, or it holds no 8-bit images.
    """
    split, data_dir = options.split, options.data_dir
    builder = _prepared_builder(name, None if data_dir is None else str(pathlib.Path(data_dir).expanduser()))
    features = dict(builder.info.features.items())
    image = features.get("image")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != "uint8" or image.shape[-1] not in (1, 3):
        raise UserError(
            "A TFDS source must have a feature `image` of 8-bit images with 1 or 3 channels. "
            f"Received: tfds:{name} with features "
            f"{', '.join(f'{key}={feature}' for key, feature in features.items())}. "
            "Choose another data set, or save its images in a folder."
        )
    label = features.get("label")
    labelled = isinstance(label, tfds.features.ClassLabel)
    tfds_split = _resolve_split(builder, name, split, labelled)
    check_split(builder, name, tfds_split)
    info = builder.info.splits[tfds_split]
    num_examples, shape, channels = info.num_examples, tuple(image.shape), image.shape[-1]
    num_bytes = info.num_bytes or sum(path.stat().length for path in info.filepaths)  # unknown in old sets
    buffer = ShuffleBuffer.of(num_examples, int(num_bytes), options.shuffle_buffer_mib)
    records = record_files(builder, tfds_split)
    classes = len(label.names) if labelled else 0
    read = functools.partial(_stream, builder, tfds_split, records, buffer, classes, options.cache)
    in_memory = None not in shape and num_examples * math.prod(shape) <= MEMORY_BYTES
    again = f"Delete {builder.data_dir}, and prepare tfds:{name} again."
    arrays = _decoded_once(lambda: read(None), num_examples, shape, records, again) if in_memory else None

    def describe(index):
        more = f"; {describe_record(records, index, 'image')}" if records else ""
        return f"example {index} of tfds:{name} ({split}{more})"

    return Source(
        name=f"tfds:{name}",
        split=split,
        num_examples=num_examples,
        image_shape=shape,
        class_names=tuple(label.names) if labelled else None,
        read=(lambda seed: examples_from_arrays(*arrays(), seed=seed)) if in_memory else read,
        arrays=arrays,
        encoded=None if in_memory else Files(Decoding(channels)),
        bad=None if in_memory else options.judge(num_examples, describe),
        names=functools.partial(record_names, records) if records else None,
        place_of=records.place_of if records else None,
        buffer=None if in_memory else buffer,
        licence=builder.info.redistribution_info.license or None,
        identity=lambda: identity(builder, tfds_split),
    )


def _decoded_once(read, num_examples, shape, records, way_out):
    """The function `Source.arrays` of a split that is decoded at its first call, and kept in memory."""

    def decode(example):
        complete, image = Files(Decoding(shape[-1])).open(example["image"], lambda decoder: decoder.whole())
        with tf.control_dependencies([tf.debugging.Assert(complete, ["an example that cannot be decoded"])]):
            return tf.ensure_shape(image, shape), example["label"]

    @functools.cache
    def arrays():
        # The first call may be within a tf.data function, whose graph must not contain the arrays.
        with tf.init_scope(), tf.device("CPU"):
            decoded = read().map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            try:
                return decoded.batch(num_examples).get_single_element()
            except tf.errors.OpError as error:
                damage = records.damage() if records else []
                if not damage:
                    raise
                raise UserError(f"{RULE} Received: {damage[0]}. {way_out}") from error

    return arrays


def _stream(builder, split, records, buffer, classes, cache, seed):
    """Reads a split from its files, images encoded."""
    dataset = encoded_examples(builder, split, records)

    def entries(index, example):
        label = class_of(example["label"], index, 0, classes) if classes else -1
        return {"image": example["image"], "label": label, "index": index}

    return shuffled_stream(dataset.enumerate().map(entries), buffer, seed, cache)


def _resolve_split(builder, name, split, labelled):
    splits = builder.info.splits
    if split in splits and not (split == "test" and "validation" in splits and labelled):
        return split
    if split == "test" and "validation" in splits:
        # ImageNet's test split, where prepared, has no labels (-1); the accuracy everybody reports is on
        # validation.
        if "test" in splits:
            check_split(builder, name, "test")
            if _first_label(builder, "test") >= 0:
                return "test"
        return "validation"
    raise UserError(
        f"`split` of tfds:{name} must be one of {', '.join(splits)}. Received: split={split!r}. "
        "Choose one of them; `test` stands for `validation` where there is no test split."
    )


def _first_label(builder, split):
    examples = encoded_examples(builder, split, record_files(builder, split))
    return next((int(example["label"]) for example in examples.take(1)), -1)


@contextlib.contextmanager
def quiet():
    """Hides TFDS's warnings, such as one for every missing folder; errors are still shown."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def registered_version(name):
    """The version of TFDS's own data set builder of this name, a str, or `None`."""
    try:
        return str(tfds.builder_cls(name).VERSION)
    except tfds.core.DatasetNotFoundError:
        return None


def _prepared_builder(name, data_dir):
    """1. what is prepared in `data_dir`; 2. TFDS's own builder, which may download; 3. an error."""
    # It opens prepared files without their builder, for which there is no public function. The test of a set stored
    # without a builder notices if it changes.
    from tensorflow_datasets.core import read_only_builder

    where = data_dir or tfds.core.constants.DATA_DIR
    check_readable(where, name)
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, AssertionError):
        pass  # not prepared; the next step reports it, with a better message
    except Exception as error:  # what TFDS raises depends on where its files are damaged; without any it is a bug
        refuse_half_written(where, name, error)
        if not isinstance(error, ValueError):
            raise
    try:
        with quiet():
            builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # TFDS raises many kinds here: unknown name, malformed name, unknown config
        refuse_half_written(where, name, None)
        raise UserError(_unknown_name(name, where)) from error
    if not builder.is_prepared():
        refuse_half_written(where, name, None)
        _prepare(builder, name, where)
    return builder


def _unknown_name(name, where):
    base = name.split("/")[0].split(":")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if base in known:
        configs = list(tfds.builder_cls(base).builder_configs)
        hint = f"Its configs are {', '.join(configs)}." if configs else "It has no configs; omit what follows the `/`."
    elif close := difflib.get_close_matches(base, known + _prepared_names(where), n=3):
        hint = f"Did you mean {' or '.join(close)}?"
    else:
        hint = f"Prepared in {where}: {', '.join(_prepared_names(where)) or 'nothing'}."
    rule = "A TFDS source must be prepared on disk or known to TensorFlow Datasets."
    return f"{rule} Received: tfds:{name}. {hint}"


def _prepared_names(where):
    return sorted({path.parts[-3] for path in pathlib.Path(where).glob("*/*/features.json")}) + sorted(
        {"/".join(path.parts[-4:-2]) for path in pathlib.Path(where).glob("*/*/*/features.json")}
    )


def _prepare(builder, name, where):
    manual_dir = pathlib.Path(where) / "downloads" / "manual"
    rule = "A TFDS source must be prepared on disk, or be downloadable."
    received = f"{rule} Received: tfds:{name}, not prepared in {where}"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not (manual_dir.is_dir() and any(manual_dir.iterdir())):
        files = MANUAL_FILES.get(builder.name) or " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        raise UserError(f"{received}. Put its files into {manual_dir}: {files}.")
    if not (builder.MANUAL_DOWNLOAD_INSTRUCTIONS or _online()):
        idx = " or import its IDX files with `keras-moco import-idx`" if builder.name in IDX_SETS else ""
        raise UserError(f"{received}, and there is no internet here. Prepare it elsewhere and set `data_dir`{idx}.")
    logging.warning("tfds:%s is not prepared in %s: downloading and preparing it now.", name, where)
    try:
        builder.download_and_prepare()
    except Exception as error:  # anything from a lost connection to a changed checksum
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{received}, and preparing it failed: {type(error).__name__}: {reason}.") from error


def _online():
    """Whether a download can begin at all; TFDS's downloader would retry for minutes before giving up."""
    if urllib.request.getproxies():
        return True  # names are resolved by the proxy
    try:
        socket.getaddrinfo("storage.googleapis.com", 443)
    except OSError:
        return False
    return True
