"""The benchmark of the mechanisms resumes where it was stopped, and its summaries are those of its cells."""

import json
import subprocess
import sys

import pytest

from tests.load_benchmark import ROOT, load_benchmark
from tests.user_environment import user_environment

plot, mechanisms = load_benchmark("plot_mechanisms"), load_benchmark("mechanisms")


def test_a_summary_is_a_mean_and_a_deviation_over_seeds():
    cells = [{"linear": 80.0}, {"linear": 82.0}, {"linear": 84.0}]
    assert plot.summary(cells, "linear") == (82.0, 2.0)
    assert plot.text(cells, "linear") == "82.0 ± 2.0"
    assert plot.text(cells[:1], "linear") == "80.0"  # one seed has no deviation
    assert plot.text([], "linear") == ""


def test_ablations_share_the_cells_of_the_comparison():
    cells = mechanisms.all_cells(quick=False)
    assert len({json.dumps(cell) for cell in cells}) == len(cells)
    for momentum in (0.0, 0.9, 0.99, 0.999):
        assert len(plot.selected(cells, study="accuracy", K=4096, epochs=8, momentum=momentum, batch_norm="split")) == 3


@pytest.mark.slow
def test_only_what_is_not_finished_runs(tmp_path):
    cells, path = mechanisms.all_cells(quick=True), tmp_path / "cells.jsonl"
    missing = [next(cell for cell in cells if cell["study"] == study) for study in ("accuracy", "cost")]
    path.write_text("".join(json.dumps(cell) + "\n" for cell in cells if cell not in missing))
    command = [sys.executable, ROOT / "benchmarks" / "mechanisms.py", "--quick", "--json", path]
    subprocess.run(command, check=True, cwd=tmp_path, env=user_environment(PYTHONPATH=str(ROOT)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == len(cells)
    for cell, line in zip(missing, lines[-2:], strict=True):
        assert cell.items() < line.items()
