"""Writes docs/api.md, the list of public names, from `__all__` and docstrings: python -m tests.api_table"""

import importlib
import inspect
import json
import re
from pathlib import Path

from tests.registry import MODULES, public_object

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
INTRODUCTION = """# Public names

Every public name, in one line; `help(name)` shows arguments, shapes, errors and an example. Names that are not listed
here are not public, and may change.

`keras_moco` itself exports {top}.

Written by `python -m tests.api_table`; tests/test_api_table.py compares it with the package.
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
    """The values of a constant; for anything else the first sentence of its docstring."""
    if isinstance(found, dict | tuple):
        return ", ".join(f"`{json.dumps(value)}`" for value in found)
    return first_sentence(found).replace("|", "\\|")


def first_sentence(found):
    text = " ".join(inspect.getdoc(found).split("\n\n")[0].split())
    return re.match(r".*?\.(?= [A-Z`]|$)|.*", text).group()


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
