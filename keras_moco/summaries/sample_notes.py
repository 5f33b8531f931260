"""What a sample of the training images shows to be wrong with them, in a few lines before training."""

import functools
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_moco.augment import Augmentation, RandomResizedCrop
from keras_moco.augment.narrow import narrow_from
from keras_moco.config import Config
from keras_moco.config.settings import to_text
from keras_moco.data.channel_statistics import SMALLEST_STD
from keras_moco.data.decode import pixels_of
from keras_moco.data.duplicates import same_groups
from keras_moco.data.sample import Sample, Seen, digest
from keras_moco.data.source import Source
from keras_moco.data.survey import Measures, measures_of
from keras_moco.errors import one_line
from keras_moco.image_formats.decoding import Decoding
from keras_moco.networks.by_name import is_ours
from keras_moco.networks.encoder import per_channel
from keras_moco.runs.fitted_settings import views_for

LINES = 5  # at most, with the last one, which names the command that looks at all images
DECODED = 64  # images at most, for blank images, mean and std
PIXELS = 2**26  # of these together, at most; a core decodes 200 million pixels of a JPEG in a second
FEWEST = 8  # decoded images from which mean and std are judged
FAR = 0.5  # configured standard deviations that the mean may be off
FACTOR = 1.5  # that the standard deviation may be off
LONGEST = 1.2  # up to this ratio of the sides no crop is lost, and nothing needs to be computed


def sample_notes(source: Source, config: Config, augmentation: Augmentation | None = None) -> list[str]:
    """Looks at the sample of files that has decided how all are decoded: at most 128, of which 64 are decoded at most.

    In this order: files that cannot be read, more than are allowed; views that are larger than most images; mean and
    std far from those configured (by half a standard deviation, or a factor of 1.5); identical files; images so narrow
    that half of all random crops are the same box; and blank ones. No random numbers are taken.

    Args:
        source: `Source` of the training images.
        config: `Config` of the run.
        augmentation: `Augmentation` of the run; its `RandomResizedCrop` decides which images are too narrow. Defaults
            to `None`: none is.

    Returns:
        list of str: none if nothing is wrong, or the images are no files; at most 5, of which the last one names the
        command that looks at all images.

    Example:

    >>> from keras_moco.data import open_source
    >>> sample_notes(open_source("digits"), Config())
    []
    """
    if source.sample is None or source.decoding is None:
        return []
    sample = source.sample()
    decoded, failed = _decode(sample, source.decoding)
    found = [
        *_unread(source, sorted([*sample.unread, *failed]), _count(sample), config),
        *_small(sample, config),
        *_values(list(decoded.values()), config),
        *_identical(source, sample),
        *_narrow(source, sample, augmentation),
        *_blank(source, decoded),
    ]
    if not found:
        return []
    shown = found[: LINES - 1]
    more = len(found) - len(shown)
    also = f"{more} more of this kind; " if more else ""
    command = f"keras-moco check {shlex.quote(one_line(source.name))}"
    return [f"note: {line}" for line in (*shown, f"{also}{command} looks at all images")]


def _decode(sample: Sample, decoding: Decoding) -> tuple[dict[int, Measures], list[int]]:
    """`Measures` of some images, by their indices, and the indices of those that cannot be decoded."""
    count = max(1, len(sample.seen))
    sizes = [each.facts.height * each.facts.width for each in sample.seen]
    wanted = min(count, DECODED, PIXELS * count // max(1, sum(sizes)))
    chosen = [sample.seen[number * count // wanted] for number in range(wanted)]
    decode = functools.partial(pixels_of, decoding=decoding)

    def measure(seen):
        try:
            return measures_of(decode(seen.content(None)))
        except Exception:  # of any library; training reports it
            return None

    with ThreadPoolExecutor() as pool:
        found = dict(zip((each.number for each in chosen), pool.map(measure, chosen), strict=True))
    failed = [number for number, each in found.items() if each is None]
    return {number: each for number, each in found.items() if each}, failed


def _unread(source: Source, unread: list[int], count: int, config: Config) -> Iterator[str]:
    most = 0 if config.strict_data else config.max_bad_fraction
    if len(unread) > most * count:
        yield (
            f"{_of(len(unread), count)} cannot be read, the first one: {_name(source, unread[0])}; training "
            f"stops above {100 * most:g} % (--max_bad_fraction). Repair or delete them"
        )


def _small(sample: Sample, config: Config) -> Iterator[str]:
    sizes = np.array([[each.facts.height, each.facts.width] for each in sample.seen]).reshape(-1, 2)
    small = int((sizes.min(axis=1) < config.image_size).sum()) if len(sizes) else 0
    fitting = views_for(sizes)
    if 2 * small > len(sizes) and fitting["image_size"] < config.image_size:
        flags = " ".join(f"--{name}={value}" for name, value in fitting.items())
        yield (
            f"{_of(small, _count(sample))} are smaller than the views of {config.image_size} pixels, which enlarge "
            f"them. Give {flags}"
        )


def _values(measures: Sequence[Measures], config: Config) -> Iterator[str]:
    # Weights from elsewhere go with their own mean and std, and some networks scale images themselves.
    if len(measures) < FEWEST or config.init_from or not is_ours(config.backbone):
        return
    mean = np.mean([each.mean for each in measures], axis=0)
    std = np.sqrt(np.maximum(np.mean([each.square for each in measures], axis=0) - mean**2, SMALLEST_STD**2))
    settings = config.image_mean, config.image_std
    if any(len(each) not in (1, 3 if len(mean) == 1 else len(mean)) for each in settings):
        return  # the encoder refuses them
    given = [np.array(per_channel("mean", each, len(mean))) for each in settings]
    off = np.maximum(std / given[1], given[1] / std)
    if (abs(mean - given[0]) > FAR * given[1]).any() or (off > FACTOR).any():
        found, configured = _flags(mean, std), _flags(*given)
        yield f"a sample of {len(measures)} images has other values than {configured}. Give {found}"


def _flags(mean, std):
    parts = (("image_mean", mean), ("image_std", std))
    return " ".join(f"--{name}={to_text(tuple(round(float(each), 3) for each in values))}" for name, values in parts)


def _identical(source: Source, sample: Sample) -> Iterator[str]:
    groups = [group for heads in same_groups([each.head for each in sample.seen]) for group in _same(sample, heads)]
    if groups:
        names = " = ".join(_name(source, each.number) for each in groups[0][:2])
        yield (
            f"{_of(sum(map(len, groups)), _count(sample))} are identical to another one, such as {names}; they are "
            "contrasted as if they were different. Keep one of each"
        )


def _same(sample: Sample, places: list[int]) -> list[list[Seen]]:
    """The groups of whole files that are identical, of some whose beginnings are."""
    seen, contents = [sample.seen[place] for place in places], []
    for each in seen:
        try:
            contents.append(digest(each.content(None)))
        except OSError:
            contents.append(b"%d" % each.number)
    return [[seen[place] for place in group] for group in same_groups(contents)]


def _narrow(source: Source, sample: Sample, augmentation: Augmentation | None) -> Iterator[str]:
    layers = getattr(augmentation, "layers", [augmentation])
    crop = next((layer for layer in layers if isinstance(layer, RandomResizedCrop)), None)
    sides = [(each.number, sorted((each.facts.height, each.facts.width))) for each in sample.seen]
    ratios = {number: longer / shorter for number, (shorter, longer) in sides}
    if crop is None or max(ratios.values(), default=1) < LONGEST:
        return
    limit = narrow_from(crop, share=0.5)
    narrow = [number for number, ratio in ratios.items() if ratio >= limit]
    if narrow:
        yield (
            f"{_of(len(narrow), _count(sample))} have sides of 1 : {limit:.1f} or more, such as "
            f"{_name(source, narrow[0])}; half of all random crops of them, or more, are the same box. Cut "
            "them into tiles"
        )


def _blank(source: Source, decoded: dict[int, Measures]) -> Iterator[str]:
    blank = [number for number, each in decoded.items() if each.blank]
    if blank:
        yield f"{_of(len(blank), len(decoded))} have one value, such as {_name(source, blank[0])}. Delete them"


def _count(sample):
    return len(sample.seen) + len(sample.unread)


def _of(part, count):
    return f"{part} of a sample of {count} images"


def _name(source, number):
    return one_line(source.files[number]) if source.files else f"image {number}"
