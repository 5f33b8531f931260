"""Settings as flags of the command line."""

import dataclasses
import textwrap

from absl import flags

from keras_moco.config.settings import kinds_of, to_text
from keras_moco.errors import UserError

_DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}


def define_flags(kind, flag_values):
    """Defines one absl flag per field of a dataclass of settings on `flag_values`."""
    for field in dataclasses.fields(kind):
        if isinstance(field.default, tuple):
            default = [str(value) for value in field.default]
            flags.DEFINE_list(field.name, default, field.metadata["help"], flag_values=flag_values)
        else:
            _DEFINE[kinds_of(field)[0]](field.name, field.default, field.metadata["help"], flag_values=flag_values)


def help_of(kind, groups=None):
    """The flags of a dataclass of settings, or of some groups of it, by group in the order of the fields: a text."""
    lines, group = [], None
    for field in dataclasses.fields(kind):
        if groups and field.metadata["group"] not in groups:
            continue
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            lines += ["", f"{group}:"]
        name = f"[no]{field.name}" if field.type is bool else field.name
        default = to_text(field.default)
        text = f"--{name}: {field.metadata['help']}{f' Default: {default}' if default else ''}"
        lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return "\n".join(lines)


def from_flags(kind, flag_values):
    """The settings, an instance of `kind`, that parsed `flag_values` describe.

    Raises:
        ValueError: if a value is out of its range, or a list holds something else than numbers.
    """
    values = {field.name: flag_values[field.name].value for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        name, value = field.name, values[field.name]
        if isinstance(value, list):
            element, word = kinds_of(field)[0], field.metadata["measured_if"]
            if value == [word]:
                values[name] = word
                continue
            try:
                values[name] = tuple(map(element, value))
            except ValueError as error:
                whole = "whole numbers" if element is int else "numbers"
                raise UserError(
                    f"`{name}` must be {whole} separated by commas{f', or {word}' if word else ''}. "
                    f"Received: {','.join(value)!r}. "
                    f"Write for example --{name}={to_text(field.default)}."
                ) from error
    return kind(**values)
