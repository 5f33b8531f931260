"""Settings: fields of a frozen dataclass, each declared once, that become the flags of a command."""

import dataclasses
import os
import sys
import unicodedata

from keras_moco.checks.ranges import RANGES, broken_rule
from keras_moco.errors import UserError, did_you_mean


def setting(
    default,
    help,
    *,
    group,
    range=None,
    choices=(),
    table=None,
    used_by=(),
    resumable=False,
    changeable=False,
    in_flagfile=True,
    auto_up_to=None,
    follows_data=False,
    measured_if=None,
):
    """A field of a dataclass of settings: all that is known of it becomes its metadata.

    Its annotation is `str`, `int`, `float`, `bool`, one of them or `None`, a tuple, or a tuple or a word.

    Args:
        default: value.
        help: str, help of the flag. Choices and users are added to it.
        group: str, the heading in `--help`: what a person decides by it.
        range: a key of `keras_moco.checks.ranges.RANGES`, of a number, of each number of a tuple, or of a text, which
            may then also be none of the choices.
        choices: tuple of the possible values, or dict of them to what each means.
        table: `"module:NAME"` of the mapping from these choices to what they mean; several are separated by spaces. It
            is not imported here, since that would load TensorFlow; but once it has been, what was added to it may be
            chosen too.
        used_by: tuple of the methods, or of the kinds of data source, that use the setting. Defaults to all.
        resumable: bool. It may differ when a run resumes, since it does not affect the result.
        changeable: bool. It affects the result, not the shape of what is saved, and may differ if allowed.
        in_flagfile: bool. It is written into the flagfile of a run.
        follows_data: bool. Its default stands for what follows from the data, which `Plan` finds out.
        measured_if: str. A word that may be given instead of numbers, or begins a text, for those of the data.
        auto_up_to: number. If not given, it follows from the data, up to this number, which earlier flagfiles hold.
    """
    if choices:
        names = [f"{name} ({why})" for name, why in choices.items()] if isinstance(choices, dict) else choices
        *others, last = [*names, *([range] if range else [])]
        help = f"{help}: {', '.join(map(str, others))} or {last}."
    if used_by:
        help = f"{help} Used by {' and '.join(used_by)}."
    return dataclasses.field(
        default=default,
        metadata=dict(help=help, group=group, range=range, choices=tuple(choices), table=table, used_by=used_by)
        | dict(resumable=resumable, changeable=changeable, in_flagfile=in_flagfile)
        | dict(follows_data=follows_data, auto_up_to=auto_up_to, measured_if=measured_if),
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of the frozen dataclasses of settings: values are checked, and made plain Python.

    Paths become text, lists tuples, and NumPy's numbers Python's: settings are written as text and as JSON.
    """

    has_recipes = False  # whether flagfiles of `configs` hold such settings

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            rule = _broken_rule(field, value)
            if rule:
                received = repr(value) if isinstance(value, str) else to_text(value)
                near = did_you_mean(value, map(str, choices_of(field))) if isinstance(value, str) else ""
                raise UserError(
                    f"`{field.name}` must be {rule}. Received: {field.name}={received}. {near}Correct the "
                    f"flag --{field.name}."
                )
            object.__setattr__(self, field.name, _plain(field, value))  # it is frozen

    def changed(self) -> list[str]:
        """Names of fields whose values are not the defaults, of now or of earlier flagfiles: a list."""
        defaults = ((field.name, (field.default, field.metadata["auto_up_to"])) for field in dataclasses.fields(self))
        return [name for name, values in defaults if getattr(self, name) not in values]


def choices_of(field):
    """The values that a field may have, a tuple, also those that were added to its table; empty for any value."""
    tables = [table.partition(":") for table in (field.metadata["table"] or "").split()]
    added = [each for module, _, name in tables for each in getattr(sys.modules.get(module), name, ())]
    return tuple(dict.fromkeys((*field.metadata["choices"], *added)))


def _broken_rule(field, value):
    """The rule that the value of a field breaks, in words, or `None`."""
    if isinstance(field.default, tuple):
        word = field.metadata["measured_if"]
        if isinstance(value, str) and value == word:
            return None
        if word and isinstance(value, str):
            return f"numbers, or {word}"
        if not isinstance(value, tuple | list):
            return "several values, a tuple or a list"
        if field.default and not value:
            return "one value or more"
        return next(filter(None, (_broken_rule_of_one(field, each) for each in value)), None)
    if value is None and type(None) in kinds_of(field):
        return None
    return _broken_rule_of_one(field, value)


def _broken_rule_of_one(field, value):
    kind, choices = kinds_of(field)[0], choices_of(field)
    if choices:
        form = field.metadata["range"]
        *others, last = map(str, (*choices, *([form] if form else [])))
        known = value in choices and not isinstance(value, bool)  # which equals 1
        known = known or form and _broken_rule_of_text(value) is None and RANGES[form](os.fspath(value))
        return None if known else f"{', '.join(others)} or {last}"
    if kind is bool:
        return None if isinstance(value, bool) else "true or false"
    if kind is str:
        return _broken_rule_of_text(value) or _broken_form(value, field.metadata["range"])
    return broken_rule(value, field.metadata["range"], whole=kind is int)


def _broken_form(text, form):
    """Likewise, of a text that must have a form, a key of `RANGES`."""
    return None if form is None or RANGES[form](text) else form


def _broken_rule_of_text(value):
    """Likewise. What a line of a flagfile cannot hold would be another value when a run resumes."""
    if not isinstance(value, str | os.PathLike):
        return "text"
    text = os.fsdecode(value)
    special = any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in text)
    if special or text != text.rstrip():
        return "text of one line, without control characters, bytes that are no UTF-8, or trailing blanks"
    return None


def _plain(field, value):
    if value is None:
        return None
    if isinstance(value, str) and value == field.metadata["measured_if"]:
        return value
    kind = kinds_of(field)[0]
    plain = os.fspath if kind is str else kind
    return tuple(map(plain, value)) if isinstance(field.default, tuple) else plain(value)


def kinds_of(field):
    """The types of a field's value: `(int, NoneType)` of `int | None`, `(float, ...)` of `tuple[float, ...]`.

    Likewise of `tuple[float, ...] | str`.
    """
    kinds = getattr(field.type, "__args__", (field.type,))
    return getattr(kinds[0], "__args__", kinds)


def to_text(value):
    """A value as it stands in a flagfile; `None` for `None`."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return None if value is None else str(value)
