"""The records of TFRecord files; a damaged one is returned empty, so that the others keep their numbers."""

import functools
import os
import struct

import numpy as np
import tensorflow as tf

from keras_moco.data.crc32c import checksum_of, checksums_of
from keras_moco.errors import UserError

HEADER, FOOTER = 12, 4  # bytes: a length of 8 with its checksum of 4; after the data their checksum


class RecordFiles:
    """TFRecord files that are read in turn.

    TensorFlow stops reading a file at the first record whose checksum is wrong. The rest of the file is then read one
    by one, at the positions that the lengths give, so that only damaged records are lost and others keep their numbers.
    The same happens after a record that cannot be parsed. Undamaged files are read by TensorFlow alone, at full speed.

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
            record = tf.numpy_function(functools.partial(self._read, bad_ones), [path, number], tf.string)
            record = tf.ensure_shape(record, ())
            return parse(record) if parse else record

        def records_of(path, count):
            openable = tf.ensure_shape(tf.numpy_function(_openable, [path], tf.string), (None,))
            found = tf.data.TFRecordDataset(openable).ignore_errors()
            if parse:
                found = found.enumerate().map(lambda number, record: (number, parse(record))).ignore_errors()
                found = found.enumerate().take_while(lambda place, numbered: place == numbered[0])
                found = found.map(lambda _, numbered: numbered[1])

            def others(path):
                first = tf.numpy_function(functools.partial(_first_undelivered, bad_ones), [path, count], tf.int64)
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
                places, _ = _places(path)
                with open(path, "rb") as opened:
                    yield _data(opened, places[number])[0]
            except (OSError, IndexError, struct.error):
                yield b""

    def damage_of(self, index):
        """What is wrong with the record of that index, if it was found to be damaged; else an empty text."""
        if not self._damage:
            return ""
        file, number = self._places[index]
        return _describe(self._damage, self.paths[file], int(number))

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
            places, reason = _places(path)
            if number < len(places):
                reason = bad_ones(path, *_version(path)).get(number)
                if reason is None:
                    with open(path, "rb") as file:
                        return _data(file, places[number])[0]
        except OSError as error:
            reason = error.strerror
        self._damage[path, number] = reason
        return b""


def count_records(path):
    """How many records a file has, from their lengths alone.

    Raises:
        ValueError: if the file ends inside a record, or a length is damaged: the start of the next record is unknown
            then, and so are the numbers of the images after it.
    """
    places, reason = _places(path)
    if reason:
        raise UserError(
            f"A TFRecord file must be complete, and not compressed. Received: {path}, which {reason}. Fetch or write "
            "it again, or remove it."
        )
    return len(places)


def _describe(damage, path, number):
    reason = damage.get((path, number))
    return f"record {number} of {path}: {reason}" if reason else ""


def _version(path):
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _places(path):
    """The position of each record, int64, and why the file cannot be read further; an empty text if it can."""
    return _find_places(path, *_version(path))


@functools.lru_cache(maxsize=64)
def _find_places(path, size, _):  # the time only serves the cache
    places, headers, position = [], [], 0
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(HEADER)
            if len(header) < HEADER:
                break
            places.append(position)
            headers.append(header)
            position += HEADER + FOOTER + int.from_bytes(header[:8], "little")
    # All at once, which is faster; what was read after a wrong length is meaningless.
    content = np.frombuffer(b"".join(headers), "uint8").reshape(-1, HEADER)
    known = checksums_of(content[:, :8]) == np.ascontiguousarray(content[:, 8:]).view("<u4")[:, 0]
    reason = ""
    if not known.all():
        # The first bytes of a gzip file also make a length with a wrong checksum.
        places = places[: int(np.argmin(known))]
        reason = f"is compressed, or damaged at the length of record {len(places)}, after which none is found"
    elif position != size:
        places = places[:-1] if position > size else places
        reason = f"ends inside record {len(places)}"
    return np.asarray(places, "int64"), reason


def _find_bad(parse, path, *version):
    """The numbers of the records that are damaged, or that `parse` fails on, each with what is wrong with it."""
    places, _ = _find_places(path, *version)
    bad = {}
    with open(path, "rb") as file:
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
    """The path in an array, or an empty one: TensorFlow would retry for ever to open an unreadable file."""
    try:
        with open(path, "rb"):
            return np.array([path], object)
    except OSError:
        return np.array([], object)


def _first_undelivered(bad_ones, path, count):
    """The number of the first record that TensorFlow did not read, int64."""
    path = os.fsdecode(path)
    try:
        places, _ = _places(path)
        first = min(bad_ones(path, *_version(path)), default=len(places))
    except OSError:
        first = 0
    if first >= count:
        raise UserError(
            f"A TFRecord file must be readable at any time. Received: {path}, which could not be read, and then could. "
            "Check the disk or the network, and start again."
        )
    return np.int64(first)
