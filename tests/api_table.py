"""Writes docs/api.md, the list of everything public, out of `__all__` and docstrings: python -m tests.api_table"""

import importlib
import inspect
import json
import re
from pathlib import Path

from tests.registry import MODULES, public_object

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
INTRODUCTION = """# What there is

Everything that may be imported, in one line each; `help(name)` says the rest: arguments, shapes, errors, an example.
What is not listed here is not public, and may change.

`keras_moco` itself has {top}.

Written by `python -m tests.api_table`, and compared with the package by tests/test_api_table.py.
"""


def render():
    top = ", ".join(f"`{name}`" for name in importlib.import_module("keras_moco").__all__)
    return "\n".join([INTRODUCTION.format(top=top), *map(section, MODULES)])


def section(module):
    holder = importlib.import_module(f"keras_moco.{module}")
    rows = [f"| `{name}` | {summary(public_object(f'{module}.{name}'))} |" for name in holder.__all__]
    return "\n".join(
        [f"## keras_moco.{module}", "", first_sentence(holder), "", "| name | what it is |", "| --- | --- |", *rows, ""]
    )


def summary(found):
    """Of a constant what it holds, of all else the first sentence of its docstring."""
    if isinstance(found, dict | tuple):
        return ", ".join(f"`{json.dumps(value)}`" for value in found)
    return first_sentence(found).replace("|", "\\|")


def first_sentence(found):
    text = " ".join(inspect.getdoc(found).split("\n\n")[0].split())
    return re.match(r".*?\.(?= [A-Z`]|$)|.*", text).group()


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
