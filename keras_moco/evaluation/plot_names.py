"""Names of classes and files as text in a picture: in a font that has their letters, wrapped, smaller or shortened."""

import functools
import os
import re
import unicodedata
from collections import Counter
from typing import Any, NamedTuple

from absl import logging

from keras_moco.errors import one_line

DPI = 100  # of all pictures
SMALLEST = 6  # points; smaller letters have too few pixels
LINE = 1.25  # height of a line of text, as a multiple of its size
_BREAK = re.compile(r"(?<=[\s_\-/.,+])")  # lines end after these, if possible
_MISSING, _CUT = "□", "…"
_reported: set[str] = set()  # letters of which a warning was given
# Fonts that do not show the usual letter: those of formulas, and that of placeholders.
_UNFIT = re.compile(r"cm[a-z]+10|STIX(NonUni|Size)|Last ?Resort")


class FittedNames(NamedTuple):
    """Names as they are drawn.

    Attributes:
        texts: list of str, with line ends where they are wrapped.
        style: dict, the arguments `fontsize` and `family` of matplotlib's texts.
        width: float, that of the widest text, in points.
        lines: int, the largest number of lines.
    """

    texts: list
    style: dict[str, Any]
    width: float
    lines: int


def fit_names(names, width, sizes, numbers=None):
    """Names as texts of limited width, in the largest of some sizes in which all of them fit.

    In the last size, names that are still too long are shortened in the middle. Letters that no installed font has are
    drawn as a box. Different names never become the same text: a name whose text would be that of another one begins
    with its number. So does a name with a box if numbers are given.

    Args:
        names: iterable of names.
        width: float, in points.
        sizes: dict of font sizes in points, in descending order, to the number of lines that a name may take.
        numbers: numbers of the names, such as those of classes; equal ones mark the same thing. Defaults to `None`: by
            the order in which different names appear.

    Returns:
        `FittedNames`.

    Example:

    >>> fit_names(["cat", "signs_and_symbols"], width=60, sizes={8: 2}).texts
    ['cat', 'signs_and_\\nsymbols']
    >>> fit_names(["IMG_0001_of_a_street.jpg"], width=60, sizes={8: 1}).texts
    ['IMG_00…t.jpg']
    """
    names = list(map(str, names))
    own = numbers is not None
    if not own:
        order = {name: number for number, name in enumerate(dict.fromkeys(names), 1)}
        numbers = [order[name] for name in names]
    plain = {int(number): plain_line(name) for number, name in zip(numbers, names, strict=True)}
    families, missing = _fonts_for(frozenset("".join(plain.values()) + _CUT + _MISSING))
    lacking = {number for number, text in plain.items() if own and (not text or missing & set(text))}
    if missing:
        _warn_of_missing(missing)
        boxes = re.compile(f"[{re.escape(''.join(missing))}]+")
        plain = {number: boxes.sub(_MISSING, text) for number, text in plain.items()}
    for size, lines in sizes.items():
        fits = functools.partial(_fits, width=width, size=size, families=families)
        texts = _texts(plain, lacking, fits, lines, shorten=size == list(sizes)[-1])
        if all(texts.values()):
            break
    widest = max((_width(line, size, families) for lines in texts.values() for line in lines), default=0)
    shown = {number: _literal("\n".join(lines)) for number, lines in texts.items()}
    style = {"fontsize": size, "family": list(families)}
    return FittedNames([shown[int(n)] for n in numbers], style, widest, max(map(len, texts.values()), default=0))


def sizes_within(height, largest=10, lines=2, smallest=SMALLEST):
    """The argument `sizes` of `fit_names` for texts of limited height.

    Args:
        height: float, in points.
        largest: float, the largest size. Defaults to `10`.
        lines: int, the largest number of lines. Defaults to `2`.
        smallest: float, the smallest size, which is used even if the height is less. Defaults to `6`.

    Example:

    >>> sizes_within(20, largest=9)
    {9: 1, 8: 2, 7: 2, 6: 2}
    """
    sizes = [size for size in range(largest, smallest, -1) if LINE * size <= height]
    return {size: int(min(max(height // (LINE * size), 1), lines)) for size in (*sizes, smallest)}


def file_names(paths):
    """The last parts of paths, as few as distinguish different paths.

    Example:

    >>> file_names(["photos/cats/1.png", "photos/dogs/1.png", "photos/dogs/2.png"])
    ['cats/1.png', 'dogs/1.png', '2.png']
    """
    parts = {path: path.split(os.sep) for path in paths}
    kept = dict.fromkeys(parts, 1)
    while True:
        tails = {path: os.sep.join(parts[path][-count:]) for path, count in kept.items()}
        counts = Counter(tails.values())
        again = [path for path, tail in tails.items() if counts[tail] > 1 and kept[path] < len(parts[path])]
        if not again:
            return [tails[path] for path in paths]
        for path in again:
            kept[path] += 1


def image_names(files, index):
    """Short names of images: the name of the file, or the number of an image whose file is unknown.

    Args:
        files: list of paths, or `None`.
        index: numbers of the images in their source, as many.

    Example:

    >>> image_names(["photos/cat.png", None], index=[3, 8])
    ['cat.png', 'image 8']
    """
    known = [path for path in files if path is not None]
    tails = dict(zip(known, file_names(known), strict=True))
    return [f"image {number}" if path is None else tails[path] for path, number in zip(files, index, strict=True)]


def plain_line(name):
    """A name as one line of visible letters; what cannot be printed is escaped."""
    # Without marks that only join letters or choose between forms of them, such as those within emoji.
    visible = (
        letter for letter in str(name) if unicodedata.category(letter) != "Cf" and not "\ufe00" <= letter <= "\ufe0f"
    )
    return one_line(unicodedata.normalize("NFC", " ".join("".join(visible).split())))


def _literal(text):
    """A text that matplotlib shows as it is."""
    text = f" {text}" if text.startswith("_") else text  # which matplotlib would omit from the legend
    return text.replace("$", r"\$")  # a pair of which would enclose a formula


def _texts(plain, numbered, fits, lines, shorten):
    """The lines of each name, all different; none for a name that does not fit, unless it may be shortened."""
    numbered = set(numbered)
    while True:
        texts = {}
        for number, text in plain.items():
            prefix = f"{number}: " if number in numbered else ""
            texts[number] = _wrapped(prefix + text, fits, lines)
            if texts[number] is None:
                texts[number] = _shortened(prefix + text, prefix, fits, lines) if shorten else ()
        counts = Counter(filter(None, map("".join, texts.values())))
        clashing = {number for number, text in texts.items() if counts["".join(text)] > 1} - numbered
        if not clashing:
            return texts
        numbered |= clashing


def _wrapped(text, fits, lines):
    """A text in at most that many lines, a list; `None` if it does not fit."""
    found = []
    while len(found) < lines:
        if fits(text):
            return [*found, text]
        end = _longest(lambda count, text=text: fits(text[:count].rstrip()), len(text) - 1)
        breaks = [match.end() for match in _BREAK.finditer(text, 0, end) if match.end() > end / 3]
        end = breaks[-1] if breaks else end
        found.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return None


def _shortened(text, prefix, fits, lines):
    """The beginning and the end of a text, as much as fits, in lines; a number in front is kept."""

    def cut(count):
        return text[: count - count // 2].rstrip() + _CUT + text[len(text) - count // 2 :].lstrip()

    count = _longest(lambda count: _wrapped(cut(count), fits, lines) is not None, len(text) - 1)
    if count - count // 2 < len(prefix):
        return [prefix.removesuffix(": ")]
    return _wrapped(cut(count), fits, lines) or [_CUT]


def _longest(fits, limit):
    """The largest number up to a limit that fits, at least 1; smaller numbers fit as well."""
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


# Fonts


def _fits(text, width, size, families):
    return _width(text, size, families) <= width


def _width(text, size, families):
    """The width of a line in points, a little more than it will be drawn."""
    return 1.03 * size * sum(_advance(letter, size, families) for letter in text)


@functools.lru_cache(maxsize=16384)
def _advance(letter, size, families):
    """The width of a letter within a text, relative to the font size. To measure every text as a whole is slow."""
    from matplotlib.font_manager import FontProperties

    properties, repeats = FontProperties(family=list(families), size=size), 20
    measure = functools.partial(_renderer().get_text_width_height_descent, prop=properties, ismath=False)
    return (measure(f"|{repeats * letter}|")[0] - measure("||")[0]) * 72 / DPI / size / repeats


@functools.cache
def _renderer():
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)


@functools.lru_cache(maxsize=256)
def _fonts_for(letters):
    """The families of fonts that are needed for letters, a tuple, and the letters that are in no installed font, a set.

    The usual font comes first; matplotlib takes a letter from the first one that has it.
    """
    import matplotlib
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    families = list(matplotlib.rcParams["font.family"])
    usual = findfont(FontProperties())
    missing = {letter for letter in letters if not _has(usual, letter)}
    if not missing:
        return tuple(families), missing
    fonts = {
        entry.name: entry.fname
        for entry in fontManager.ttflist
        if entry.style == "normal"
        and str(entry.weight) in ("400", "normal", "regular")
        and not _UNFIT.match(entry.name)
    }
    found = {name: {letter for letter in missing if _has(path, letter)} for name, path in sorted(fonts.items())}
    while found and missing:
        best = max(found, key=lambda name: len(found[name] & missing))
        if not found[best] & missing:
            break
        missing -= found[best]
        families.append(best)
    return tuple(families), missing


def _has(path, letter):
    """Whether a font can draw a letter; those of coloured emoji have letters without a shape."""
    from matplotlib.font_manager import get_font

    font, code = get_font(path), ord(letter)
    try:
        return bool(font.get_char_index(code)) and (letter.isspace() or any(font.load_char(code).bbox))
    except RuntimeError:
        return False


def _warn_of_missing(letters):
    """Logs letters that are in no installed font, each of them once."""
    import matplotlib

    letters = letters - _reported
    _reported.update(letters)
    if letters:
        logging.warning(
            "Letters of names in a picture that no installed font has are drawn as %s: %s%s. Install a font that has "
            "them, such as Noto Sans CJK or Noto Emoji, and delete the list of fonts in %s.",
            *(_MISSING, "".join(sorted(letters)[:10]), " ..." if len(letters) > 10 else "", matplotlib.get_cachedir()),
        )
