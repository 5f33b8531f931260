"""How the files of a set are decoded, from the settings and a sample of the files."""

import collections
import concurrent.futures
import contextlib
import itertools
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import logging

from keras_moco.checks.ranges import two_numbers
from keras_moco.data.source import Options
from keras_moco.data.value_range import AUTO, FEW, FULL, LEVELS, PERCENTILE, USUAL, Measured, text_of
from keras_moco.errors import UserError, one_line
from keras_moco.image_formats.decoding import WINDOW, Decoding
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


class Seen(NamedTuple):
    """A file of a sample that can be read."""

    content: Callable  # of a number of bytes, or of `None` for all of them, to the bytes
    format: str
    facts: Facts


def places(count: int, size: int = SIZE) -> list[int]:
    """The places of a sample among a number of files: one at random from each of `size` equal parts, in order.

    They follow no period, such as that of files which alternate left and right eyes. The first file is always among
    them. They are always the same: Python's `random` gives the same numbers for a seed on every machine.

    Example:

    >>> places(10, 4)
    [0, 3, 5, 7]
    >>> places(3, 4)
    [0, 1, 2]
    """
    if count <= size:
        return list(range(count))
    edges = [number * count // size for number in range(size + 1)]
    uniform = random.Random(0).random
    return [0, *(low + int(uniform() * (high - low)) for low, high in itertools.pairwise(edges[1:]))]


def decoding_of(sample: Sequence[Callable[[int | None], bytes]], name: str, options: Options) -> Decoding | None:
    """How the files of a set are decoded.

    The first readable file decides about the channels, unless they are given; the sample decides about the range. The
    log says what was found, where it is not 8 bits without opacity.

    Args:
        sample: list of functions of a number of bytes, or of `None` for all, to the first bytes of a file.
        name: str, name of the set in messages.
        options: `Options` of the source: `channels`, `value_range`, `background`.

    Returns:
        `Decoding`; `None` if no file of the sample can be read.

    Raises:
        ValueError: if a format needs a library that is not installed, or the files do not fit the settings.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        seen = [each for each in pool.map(_see, sample) if each]
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


def _see(content):
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
    try:
        if FORMATS[kind].head:
            with contextlib.suppress(Exception):  # what comes before its pixels may be longer
                return Seen(content, kind, facts_of(data))
        return Seen(content, kind, facts_of(content(None)))
    except Exception:  # libraries raise many kinds for damaged files, which are reported when they are read
        return None


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
    if limits := two_numbers(value_range):
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
    measured = Measured(_values(seen, channels))
    limits = measured.limits(value_range)
    logging.warning(
        "%s: values from %g to %g in a sample of %d images; %g to %g become 0..255 (--value_range=%s)",
        *(one_line(name), measured.low, measured.high, len(seen), *limits, text_of(limits)),
    )
    levels = measured.levels(limits)
    if levels < FEW and not value_range.startswith(PERCENTILE):
        logging.warning(
            "%s: 99 %% of the pixels have %d of %d levels. --value_range=%s uses more of them",
            *(one_line(name), levels, LEVELS, USUAL),
        )
    return limits


def _values(seen, channels):
    """The values of images, without opacity; a file that cannot be read is skipped."""

    def values(each):
        try:
            raw = read(each.content(None), channels)
        except Exception:  # of any library; it is reported when it is read
            return None
        return raw.values[..., :-1] if raw.alpha else raw.values

    # One after the other, so that one image at a time is in memory: 128 scans of a large format are gigabytes.
    return (array for array in map(values, seen) if array is not None)


def _note(seen, channels, background, name):
    """Logs what is converted or skipped."""
    count = len(seen)
    kept = (each.facts.channels for each in seen if each.facts.channels + each.facts.alpha != channels)
    others = collections.Counter(found for found in kept if found != channels)
    see_through = sum(each.facts.alpha and each.facts.channels + 1 != channels for each in seen)
    pages = max([1, *(each.facts.pages for each in seen if each.format != "GIF")])
    notes = [f"{number} of {count} images have {found} channel(s)" for found, number in others.items() if pages == 1]
    if notes:
        logging.warning("%s: of a sample, %s; all become %d", one_line(name), " and ".join(notes), channels)
    if see_through:
        logging.warning(
            "%s: %d of a sample of %d images are partly transparent; their background becomes %d (--background)",
            *(one_line(name), see_through, count, background),
        )
    if pages > 1 and pages != channels:
        text = "%s: files of up to %d pages, of which the first one is read; if they are bands, give --channels=%d"
        logging.warning(text, one_line(name), pages, pages)
