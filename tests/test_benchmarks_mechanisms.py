"""The benchmark of the mechanisms resumes where it was stopped."""

import json
import subprocess
import sys

import pytest

from tests.load_benchmark import ROOT, load_benchmark
from tests.user_environment import user_environment

mechanisms = load_benchmark("mechanisms")


@pytest.mark.slow
def test_only_unfinished_cells_run(tmp_path):
    cells, path = mechanisms.all_cells(quick=True), tmp_path / "cells.jsonl"
    missing = [next(cell for cell in cells if cell["study"] == study) for study in ("accuracy", "cost")]
    path.write_text("".join(json.dumps(cell) + "\n" for cell in cells if cell not in missing))
    command = [sys.executable, ROOT / "benchmarks" / "mechanisms.py", "--quick", "--json", path]
    subprocess.run(command, check=True, cwd=tmp_path, env=user_environment(PYTHONPATH=str(ROOT)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == len(cells)
    for cell, line in zip(missing, lines[-2:], strict=True):
        assert cell.items() < line.items()
