"""Ranges of settings and arguments, named by the words of the error message."""

import math
import numbers

from keras_moco.checks.calls import BACKBONE_FORM, is_backbone_form
from keras_moco.errors import UserError


def two_numbers(text):
    """Two finite numbers with a comma between them, the first one smaller: `(low, high)`; otherwise `None`.

    Example:

    >>> two_numbers("0,4095"), two_numbers("7")
    ((0.0, 4095.0), None)
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        return None
    return (low, high) if -math.inf < low < high < math.inf else None


def value_limits(text):
    """The values that become black and white: `(low, high)`, each a float, or a tuple of one for each channel.

    `None` if the text does not give them.

    Example:

    >>> value_limits("0,4095"), value_limits("0,1/-2,30"), value_limits("auto")
    ((0.0, 4095.0), ((0.0, -2.0), (1.0, 30.0)), None)
    """
    pairs = [two_numbers(part) for part in text.split("/")]
    if None in pairs:
        return None
    return pairs[0] if len(pairs) == 1 else tuple(zip(*pairs, strict=True))


def _is_value_range(text):
    if text in ("auto", "full", "window"):
        return True
    if not text.startswith("percentile:"):
        return value_limits(text) is not None
    ends = two_numbers(text.removeprefix("percentile:"))
    return ends is not None and 0 <= ends[0] < ends[1] <= 100


VALUE_RANGE = (
    "auto, full, window, LOW,HIGH with LOW < HIGH (or one for each channel, LOW,HIGH/LOW,HIGH), or percentile:P,Q with "
    "0 <= P < Q <= 100"
)
RANGES = {
    VALUE_RANGE: _is_value_range,
    BACKBONE_FORM: is_backbone_form,
    "from 0 to 255": lambda value: 0 <= value <= 255,
    "at least 1": lambda value: value >= 1,
    "at least 0": lambda value: value >= 0,
    "positive": lambda value: value > 0,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
    "in (0, 100]": lambda value: 0 < value <= 100,
    "in [0, 2**32)": lambda value: 0 <= value < 2**32,  # of NumPy's seeds
}


def broken_rule(value, range, whole=False):
    """The rule that a value breaks, in words; `None` if it is a finite number (`whole`: an integer) in the range.

    Example:

    >>> broken_rule(0.5, "positive"), broken_rule(-0.5, "positive"), broken_rule(0.5, "positive", whole=True)
    (None, 'positive', 'a whole number')
    """
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        return "a whole number" if whole else "a number"
    if not -math.inf < value < math.inf:
        return "a finite number"
    return None if RANGES[range](value) else range


def check_number(name, value, range, way_out, whole=False):
    """Refuses an argument that is not a finite number in a range.

    Args:
        name: str, name of the argument.
        value: the argument.
        range: str, a key of `RANGES`.
        way_out: str, a sentence on what to give instead.
        whole: bool, whether the argument must be an integer. Defaults to `False`.

    Raises:
        ValueError: if it is not.
    """
    rule = broken_rule(value, range, whole)
    if rule:
        raise UserError(f"`{name}` must be {rule}. Received: {name}={value}. {way_out}")
