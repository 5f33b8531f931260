"""What was found in a set of images, as text."""

import collections
from collections.abc import Sequence

import numpy as np

from keras_moco.config import Config
from keras_moco.data.duplicates import near_groups, same_groups
from keras_moco.data.survey import Survey
from keras_moco.errors import one_line

NAMED = 3  # images, groups or reasons in a line
WIDTH = 18  # letters before what a line says
FEWEST = 2  # images of a class


def describe_survey(survey: Survey, narrow: tuple[float, float]) -> str:
    """The report on a `Survey`: numbers first, then the first names.

    Args:
        survey: `Survey`.
        narrow: two ratios of the longer to the shorter side, from which half of all random crops, and all of them, are
            the same box (`keras_moco.augment.narrow.narrow_from`).

    Returns:
        str of several lines.

    Example:

    >>> from keras_moco.data import open_source
    >>> from keras_moco.data.survey import survey
    >>> print(describe_survey(survey(open_source("digits")), (3.98, 6.57)).partition("\\n")[0])
    digits, split train: 1,437 images, of which 1,437 can be read and 0 are skipped; 1,437 were decoded
    """
    source, read = survey.source, survey.read
    title = (
        f"{one_line(source.name)}, split {source.split}: {_number(len(survey.entries), 'image')}, of which "
        f"{len(read):,} can be read and {len(survey.skipped):,} are skipped; {len(survey.decoded):,} were decoded"
    )
    lines = [*_skipped(survey), *_files(survey), *_sizes(survey, narrow), *_copies(survey), *_values(survey)]
    lines += _classes(survey)
    return "\n".join([title, "", *(f"{name:{WIDTH}}{text}" for name, text in lines)])


def _skipped(survey):
    reasons = collections.defaultdict(list)
    for entry in survey.skipped:
        rule, _, _ = entry.reason.partition("Received:")  # what follows differs from file to file, such as a shape
        reasons[rule].append(entry)
    for found in sorted(reasons.values(), key=len, reverse=True):
        reason, names = one_line(found[0].reason).rstrip("."), _names(survey, [entry.index for entry in found])
        yield "skipped", f"{len(found):,}: {reason}: {names}"
    share, most = len(survey.skipped) / max(1, len(survey.entries)), Config.max_bad_fraction
    if share > most:
        text = f"{100 * share:.2g} % of the images. Training stops above {100 * most:g} % (--max_bad_fraction)"
        yield "", f"{text}. Repair or delete them"


def _files(survey):
    known = [entry for entry in survey.read if entry.facts]
    yield "formats", _counts(entry.format for entry in survey.read)
    yield "channels", _counts(entry.facts.channels for entry in known) + _become(survey, known)
    yield "bits", _counts(entry.facts.bits or "fractions, or a unit of their own" for entry in known)
    for name, holds in (
        ("transparent", lambda facts: facts.alpha),
        ("turned by EXIF", lambda facts: facts.turned),
        ("several pages", lambda facts: facts.pages > 1),
    ):
        yield name, _count(survey, [entry.index for entry in known if holds(entry.facts)])


def _become(survey, known):
    channels = survey.source.image_shape[-1]
    others = sum(entry.facts.channels != channels for entry in known)
    return f"; all become {channels} (--channels)" if others else ""


def _sizes(survey, narrow):
    sizes = survey.sizes()
    if not len(sizes):
        return
    for name, sides in zip(("height", "width", "shorter side"), (*sizes.T, sizes.min(axis=1)), strict=True):
        low, high = sides.min(), sides.max()
        yield name, f"{low:,} to {high:,} pixels, median {np.median(sides):,g}"
    indices = np.array([entry.index for entry in survey.read])
    ratios = sizes.max(axis=1) / sizes.min(axis=1)
    order = np.argsort(-ratios, kind="stable")
    half, all_of_them = (indices[order[ratios[order] >= limit]].tolist() for limit in narrow)
    if half:
        yield "narrow", f"{_count(survey, half)}"
        yield "", f"Sides of 1 : {narrow[0]:.1f} or more: half of all random crops are the same central box, or more"
        yield (
            "",
            f"Of 1 : {narrow[1]:.1f} or more, all are ({_number(len(all_of_them), 'image')}). Cut these into tiles",
        )
    else:
        yield "narrow", f"0 (sides of 1 : {narrow[0]:.1f} or more)"


def _copies(survey):
    same = same_groups([entry.digest for entry in survey.read])
    same = [[survey.read[place].index for place in group] for group in same]
    yield "identical", _groups(survey, same)
    first = {survey.entries[index].digest: place for place, index in [*enumerate(survey.decoded)][::-1]}
    kept = sorted(first.values())  # one of each content
    near = [[survey.decoded[kept[place]] for place in group] for group in near_groups(survey.thumbnails[kept])]
    yield "nearly identical", _groups(survey, near)
    if same or near:
        yield (
            "",
            "Look at them: copies are contrasted with each other as if they were different. Keep one of each group",
        )
    yield "blank", _count(survey, survey.blank)
    if survey.cut_off:
        yield "cut off", _count(survey, survey.cut_off)
        yield "", "JPEGs whose lower part is missing. They are read, with gray in its place. Repair or delete them"


def _values(survey):
    limits = survey.source.decoding and survey.source.decoding.limits
    if isinstance(limits, tuple):
        pairs = list(zip(*map(np.atleast_1d, limits), strict=True))
        of_each = f" in its {len(pairs)} channels" if len(pairs) > 1 else ""
        listed = ", ".join(f"{low:g} to {high:g}" for low, high in pairs)
        yield "value range", f"{listed}{of_each} become 0..255 (--value_range); values beyond are clipped"
    if survey.decoded:
        for name, numbers in (("mean", survey.mean), ("std", survey.std)):
            what = ", ".join(f"{number:.3f}" for number in numbers)
            yield name, f"{what}, of values in 0..1, per channel"


def _classes(survey):
    labels, names = survey.labels(), survey.source.class_names
    if not names:
        yield "classes", "no labels"
        return
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    small, large = counts.argmin(), counts.argmax()
    ends = f"from {_number(counts[small], 'image')} ({one_line(names[small])}) to {counts[large]:,}"
    each = f"{_number(counts[small], 'image')} each" if small == large else f"{ends} ({one_line(names[large])})"
    yield "classes", f"{len(names):,}, {each}; {np.count_nonzero(labels < 0):,} without a label"
    few = [one_line(names[number]) for number in np.flatnonzero(counts < FEWEST)]
    if few:
        yield "", f"fewer than {FEWEST} images: {_first(few)}"


def _groups(survey, groups):
    """`5 images in 2 groups: a = b = c; d = e`"""
    texts = [" = ".join(one_line(survey.name(index)) for index in group[:NAMED]) for group in groups[:NAMED]]
    texts = [
        f"{text} = ({len(group) - NAMED:,} more)" if len(group) > NAMED else text
        for text, group in zip(texts, groups, strict=False)
    ]
    more = f"; and {len(groups) - NAMED:,} more groups" if len(groups) > NAMED else ""
    named = f": {'; '.join(texts)}{more}" if texts else ""
    return f"{sum(map(len, groups)):,} in {_number(len(groups), 'group')}{named}" if groups else "0"


def _count(survey, indices):
    return f"{len(indices):,}: {_names(survey, indices)}" if indices else "0"


def _number(count, what):
    """`1 image`, `2 images`"""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _names(survey, indices):
    return _first([one_line(survey.name(index)) for index in indices])


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _counts(values):
    """`JPEG 63, PNG 64`, the most frequent first."""
    found = collections.Counter(map(str, values)).most_common()
    return ", ".join(f"{value} ({count:,})" for value, count in found) or "unknown"
