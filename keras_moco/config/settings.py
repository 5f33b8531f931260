"""Settings that are declared once, as fields of a frozen dataclass, and become flags of the command line."""

import dataclasses
import os
import sys
import unicodedata

from keras_moco.checks.ranges import broken_rule
from keras_moco.errors import UserError


def setting(default, help, *, range=None, choices=(), table=None, **metadata):
    """A field of a dataclass of settings; its annotation is `str`, `int`, `float`, `bool`, one of them or `None`, or a
    tuple.

    Args:
        default: value.
        help: str, of the flag.
        range: a key of `keras_moco.checks.ranges.RANGES`, of a number, or of each number of a tuple.
        choices: the values that it may have.
        table: `"module:NAME"` of the mapping from these choices to what they mean. It is not loaded, which would load
            TensorFlow; but once somebody has loaded it, what has been added to it may be chosen too.
        **metadata: more about the field.
    """
    metadata |= {"help": help, "range": range, "choices": choices, "table": table}
    return dataclasses.field(default=default, metadata=metadata)


def check(settings):
    """Refuses the first value that its field does not allow, and makes plain Python of the others.

    Paths become text, lists tuples, and NumPy's numbers Python's: a configuration is written down as text and as JSON.

    Args:
        settings: instance of a frozen dataclass whose fields are `setting`s, in its `__post_init__`.

    Raises:
        ValueError: if a value is of another kind, out of its range, or none of the choices.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        rule = _broken_rule(field, value)
        if rule:
            received = repr(value) if isinstance(value, str) else to_text(value)
            raise UserError(
                f"`{field.name}` must be {rule}. Received: {field.name}={received}. Correct the flag --{field.name}."
            )
        object.__setattr__(settings, field.name, _plain(field, value))  # it is frozen


def choices_of(field):
    """The values that a field may have, a tuple, also those that were added to its table; empty for any value."""
    module, _, name = (field.metadata["table"] or "").partition(":")
    added = getattr(sys.modules.get(module), name, ())
    return (*field.metadata["choices"], *(each for each in added if each not in field.metadata["choices"]))


def _broken_rule(field, value):
    """What the value of a field should be and is not, in words, or `None`."""
    if isinstance(field.default, tuple):
        if not isinstance(value, tuple | list):
            return "several values, a tuple or a list"
        if field.default and not value:
            return "one value or more"
        return next(filter(None, (_broken_rule_of_one(field, each) for each in value)), None)
    if value is None and type(None) in _kinds(field):
        return None
    return _broken_rule_of_one(field, value)


def _broken_rule_of_one(field, value):
    kind, choices = _kinds(field)[0], choices_of(field)
    if choices:
        *others, last = map(str, choices)
        known = value in choices and not isinstance(value, bool)  # which equals 1
        return None if known else f"{', '.join(others)} or {last}"
    if kind is bool:
        return None if isinstance(value, bool) else "true or false"
    if kind is str:
        return _broken_rule_of_text(value)
    return broken_rule(value, field.metadata["range"], whole=kind is int)


def _broken_rule_of_text(value):
    """Likewise. What a line of a flagfile cannot hold would be another value when a run goes on."""
    if not isinstance(value, str | os.PathLike):
        return "text"
    text = os.fsdecode(value)
    special = any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in text)
    if special or text != text.rstrip():
        return "text of one line, without control characters, bytes that are no UTF-8, or blanks at its end"
    return None


def _plain(field, value):
    if value is None:
        return None
    kind = _kinds(field)[0]
    plain = os.fspath if kind is str else kind
    return tuple(map(plain, value)) if isinstance(field.default, tuple) else plain(value)


def _kinds(field):
    """The types of a field's value: `(int, NoneType)` of `int | None`, `(float, ...)` of `tuple[float, ...]`."""
    return getattr(field.type, "__args__", (field.type,))


def to_text(value):
    """A value as it stands in a flagfile; `None` for `None`."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return None if value is None else str(value)


def define_flags(kind, flag_values):
    """Defines one absl flag per field of a dataclass of settings on `flag_values`."""
    from absl import flags

    define = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
    }
    for field in dataclasses.fields(kind):
        if isinstance(field.default, tuple):
            text = [str(value) for value in field.default]
            flags.DEFINE_list(field.name, text, field.metadata["help"], flag_values=flag_values)
        else:
            define[_kinds(field)[0]](field.name, field.default, field.metadata["help"], flag_values=flag_values)


def from_flags(kind, flag_values):
    """The settings, an instance of `kind`, that parsed `flag_values` describe.

    Raises:
        ValueError: if a value is out of range, or a list holds something else than numbers.
    """
    values = {field.name: flag_values[field.name].value for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        name, value = field.name, values[field.name]
        if isinstance(value, list):
            element = _kinds(field)[0]
            try:
                values[name] = tuple(map(element, value))
            except ValueError as error:
                whole = "whole numbers" if element is int else "numbers"
                raise UserError(
                    f"`{name}` must be {whole} separated by commas. Received: {','.join(value)!r}. "
                    f"Write for example --{name}={to_text(field.default)}."
                ) from error
    return kind(**values)
