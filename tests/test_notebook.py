"""The notebook for newcomers runs, and its results are as it describes them."""

import json
import os
import re

import nbformat
import numpy as np
import pytest

from notebooks.execute import KERNEL, NOTEBOOK, ROOT, clean, execute
from tests.user_environment import user_environment

# Added after the last cell: what the notebook has found, for the test below.
REPORT = """
import json

report = {"knn": knn, "watched": history["knn_top1"], "loss": history["loss"], "chance": chance}
report |= {"frozen": frozen, "tuned": tuned, "similarity": similarity.tolist()}
Path("report.json").write_text(json.dumps(report))
"""


def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_notebook_runs_and_its_results_match_its_text(tmp_path, monkeypatch):
    notebook = stored()
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT))
    for name in os.environ.keys() - user_environment().keys():
        monkeypatch.delenv(name)
    executed = clean(execute(notebook, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".jupyter", "report.json", "runs"]
    assert sorted(path.name for path in (tmp_path / "runs" / "notebook").iterdir()) == ["export", "neighbours.png"]

    found = json.loads((tmp_path / "report.json").read_text())
    pixels, random, moco = (found["knn"][name] for name in ("pixels", "random weights", "MoCo"))
    assert moco["200"] > random["200"] + 5 and moco["200"] > pixels["200"] and moco["1"] > random["1"]
    assert abs(moco["1"] - pixels["1"]) < 3  # "hardly anything beats"
    assert found["watched"][-1] > 85
    assert found["loss"][0] < found["chance"] and max(found["loss"][1:4]) > found["loss"][0]
    assert 0 < found["loss"][-1] < found["chance"] - 1
    np.testing.assert_allclose(found["chance"], np.log(513))
    pixels, random, moco = (np.array(found["frozen"][name]) for name in ("pixels", "random weights", "MoCo"))
    assert (moco > pixels).all() and (moco > random + 5).all()
    assert found["tuned"]["MoCo"][0] > found["tuned"]["random weights"][0]  # with 14 labels
    similarity = np.array(found["similarity"])
    assert (np.diff(similarity) <= 0).all() and (similarity > 0.5).all() and (similarity < 1.001).all()

    # Metrics and pictures may differ in their last digits from machine to machine; the form may not.
    executed.cells.pop()
    for cell, other in zip(stored().cells, executed.cells, strict=True):
        assert (cell.source, cell.metadata, cell.id) == (other.source, other.metadata, other.id)
        kinds = [[output.output_type for output in one.get("outputs", [])] for one in (cell, other)]
        assert kinds[0] == kinds[1]


def test_the_stored_notebook_was_executed_in_order_and_holds_no_local_paths():
    notebook = stored()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert NOTEBOOK.stat().st_size < 400_000
    assert notebook.metadata == {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    without_pictures = re.sub(r'"image/png": ".*"', "", NOTEBOOK.read_text(encoding="utf-8"))
    for trace in (str(ROOT), "/home/", "/root", "/tmp", "/usr/", "site-packages"):
        assert trace not in without_pictures
