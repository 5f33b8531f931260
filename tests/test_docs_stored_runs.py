"""docs/reading_the_curves.md and docs/mechanisms.md show the tables and figures of the runs stored beside them."""

import json
import math
import re

import pytest
from PIL import Image

from keras_moco.callbacks import health
from keras_moco.config.flagfiles import read_flagfile
from tests.load_benchmark import ROOT, load_benchmark

curves, plot_curves, mechanisms, plot_mechanisms = map(
    load_benchmark, ("curves", "plot_curves", "mechanisms", "plot_mechanisms")
)
DOCS = ROOT / "docs"
LOGS, CELLS = plot_curves.read_all(), plot_mechanisms.read_cells(DOCS / "mechanisms.jsonl")
REFERENCE, FIRST_STEPS, RUNS, FACTS = LOGS


def test_tables_match_the_stored_runs():
    for name, plot, results in [
        ("reading_the_curves.md", plot_curves, (LOGS,)),
        ("mechanisms.md", plot_mechanisms, (CELLS,)),
    ]:
        page = (DOCS / name).read_text(encoding="utf-8")
        assert plot.with_tables(page, *results) == page, name
        assert set(re.findall("<!-- table: (.+) -->", page)) == plot.TABLES.keys(), name


@pytest.mark.slow
def test_plots_are_drawn(tmp_path):
    for name, draw, results in [
        *((name, draw, LOGS) for name, draw in plot_curves.FIGURES.items()),
        ("mechanisms_accuracy", plot_mechanisms.draw_accuracy, CELLS),
        ("mechanisms_cost", plot_mechanisms.draw_cost, CELLS),
    ]:
        draw(results, tmp_path / "figure.png")
        with Image.open(tmp_path / "figure.png") as ours, Image.open(DOCS / f"{name}.png") as theirs:
            assert ours.size == theirs.size, name


def test_stored_runs_match_the_benchmarks(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert RUNS.keys() == plot_curves.NAMES.keys()
    assert {name: facts["flags"] for name, facts in FACTS.items()} == curves.RUNS
    quick, fashion = (read_flagfile(f"configs/{name}.cfg") for name in ("quickstart", "fashion_mnist"))
    assert plot_curves.chance("runs") == math.log(1 + quick.queue_size)
    assert plot_curves.chance("reference") == math.log(1 + fashion.queue_size)
    assert {len(rows) for rows in RUNS.values()} == {quick.epochs} and len(REFERENCE) == fashion.epochs
    assert len(FIRST_STEPS) == curves.STEPS
    done, wanted = mechanisms.finished(DOCS / "mechanisms.jsonl"), mechanisms.all_cells(quick=False)
    assert all(cell in wanted for cell in done) and len({json.dumps(cell) for cell in done}) == len(done) > 0


def test_stored_warnings_match_the_current_text():
    templates = [text.partition(" Look at")[0] for text in (health.COLLAPSE, health.TOO_EASY, health.AT_CHANCE)]
    today = [re.sub(r"\\{.+?\\}", r"\\S+", re.escape(template)) for template in templates]
    warnings = [warning for facts in FACTS.values() for warning in facts["warnings"]]
    assert warnings and [warning for warning in warnings if not re.match("|".join(today), warning)] == []
