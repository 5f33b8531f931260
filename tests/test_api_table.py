"""docs/api.md lists every public name, and the names in the README exist."""

import importlib
import re

from keras_moco.networks import RESNETS
from tests.api_table import PAGE, render

README = PAGE.parents[1] / "README.md"


def test_page_lists_all_public_names(monkeypatch):
    monkeypatch.delitem(RESNETS, "tiny", raising=False)  # of tests/tiny.py, if another test has imported it
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m tests.api_table"


def unknown_names(row):
    """The names in a row of the README's table of modules that none of its modules makes public."""
    where, what = row.strip("| ").split(" | ", 1)
    modules = re.findall(r"`(?:keras_moco)?\.([\w.]+)`", where)
    public = {name for module in modules for name in importlib.import_module(f"keras_moco.{module}").__all__}
    return [name for name in re.findall(r"`([A-Za-z_]\w*)(?:\([^`]*\))?`", what) if name not in public]


def test_readme_names_are_public():
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `keras_moco.")]
    assert len(rows) >= 5
    assert {row: names for row in rows if (names := unknown_names(row))} == {}
    assert unknown_names("| `keras_moco.optimizers`, `.optimizers.schedules` | `SGD`; `learning_rate`, `Adam` |") == [
        "Adam"
    ]
