"""docs/mechanisms.md shows what the stored cells say, and the benchmark goes on where it was stopped."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CELLS, PAGE = ROOT / "docs" / "mechanisms.jsonl", ROOT / "docs" / "mechanisms.md"


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plot, mechanisms = load("plot_mechanisms"), load("mechanisms")


def test_the_stored_cells_are_those_of_the_benchmark():
    done = mechanisms.finished(CELLS)
    assert done and all(cell in mechanisms.all_cells(quick=False) for cell in done)
    assert len({json.dumps(cell) for cell in done}) == len(done)


def test_the_page_shows_the_tables_of_the_stored_cells():
    text, cells = PAGE.read_text(), plot.read_cells(CELLS)
    assert plot.with_tables(text, cells) == text
    assert all(f"<!-- table: {name} -->\n{make(cells)}\n<!-- end -->" in text for name, make in plot.TABLES.items())


@pytest.mark.parametrize("draw, name", [("draw_accuracy", "mechanisms_accuracy"), ("draw_cost", "mechanisms_cost")])
def test_the_figures_are_drawn_and_shown(draw, name, tmp_path):
    getattr(plot, draw)(plot.read_cells(CELLS), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as ours, Image.open(ROOT / "docs" / f"{name}.png") as theirs:
        assert ours.size == theirs.size
    assert re.search(rf"!\[.+\]\({name}\.png\)", PAGE.read_text())


def test_a_summary_is_a_mean_and_a_deviation_over_seeds():
    cells = [{"linear": 80.0}, {"linear": 82.0}, {"linear": 84.0}]
    assert plot.summary(cells, "linear") == (82.0, 2.0)
    assert plot.text(cells, "linear") == "82.0 ± 2.0"
    assert plot.text(cells[:1], "linear") == "80.0"  # one seed has no deviation
    assert plot.text([], "linear") == ""


def test_the_ablations_share_the_cells_of_the_comparison():
    cells = mechanisms.all_cells(quick=False)
    assert len({json.dumps(cell) for cell in cells}) == len(cells)
    for momentum in (0.0, 0.9, 0.99, 0.999):
        assert len(plot.selected(cells, study="accuracy", K=4096, epochs=8, momentum=momentum, batch_norm="split")) == 3


@pytest.mark.slow
def test_a_finished_cell_is_not_run_again(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "mechanisms.py", "--quick", "--json", tmp_path / "cells.jsonl"]
    first = subprocess.run(command, check=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    lines = (tmp_path / "cells.jsonl").read_text().splitlines()
    assert len(first) == len(lines) == len(mechanisms.all_cells(quick=True))
    (tmp_path / "cells.jsonl").write_text("\n".join(lines[:4] + lines[5:]) + "\n")
    [again] = subprocess.run(command, check=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    cell, repeated = json.loads(lines[4]), json.loads((tmp_path / "cells.jsonl").read_text().splitlines()[-1])
    assert again.startswith(f"5/{len(lines)} ") and cell["study"] == "accuracy"
    # The same seed, the same numbers, time aside.
    assert {**repeated, "seconds": 0} == {**cell, "seconds": 0}
