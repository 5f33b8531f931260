"""Which values of image files become black and white: the setting `value_range`."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from keras_moco.checks.ranges import RANGES, VALUE_RANGE, two_numbers
from keras_moco.errors import UserError
from keras_moco.image_formats.decoding import Limits

AUTO, FULL, PERCENTILE = "auto", "full", "percentile:"
USUAL = "percentile:0.5,99.5"  # what a note suggests
LEVELS = 256
RARE = 0.001  # of the pixels; a value that fewer have is a defect, and no mark of missing data
FEW = 56  # levels; a range that leaves more than 200 of 256 unused is noted


class Measured:
    """The values of a sample of images, or of one of their channels.

    A negative lowest value that more than a thousandth of the pixels have, and that is farther below all others than
    these are apart, stands for missing data (such as -9999 in maps). It does not count, and becomes black.

    Args:
        arrays: iterable of arrays of numbers, the values of each image, without opacity. A part of each is kept.

    Attributes:
        low: float, the lowest value found.
        high: float, the highest one.
        whole: bool, whether all are of a type of whole numbers.
        missing: float, the value that stands for missing data, or `None`.
        pixels: float32 array `(n,)`, some of the values.

    Example:

    >>> Measured([np.array([0, 17, 4080], "uint16")]).limits("auto")
    (0.0, 4095.0)
    """

    def __init__(self, arrays: Iterable[np.ndarray]) -> None:
        self._settle([_part(array) for array in arrays])

    def _settle(self, parts):
        parts = [part for part in parts if part is not None] or [_part(np.zeros(1))]
        self.whole = all(part.whole for part in parts)
        self.low, self.high = min(part.low for part in parts), max(part.high for part in parts)
        self.pixels = np.concatenate([part.some for part in parts])
        self.missing = self._missing(parts)
        if self.missing is not None:
            self.low = min(part.second if part.low == self.missing else part.low for part in parts)
            others = self.pixels[self.pixels != np.float32(self.missing)]
            self.pixels = others if others.size else np.array([self.low, self.high], "float32")

    def _missing(self, parts):
        """A lowest value that many pixels have and that is far below all others, such as -9999; otherwise `None`."""
        second = min(part.second if part.low == self.low else part.low for part in parts)
        share = np.mean(self.pixels == np.float32(self.low))
        isolated = self.high > second and second - self.low > self.high - second
        return self.low if isolated and share > RARE and self.low < 0 else None

    @classmethod
    def bands(cls, arrays: Iterable[np.ndarray]) -> list["Measured"]:
        """Measures each channel of images `(h, w, C)` by itself: a list of `C` objects of this class."""
        parts = [[_part(array[..., band]) for band in range(array.shape[-1])] for array in arrays]
        measured = [cls.__new__(cls) for _ in parts[0]] if parts else [cls([])]
        for each, of_band in zip(measured, zip(*parts, strict=True), strict=bool(parts)):
            each._settle(of_band)
        return measured

    def limits(self, value_range: str) -> tuple[float, float]:
        """The values that become black and white.

        - `auto`: of whole numbers from 0, 0 and the largest value of as many bits as the largest value found needs
          (4,095 for 4,080); of fractions in 0..1, 0 and 1; of others, the lowest and the highest value found.
        - `percentile:P,Q`: these percentiles of all values of the sample.

        Of images of other than one or three channels, a set has one such range for each (`keras_moco.data.sample`).

        Returns:
            `(low, high)`, with low < high.
        """
        if value_range.startswith(PERCENTILE):
            low, high = np.percentile(self.pixels, two_numbers(value_range.removeprefix(PERCENTILE))).tolist()
        elif self.whole and self.low >= 0:
            low, high = 0.0, 2.0 ** max(8, int(self.high).bit_length()) - 1
        elif self.low >= 0 and self.high <= 1:
            low, high = 0.0, 1.0
        else:
            low, high = self.low, self.high
        low, high = (_short(end) for end in (low, high))  # as it is written into a flagfile
        return (low, high) if low < high else (low, low + 1)

    def levels(self, limits: tuple[float, float]) -> int:
        """How many of 256 levels lie between the percentiles 0.5 and 99.5 of all pixels."""
        low, high = limits
        ends = np.clip(np.percentile(self.pixels, (0.5, 99.5)), low, high)
        return math.ceil((ends[1] - ends[0]) / (high - low) * (LEVELS - 1)) + 1


def _short(value):
    """The number with the fewest digits that is the same float32, as pixels are."""
    return float(np.format_float_positional(np.float32(value), trim="-"))


class _Part(NamedTuple):
    """What is kept of the values of an image: the lowest, the second lowest, the highest, and some of them."""

    whole: bool
    low: float
    second: float  # infinite if there is none
    high: float
    some: np.ndarray


def _part(array):
    """A `_Part`; `None` if no value is finite."""
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if not finite.size:
        return None
    low, high = finite.min(), finite.max()
    second = finite.min(where=finite > low, initial=high) if low < 0 and high > low else math.inf
    return _Part(array.dtype.kind != "f", float(low), float(second), float(high), thinned(finite))


def thinned(array: np.ndarray, most: int = 10_000) -> np.ndarray:
    """At most `most` values of an array, at equal distances: float32 `(n,)`."""
    flat = array.reshape(-1)
    return flat[:: -(-len(flat) // most)].astype("float32")


def check_value_range(value_range: str) -> None:
    """Raises `ValueError` unless it has one of the forms of the setting."""
    if not isinstance(value_range, str) or not RANGES[VALUE_RANGE](value_range):
        raise UserError(
            f"`value_range` must be {VALUE_RANGE}. Received: value_range={value_range!r}. "
            "Correct it, for example to 0,4095."
        )


def text_of(limits: Limits | str | None) -> str:
    """The setting that stands for `Decoding.limits`.

    Example:

    >>> text_of(None), text_of((0.0, 4095.0)), text_of(((0.0, -2.0), (1.0, 30.0)))
    ('full', '0,4095', '0,1/-2,30')
    """
    if limits is None:
        return FULL
    if isinstance(limits, str):
        return limits
    pairs = zip(*map(np.atleast_1d, limits), strict=True)
    return "/".join(",".join(f"{end:.9g}" for end in pair) for pair in pairs)
