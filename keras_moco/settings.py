"""Settings that are declared once, as fields of a frozen dataclass, and become flags of the command line."""

import dataclasses

from keras_moco.errors import UserError

_RANGES = {
    "at least 1": lambda value: value >= 1,
    "at least 0": lambda value: value >= 0,
    "positive": lambda value: value > 0,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
    "in (0, 100]": lambda value: 0 < value <= 100,
}


def setting(default, help, **metadata):
    """A field with its help; its annotation is `str`, `int`, `float`, `bool`, one of them or `None`, or a tuple."""
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


def check_ranges(settings, names):
    """Raises `ValueError` for the first number that is out of its range.

    Args:
        settings: instance of a dataclass of settings.
        names: dict of a range, such as `"at least 1"`, to the names of fields, separated by spaces. `None` passes, and
            of a tuple each number counts.
    """
    for words, fields in names.items():
        for name in fields.split():
            value = getattr(settings, name)
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(map(_RANGES[words], numbers)):
                raise UserError(
                    f"`{name}` must be {words}. Received: {name}={to_text(value)}. Correct the flag --{name}."
                )


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
        kinds = getattr(field.type, "__args__", (field.type,))
        if isinstance(field.default, tuple):
            text = [str(value) for value in field.default]
            flags.DEFINE_list(field.name, text, field.metadata["help"], flag_values=flag_values)
        else:
            define[kinds[0]](field.name, field.default, field.metadata["help"], flag_values=flag_values)


def from_flags(kind, flag_values):
    """The settings, an instance of `kind`, that parsed `flag_values` describe.

    Raises:
        ValueError: if a value is out of range, or a list holds something else than numbers.
    """
    values = {field.name: flag_values[field.name].value for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        name, value = field.name, values[field.name]
        if isinstance(value, list):
            element, *_ = field.type.__args__
            try:
                values[name] = tuple(map(element, value))
            except ValueError as error:
                whole = "whole numbers" if element is int else "numbers"
                raise UserError(
                    f"`{name}` must be {whole} separated by commas. Received: {','.join(value)!r}. "
                    f"Write for example --{name}={to_text(field.default)}."
                ) from error
    return kind(**values)
