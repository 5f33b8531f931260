"""Looks at every image of a source before training: what there is, what cannot be read, what is there twice."""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from keras_moco.data.bad_images import plain_read_errors
from keras_moco.data.channel_statistics import thinned
from keras_moco.data.duplicates import SIDE, thumbnail
from keras_moco.data.sample import digest
from keras_moco.data.source import Source
from keras_moco.image_formats.cut_off import is_cut_off
from keras_moco.image_formats.registry import Facts, facts_of, format_of, what_is_wrong

SAMPLE = 10_000  # images that are decoded
IN_MEMORY = "in memory"  # instead of a format
PART = 256  # images that are in memory at once, encoded
LEVELS = 256
SCALE = np.arange(LEVELS) / (LEVELS - 1)  # of the levels in 0..1


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one image.

    Attributes:
        index: int, as in `Source.read`.
        label: int, -1 for none.
        reason: str, why it cannot be read; empty if it can.
        format: str, a key of `FORMATS`, or `"in memory"`; empty if it cannot be read.
        facts: `Facts`; `None` if they are unknown.
        size: `(height, width)`, upright; `None` if it cannot be read.
        digest: bytes, the same for the same content.
    """

    index: int
    label: int
    reason: str = ""
    format: str = ""
    facts: Facts | None = None
    size: tuple[int, int] | None = None
    digest: bytes = b""


class Measures(NamedTuple):
    """What is measured of a decoded image; values are in 0..1.

    Attributes:
        mean: float64 `(C,)`.
        square: float64 `(C,)`, the mean of the squares.
        histogram: float64 `(C, 256)`, the share of the pixels of each level.
        thumbnail: uint8 `(16, 16)`.
        blank: bool, whether all pixels are equal.
        cut_off: bool, whether the lower part is missing and filled with gray.
    """

    mean: np.ndarray
    square: np.ndarray
    histogram: np.ndarray
    thumbnail: np.ndarray
    blank: bool
    cut_off: bool


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found in a source.

    Args:
        source: `Source`.
        entries: list of an `Entry` for each image, in the order of the source.
        decoded: list of the indices of the images that were decoded.
        mean: float64 `(C,)`, of the decoded images in 0..1, all with the same weight; NaN if there are none.
        std: float64 `(C,)`, likewise.
        histogram: float64 `(C, 256)`, the share of the pixels of each level, likewise.
        thumbnails: uint8 `(n, 16, 16)`, of the decoded images.
        blank: list of the indices of decoded images with one value.
        cut_off: list of the indices of decoded JPEGs whose lower part is missing.
    """

    source: Source
    entries: list[Entry]
    decoded: list[int]
    mean: np.ndarray
    std: np.ndarray
    histogram: np.ndarray
    thumbnails: np.ndarray
    blank: list[int]
    cut_off: list[int]

    @functools.cached_property
    def read(self) -> list[Entry]:
        """list of the entries of images that can be read, as far as it was tried."""
        return [entry for entry in self.entries if not entry.reason]

    @functools.cached_property
    def skipped(self) -> list[Entry]:
        """list of the entries of images that cannot be read."""
        return [entry for entry in self.entries if entry.reason]

    def labels(self) -> np.ndarray:
        """The label of every image that can be read, an int array; -1 if it has none."""
        return np.array([entry.label for entry in self.read], "int64")

    def sizes(self) -> np.ndarray:
        """Height and width of every image that can be read, int64 `(n, 2)`."""
        return np.array([entry.size for entry in self.read], "int64").reshape(-1, 2)

    def name(self, index: int) -> str:
        """The path of an image; without one its place in a large file, or its number."""
        (path,) = self.source.files_of([index])
        place_of = self.source.place_of
        return path or (f"image {index} ({place_of(index)})" if place_of else f"image {index}")


def survey(source: Source, sample: int = SAMPLE) -> Survey:
    """Looks at all images of a source, in parallel.

    The content of every file is read. Some of them, chosen at random but always the same, are decoded as in
    training.

    Args:
        source: `Source`.
        sample: int, at least 1, images that are decoded at most. Defaults to `10_000`.

    Returns:
        `Survey`. An image that cannot be read is one of its entries; of those that are not decoded only the header is
        checked.

    Raises:
        ValueError: if a label is out of range.

    Example:

    >>> from keras_moco.data import open_source
    >>> found = survey(open_source("digits"), sample=100)
    >>> len(found.entries), len(found.decoded), found.entries[0].size
    (1437, 100, (8, 8))
    """
    count = source.num_examples
    # Not at equal distances: every second file may be a left eye.
    random = np.random.default_rng(0).choice(count, min(count, sample), replace=False)
    chosen = frozenset(random.tolist())
    look = functools.partial(_look, source, _decoder(source), chosen)
    total = _Total(source.image_shape[-1])
    entries = []
    with plain_read_errors(), ThreadPoolExecutor() as pool:
        for part in _parts(source.read(None).as_numpy_iterator()):
            for entry, measures in pool.map(look, part):
                entries.append(entry)
                if measures:
                    total.add(entry.index, measures)
    return total.survey(source, entries)


class _Total:
    """The sums over decoded images."""

    def __init__(self, channels):
        self.mean, self.square = np.zeros(channels), np.zeros(channels)
        self.histogram = np.zeros((channels, LEVELS))
        self.decoded, self.thumbnails, self.blank, self.cut_off = [], [], [], []

    def add(self, index, measures):
        self.mean += measures.mean
        self.square += measures.square
        self.histogram += measures.histogram
        self.decoded.append(index)
        self.thumbnails.append(measures.thumbnail)
        if measures.blank:
            self.blank.append(index)
        if measures.cut_off:
            self.cut_off.append(index)

    def survey(self, source, entries):
        count = len(self.decoded) or math.nan
        mean = self.mean / count
        return Survey(
            source,
            entries,
            self.decoded,
            mean=mean,
            std=np.sqrt(np.maximum(self.square / count - mean**2, 0)),
            histogram=self.histogram / count,
            thumbnails=np.array(self.thumbnails, "uint8").reshape(-1, SIDE, SIDE),
            blank=self.blank,
            cut_off=self.cut_off,
        )


def _parts(examples: Iterator) -> Iterator[list]:
    while part := list(itertools.islice(examples, PART)):
        yield part


def _decoder(source: Source) -> Callable:
    """The function of an `"image"` of `Source.read` to its pixels, as in training."""
    if source.decoding is None:
        return lambda image: image

    return source.encoded.pixels


def _look(source, decode, chosen, example):
    """The `Entry` of an example, and its `Measures` if it is one of the chosen."""
    index, label, image = int(example["index"]), int(example["label"]), example["image"]
    try:
        data = source.encoded.original(image) if source.encoded else image.tobytes()
    except OSError as error:
        return Entry(index, label, error.strerror or str(error)), None
    facts = pixels = None
    with contextlib.suppress(Exception):  # libraries raise many kinds for damaged files; decoding decides
        facts = _facts(image, data, source.image_shape[-1])
    if facts is None or index in chosen:
        try:
            pixels = decode(image)
        except Exception:  # likewise, and TensorFlow has its own
            as_in_training = source.decoding and source.decoding.decode
            return Entry(index, label, what_is_wrong(data, as_in_training)), None
    size = (facts.height, facts.width) if pixels is None else pixels.shape[:2]
    kind = IN_MEMORY if isinstance(image, np.ndarray) else format_of(data)
    entry = Entry(index, label, "", kind or "", facts, size, digest(data))
    return entry, measures_of(pixels, data) if pixels is not None and index in chosen else None


def _facts(image, data, channels):
    if isinstance(image, np.ndarray):
        height, width, channels = image.shape
        return Facts(channels, height, width)
    return facts_of(data, channels)


def measures_of(pixels: np.ndarray, data: bytes = b"") -> Measures:
    """The `Measures` of an image `(h, w, C)` with values in 0..255, and of the bytes of its file."""
    some = thinned(pixels)
    values = some.reshape(-1, some.shape[-1])
    levels = values if values.dtype == np.uint8 else np.rint(values).astype("uint8")
    histogram = np.stack([np.bincount(channel, minlength=LEVELS) for channel in levels.T]) / len(values)
    if values.dtype == np.uint8:  # ten times as fast
        mean, square = histogram @ SCALE, histogram @ SCALE**2
    else:
        scaled = values / np.float64(255)
        mean, square = scaled.mean(axis=0), np.square(scaled).mean(axis=0)
    return Measures(
        mean,
        square,
        histogram,
        thumbnail=thumbnail(pixels),
        blank=bool((some == some[0, 0]).all() and (pixels == pixels[0, 0]).all()),
        cut_off=is_cut_off(data, pixels),
    )
