"""The records of TFRecord files; a damaged one is returned empty, so that the others keep their numbers."""

import contextlib
import functools
import os
import struct
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from keras_moco.data.crc32c import checksum_of, checksums_of
from keras_moco.data.python_calls import call_python
from keras_moco.data.tfrecord_compression import START, DamagedError, Decompressed, compression_of
from keras_moco.errors import UserError

HEADER, FOOTER = 12, 4  # bytes: a length of 8 with its checksum of 4; after the data their checksum


class RecordFiles:
    """TFRecord files that are read in turn.

    TensorFlow stops reading a file at the first record whose checksum is wrong. The rest of the file is then read one
    by one, at the positions that the lengths give, so that only damaged records are lost and others keep their numbers.
    The same happens after a record that cannot be parsed. Undamaged files are read by TensorFlow alone, at full speed.

    Files may be compressed, by gzip or zlib. They have no random access: one that can no longer be decompressed during
    a run stops it, since it is unknown how many of its records TensorFlow has read.

    Args:
        paths: list of paths, in the order in which the files are read.
        counts: list of ints, how many records each file has, or should have.
        cycle_length: int, the number of files that are read in parallel. Defaults to `16`.
        block_length: int, how many records of a file are read before the next file's turn. Defaults to `1`.
    """

    def __init__(self, paths, counts, cycle_length=16, block_length=1):
        self.paths = [str(path) for path in paths]
        self.counts = [int(count) for count in counts]
        self.cycle_length = cycle_length
        self.block_length = block_length
        self._damage = {}  # (path, number) of each damaged record met so far, to what is wrong with it

    def records(self, parse=None):
        """All records.

        Args:
            parse: function of a record, a string scalar, to tensors; if it fails, the record counts as damaged. It gets
                an empty string for a damaged record. Defaults to `None`: the record as it is.

        Returns:
            `tf.data.Dataset` of the results of `parse`.
        """
        bad_ones = functools.lru_cache(maxsize=64)(functools.partial(_find_bad, parse))

        def read(path, number):
            record = call_python(functools.partial(self._read, bad_ones), [path, number], tf.string)
            record = tf.ensure_shape(record, ())
            return parse(record) if parse else record

        def records_of(path, count):
            openable, compression = call_python(_openable, [path], [tf.string, tf.string])
            openable, compression = tf.ensure_shape(openable, (None,)), tf.ensure_shape(compression, ())
            found = tf.data.TFRecordDataset(openable, compression_type=compression).ignore_errors()
            if parse:
                found = found.enumerate().map(lambda number, record: (number, parse(record))).ignore_errors()
                found = found.enumerate().take_while(lambda place, numbered: place == numbered[0])
                found = found.map(lambda _, numbered: numbered[1])

            def others(path):
                first = call_python(functools.partial(_first_undelivered, bad_ones), [path, count], tf.int64)
                numbers = tf.data.Dataset.range(tf.ensure_shape(first, ()), count)
                return numbers.map(lambda number: read(path, number))

            # An undamaged file ends here, so that `others` is never called.
            return found.concatenate(tf.data.Dataset.from_tensors(path).flat_map(others)).take(count)

        return self._in_turn(records_of)

    def read(self, indices):
        """Yields the data of single records, bytes, none of one that cannot be read. Checksums are not compared."""
        for index in indices:
            file, number = self._places[index]
            path = self.paths[file]
            try:
                places, _, _ = _places(path)
                with _opened(path) as opened:
                    yield _data(opened, places[number])[0]
            except (OSError, IndexError, struct.error, DamagedError):
                yield b""

    def damage_of(self, index):
        """What is wrong with the record of that index, if it was found to be damaged; else an empty text."""
        if not self._damage:
            return ""
        file, number = self._places[index]
        return _describe(self._damage, self.paths[file], int(number))

    def place_of(self, index):
        """Where the record of that index is, in words."""
        file, number = self._places[index]
        return f"record {number} of {self.paths[file]}"

    def damage(self):
        """What is wrong with the damaged records found so far, a list of texts."""
        return [_describe(self._damage, *place) for place in sorted(self._damage)]

    @functools.cached_property
    def _places(self):
        """The number of each record's file, and its number in that file, int64 `(n, 2)`, in the order of reading."""

        def places_of(file, count):
            file = tf.data.Dataset.from_tensors(file).repeat()
            return tf.data.Dataset.zip((file, tf.data.Dataset.range(count)))

        files = np.arange(len(self.paths), dtype="int64")
        with tf.init_scope():
            blocks = self._in_turn(places_of, files).batch(8192).as_numpy_iterator()
            return np.concatenate([np.stack(block, axis=-1) for block in blocks])

    def _in_turn(self, function, files=None):
        files = [os.fsencode(path) for path in self.paths] if files is None else files
        return tf.data.Dataset.from_tensor_slices((files, np.asarray(self.counts, "int64"))).interleave(
            function,
            cycle_length=self.cycle_length,
            block_length=self.block_length,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    def _read(self, bad_ones, path, number):
        """A record that TensorFlow did not read, because it is damaged or comes after a damaged one."""
        path, number = os.fsdecode(path), int(number)
        try:
            places, reason, _ = _places(path)
            if number < len(places):
                reason = bad_ones(path, *_version(path)).get(number)
                if reason is None:
                    with _opened(path) as file:
                        return _data(file, places[number])[0]
        except OSError as error:
            reason = error.strerror
        self._damage[path, number] = reason
        return b""


class Counted(NamedTuple):
    """What is in TFRecord files.

    Attributes:
        records: list of ints, the number of records of each file.
        num_bytes: int, the size of all files, decompressed.
    """

    records: list
    num_bytes: int


def count_records(paths):
    """How many records files have, from the lengths of records alone; compressed files are decompressed for it.

    Args:
        paths: list of paths, not empty.

    Returns:
        `Counted`.

    Raises:
        ValueError: if a file ends inside a record, or a length is damaged: the start of the next record is unknown
            then, and so are the numbers of the images after it.
    """
    counts, num_bytes = [], 0
    with _opened(paths[0]) as file:
        if isinstance(file, Decompressed):
            logging.warning("%s: compressed TFRecords are decompressed now, to count their records.", paths[0])
    for path in paths:
        places, reason, size = _places(path)
        if reason:
            raise UserError(
                "A TFRecord file must be complete, and plain or compressed by gzip or zlib. Received: "
                f"{path}, which {reason}. Fetch or write it again, or remove it."
            )
        counts.append(len(places))
        num_bytes += size
    return Counted(counts, num_bytes)


def _describe(damage, path, number):
    reason = damage.get((path, number))
    return f"record {number} of {path}: {reason}" if reason else ""


def _version(path):
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _opened(path):
    """A file, open for `seek` and `read` of its content. A compressed one keeps its place for the next time."""
    with open(path, "rb") as file:
        if not compression_of(file.read(START)):
            yield file
            return
    file = _decompressed(path, *_version(path))
    with file.lock:
        yield file


@functools.lru_cache(maxsize=64)
def _decompressed(path, *_):
    return Decompressed(path)


def _places(path):
    """The position of each record, int64; why the file cannot be read further, an empty text if it can; its size."""
    return _find_places(path, *_version(path))


@functools.lru_cache(maxsize=64)
def _find_places(path, size, _):  # the time only serves the cache
    places, headers, position, reason = [], [], 0, ""
    with _opened(path) as file:
        compressed = isinstance(file, Decompressed)
        try:
            while compressed or position < size:
                file.seek(position)
                header = file.read(HEADER)
                if len(header) < HEADER:
                    break
                places.append(position)
                headers.append(header)
                position += HEADER + FOOTER + int.from_bytes(header[:8], "little")
        except DamagedError as error:
            return np.asarray(places[:-1], "int64"), f"cannot be decompressed, since {error}", size
        size = file.position if compressed else size
    # All at once, which is faster; what was read after a wrong length is meaningless.
    content = np.frombuffer(b"".join(headers), "uint8").reshape(-1, HEADER)
    known = checksums_of(content[:, :8]) == np.ascontiguousarray(content[:, 8:]).view("<u4")[:, 0]
    if not known.all():
        places = places[: int(np.argmin(known))]
        reason = f"is damaged at the length of record {len(places)}, after which none is found"
    elif position != size:
        places = places[:-1] if position > size else places
        reason = f"ends inside record {len(places)}"
    return np.asarray(places, "int64"), reason, size


def _find_bad(parse, path, *version):
    """The numbers of the records that are damaged, or that `parse` fails on, each with what is wrong with it."""
    places, _, _ = _find_places(path, *version)
    bad = {}
    with _opened(path) as file:
        for number, place in enumerate(places):
            data, checksum = _data(file, place)
            if checksum != checksum_of(data):
                bad[number] = "its checksum is wrong"
            elif parse:
                try:
                    parse(tf.constant(data))
                except tf.errors.InvalidArgumentError:
                    bad[number] = "it is no `tf.train.Example` with the features of the others"
    return bad


def _data(file, place):
    """The data of the record at a position, and their checksum."""
    file.seek(place)
    data = file.read(struct.unpack("<Q", file.read(HEADER)[:8])[0])
    return data, file.read(FOOTER)


def _openable(path):
    """The path in an array, and its compression. The array is empty if the file is unreadable: TensorFlow would retry
    for ever to open it.
    """
    try:
        with open(path, "rb") as file:
            return np.array([path], object), compression_of(file.read(START)).encode()
    except OSError:
        return np.array([], object), b""


def _first_undelivered(bad_ones, path, count):
    """The number of the first record that TensorFlow did not read, int64."""
    path = os.fsdecode(path)
    try:
        places, reason, _ = _places(path)
        with _opened(path) as file:
            lost = reason and isinstance(file, Decompressed)
        first = min(bad_ones(path, *_version(path)), default=len(places))
    except OSError:
        lost, first = False, 0
    if lost:
        raise UserError(
            f"A compressed TFRecord file must stay as it was when it was opened. Received: {path}, which now {reason}. "
            "Fetch or write it again, and start again."
        )
    if first >= count:
        raise UserError(
            f"A TFRecord file must be readable at any time. Received: {path}, which could not be read, and then could. "
            "Check the disk or the network, and start again."
        )
    return np.int64(first)
