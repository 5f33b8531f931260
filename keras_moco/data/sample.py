"""How the files of a set are decoded, from the settings and a sample of the files."""

import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from absl import logging

from keras_moco.checks.ranges import value_limits
from keras_moco.data.source import Options, Source
from keras_moco.data.value_range import AUTO, FEW, FULL, LEVELS, PERCENTILE, USUAL, Measured, text_of
from keras_moco.errors import UserError, one_line
from keras_moco.image_formats.decoding import WINDOW, Decoding, Limits
from keras_moco.image_formats.registry import (
    FORMATS,
    HEAD,
    RULE,
    Facts,
    facts_of,
    format_of,
    missing_library,
    read,
    what_is_wrong,
)

SIZE = 128  # files of a sample
ANIMATIONS = ("GIF", "WebP")  # formats whose pages are frames


class Seen(NamedTuple):
    """A file of a sample whose beginning can be read.

    Attributes:
        number: int, the index of the image, as in `Source.read`.
        content: function of a number of bytes, or of `None` for all of them, to the first bytes of the file.
        format: str, a key of `FORMATS`.
        facts: `Facts`.
        head: bytes, the digest of its first `HEAD` bytes.
    """

    number: int
    content: Callable[[int | None], bytes]
    format: str
    facts: Facts
    head: bytes


class Sample(NamedTuple):
    """Some of the files of a set.

    Attributes:
        seen: list of `Seen`, in the order of the set.
        unread: list of the indices of those that cannot be read.
    """

    seen: list[Seen]
    unread: list[int]


def places(count: int, size: int = SIZE) -> list[int]:
    """The places of a sample among a number of files: one at random from each of `size` equal parts, in order.

    They follow no period, such as that of files which alternate left and right eyes. The first file is always among
    them. They are always the same: Python's `random` gives the same numbers for a seed on every machine.

    Example:

    >>> places(10, 4)
    [0, 4, 6, 8]
    >>> places(3, 4)
    [0, 1, 2]
    """
    if count <= size:
        return list(range(count))
    edges = [number * count // size for number in range(size + 1)]
    uniform = random.Random(0).random
    return [0, *(low + int(uniform() * (high - low)) for low, high in itertools.pairwise(edges[1:]))]


def look_at(contents: Mapping[int, Callable[[int | None], bytes]], channels: int | None = None) -> Sample:
    """Reads the beginning of some files, in parallel, and of formats that need it, the whole.

    Args:
        contents: dict of the indices of images to their `Seen.content`, which may raise `OSError`.
        channels: int, the channels that images get. Defaults to `None`: those that they have.

    Raises:
        ValueError: if a format needs a library that is not installed.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        seen = pool.map(_see, contents, contents.values(), itertools.repeat(channels))
        found = dict(zip(contents, seen, strict=True))
    return Sample(list(filter(None, found.values())), [index for index, each in found.items() if each is None])


def decoding_of(sample: Sample, name: str, options: Options) -> Decoding | None:
    """How the files of a set are decoded.

    The first readable file decides about the channels, unless they are given; the sample decides about the range. The
    log says what was found, where it is not 8 bits without opacity.

    Args:
        sample: `Sample`.
        name: str, name of the set in messages.
        options: `Options` of the source: `channels`, `value_range`, `background`.

    Returns:
        `Decoding`; `None` if no file of the sample can be read.

    Raises:
        ValueError: if the files do not fit the settings.
    """
    seen = sample.seen
    if not seen:
        return None
    channels = options.channels or seen[0].facts.channels
    fitting = [each for each in seen if _fits(each, channels)]
    if not fitting:
        found = seen[0].facts
        raise UserError(
            "`channels` must be what the images have, or 1 or 3 for gray or colour ones. "
            f"Received: channels={channels}, {name} with {found.channels}. Correct or omit --channels."
        )
    limits = _limits(fitting, channels, name, options.value_range)
    _note(seen, channels, options.background, name)
    return Decoding(channels, limits, options.background)


def finer_limits(source: Source) -> Limits | None:
    """The limits of `USUAL`, if nearly all pixels of a sample share a few of the 256 levels of a source's own limits.

    Returns:
        `(low, high)`, as of `Decoding`; `None` if its own are fine enough, or it has none.
    """
    decoding = source.decoding
    if not (source.sample and decoding and isinstance(decoding.limits, tuple)):
        return None
    seen = [each for each in source.sample().seen if _fits(each, decoding.channels)]
    measured = _measured(seen, decoding.channels)
    levels = _fewest_levels(measured, decoding.limits)
    return _limits_of(measured, USUAL) if levels < FEW else None


def share_outside(source: Source) -> float:
    """The share of the values of a sample that the limits of a source clip, of the channel with the most; 0 without."""
    decoding = source.decoding
    if not (source.sample and decoding and isinstance(decoding.limits, tuple)):
        return 0.0
    measured = _measured([each for each in source.sample().seen if _fits(each, decoding.channels)], decoding.channels)
    ends = np.broadcast_to(np.transpose(decoding.limits), (len(measured), 2))
    outside = ((each.pixels < low) | (each.pixels > high) for each, (low, high) in zip(measured, ends, strict=True))
    return max(float(clipped.mean()) for clipped in outside)


def _see(index, content, channels):
    """A file of a sample; `None` if it cannot be read."""
    try:
        data = content(HEAD)
    except OSError:
        return None
    kind = format_of(data)
    if kind is None:
        return None
    if missing_library(kind):
        raise UserError(f"{RULE} Received: {what_is_wrong(data)}. Install it, or leave these files out.")
    head = digest(data)
    try:
        if FORMATS[kind].head:
            with contextlib.suppress(Exception):  # what comes before its pixels may be longer
                return Seen(index, content, kind, facts_of(data, channels), head)
        return Seen(index, content, kind, facts_of(content(None), channels), head)
    except Exception:  # libraries raise many kinds for damaged files, which are reported when they are read
        return None


def digest(data: bytes) -> bytes:
    """16 bytes, the same for the same data."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _fits(seen, channels):
    found = seen.facts
    bands = found.channels == 1 and found.pages == channels
    return bands or channels in (found.channels, found.channels + found.alpha) or {channels, found.channels} == {1, 3}


def _limits(seen, channels, name, value_range):
    """The `limits` of a `Decoding`."""
    if value_range == FULL:
        return None
    if value_range == WINDOW:
        wrong = [each.format for each in seen if each.format != "DICOM"]
        if wrong:
            raise UserError(
                f"Files must be DICOM for --value_range=window. Received: {name} with {wrong[0]}. Give a range."
            )
        return WINDOW
    if limits := value_limits(value_range):
        bands = np.size(limits[0])
        if bands not in (1, channels):
            raise UserError(
                "`value_range` must be one LOW,HIGH for all channels, or one for each. "
                f"Received: {bands} for {name} with {channels} channel(s). Correct --value_range."
            )
        return limits
    bits = {each.facts.bits for each in seen}
    if value_range == AUTO and 0 not in bits and 8 in bits:
        if len(bits) > 1:
            others = ", ".join(str(each) for each in sorted(bits - {8}))
            text = "%s: files of 8 and of %s bits; black to white of each become 0..255 (--value_range=full)"
            logging.warning(text, one_line(name), others)
        return None
    if value_range == AUTO and {0, 8} <= bits:
        text = "%s: files of 8 bits and of fractions or other units; one range for all of them may fit neither"
        logging.warning(text, one_line(name))
    measured = _measured(seen, channels)
    limits = _limits_of(measured, value_range)
    low, high = min(each.low for each in measured), max(each.high for each in measured)
    of_each = np.ndim(limits) > 1
    text = f"those of {channels} channels" if of_each else f"{limits[0]:g} to {limits[1]:g}"
    logging.warning(
        "%s: values from %g to %g in a sample of %d images; %s become 0..255 (--value_range=%s)",
        *(one_line(name), low, high, len(seen), text, text_of(limits)),
    )
    missing = sorted({each.missing for each in measured} - {None})
    if missing:
        text = "%s: %s stands for missing data, since it is far below all other values; it becomes black"
        logging.warning(text, one_line(name), " and ".join(f"{value:g}" for value in missing))
    levels = _fewest_levels(measured, limits)
    if levels < FEW and not value_range.startswith(PERCENTILE):
        logging.warning(
            "%s: 99 %% of the pixels%s have %d of %d levels. --value_range=%s uses more of them",
            *(one_line(name), " of a channel" if len(measured) > 1 else "", levels, LEVELS, USUAL),
        )
    return limits


def _measured(seen, channels):
    """A list of one `Measured` for gray or colour images, of which a range for each would change the colours.

    Of any others a list of one for each channel.
    """
    values = _values(seen, channels)
    return [Measured(values)] if channels in (1, 3) else Measured.bands(values)


def _limits_of(measured, value_range):
    """The `limits` of a `Decoding` from a list of `Measured`."""
    ranges = [each.limits(value_range) for each in measured]
    return ranges[0] if len(set(ranges)) == 1 else tuple(zip(*ranges, strict=True))


def _fewest_levels(measured, limits):
    """How many of 256 levels nearly all pixels have, of the channel with the fewest."""
    ends = np.broadcast_to(np.transpose(limits), (len(measured), 2))
    return min(each.levels(own) for each, own in zip(measured, ends, strict=True))


def _values(seen, channels):
    """The values of images, without opacity unless it is one of the channels; a file that cannot be read is skipped."""

    def values(each):
        try:
            raw = read(each.content(None), channels)
        except Exception:  # of any library; it is reported when it is read
            return None
        return raw.values[..., :-1] if raw.alpha and raw.values.shape[-1] != channels else raw.values

    # One after the other, so that one image at a time is in memory: 128 scans of a large format are gigabytes.
    return (array for array in map(values, seen) if array is not None)


def _note(seen, channels, background, name):
    """Logs what is converted or skipped."""
    count = len(seen)
    pages_of = [1 if each.format in ANIMATIONS else each.facts.pages for each in seen]
    kept = (
        each.facts.channels
        for each, pages in zip(seen, pages_of, strict=True)
        # As many gray pages as channels are the bands of one image, and opacity may be its last one.
        if each.facts.channels + each.facts.alpha != channels and (each.facts.channels, pages) != (1, channels)
    )
    others = collections.Counter(found for found in kept if found != channels)
    see_through = sum(each.facts.alpha and each.facts.channels + 1 != channels for each in seen)
    pages = max(pages_of)
    notes = [f"{number} of {count} images have {found} channel(s)" for found, number in others.items()]
    if notes:
        logging.warning("%s: of a sample, %s; all become %d", one_line(name), " and ".join(notes), channels)
    if see_through:
        logging.warning(
            "%s: %d of a sample of %d images are partly transparent; their background becomes %d (--background)",
            *(one_line(name), see_through, count, background),
        )
    if assumed := {each.facts.assumed for each in seen} - {""}:
        more = f" (and {len(assumed) - 1} more such sizes)" if len(assumed) > 1 else ""
        logging.warning("%s: %s%s", one_line(name), min(assumed), more)
    if pages > 1 and pages != channels:
        text = "%s: files of up to %d pages, of which the first one is read; if they are bands, give --channels=%d"
        logging.warning(text, one_line(name), pages, pages)
