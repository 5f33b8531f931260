"""The lists of what there is say what there is: all of it in docs/api.md, what matters most in the README."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from tests.api_table import PAGE, first_sentence, render
from tests.registry import MODULES

README = Path(__file__).resolve().parents[1] / "README.md"
NAME = re.compile(r"`([A-Za-z_]\w*)(?:\([^`]*\))?`")


def test_the_page_lists_everything_public_and_nothing_else():
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m tests.api_table"


def test_a_first_sentence_ends_where_it_should():
    def described():
        """What it is (sec. 3.3; He et al. 2020): one
        sentence. Another.

        More.
        """

    assert first_sentence(described) == "What it is (sec. 3.3; He et al. 2020): one sentence."


def readme_rows():
    """`(modules, names)` of each row of the README's table of modules."""
    for line in README.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `keras_moco."):
            where, what = line.strip("| ").split(" | ", 1)
            modules = re.findall(r"`(?:keras_moco)?\.([\w.]+)`", where)
            yield pytest.param(modules, NAME.findall(what), id=", ".join(modules))


def strangers(modules, names):
    """The names that are neither public in one of the modules, nor a word that a public dict or parameter knows."""
    known = set()
    for module in modules:
        holder = importlib.import_module(f"keras_moco.{module}")
        known |= {*holder.__all__}
        for found in (getattr(holder, name) for name in holder.__all__):
            known |= {*found} if isinstance(found, dict) else set()
    return [name for name in names if name not in known]


@pytest.mark.parametrize("modules, names", [*readme_rows()])
def test_a_row_of_the_readme_names_what_is_there(modules, names):
    assert modules and set(modules) <= set(MODULES)
    assert strangers(modules, names) == []


def test_the_check_of_rows_finds_strangers():
    assert strangers(["optimizers", "schedules"], ["SGD", "cosine", "Adam"]) == ["Adam"]
    assert strangers(["batch_norm"], ["split", "resolve", "ghost"]) == ["ghost"]


def test_the_readme_has_its_table():
    rows = [row.values for row in readme_rows()]
    assert len(rows) >= 5 and sum(len(names) for _, names in rows) >= 20


@pytest.mark.parametrize("module", MODULES)
def test_all_that_is_public_is_documented(module):
    holder = importlib.import_module(f"keras_moco.{module}")
    assert len(set(holder.__all__)) == len(holder.__all__)
    for name in holder.__all__:
        found = getattr(holder, name)
        assert not callable(found) or inspect.getdoc(found), name
