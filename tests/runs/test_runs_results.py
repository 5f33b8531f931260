"""The results of a run, to which several processes may add."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_moco.runs.results import Results
from tests.user_environment import WITHOUT_TENSORFLOW

ROOT = Path(__file__).resolve().parents[2]
RECORD = """
import sys
from keras_moco.runs.results import Results
results, process = Results(sys.argv[1]), sys.argv[2]
for number in range(50):
    results.record(**{f"{process} {number}": number})
"""


def test_nothing_is_lost_where_several_processes_record_at_once(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"before": 1}')
    program = WITHOUT_TENSORFLOW + RECORD
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path), name], cwd=ROOT) for name in "abcd"]
    while any(process.poll() is None for process in processes):
        assert json.loads(path.read_text())["before"] == 1  # never half a file, nor none
        time.sleep(0.002)
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert Results(path).read() == {"before": 1, **{f"{name} {n}": n for name in "abcd" for n in range(50)}}
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_file_without_results_is_refused_and_unchanged(tmp_path):
    path = tmp_path / "results.json"
    for content in ("", "[]", "null", '{"a": 1', "\xff", "[" * 100_000, '{"a":' * 100_000):
        path.write_bytes(content.encode("latin-1"))
        for call in (Results(path).read, Results(path).record):
            with pytest.raises(ValueError, match="must be as it was written. Received: ") as caught:
                call()
            assert f"{path}, which " in str(caught.value)
        assert path.read_bytes() == content.encode("latin-1") and os.listdir(tmp_path) == ["results.json"]


def test_facts_of_other_types_are_refused(tmp_path):
    """A stranger's file may say anything; what reads it counts on what was written."""
    path = tmp_path / "results.json"
    odd = [
        {"checkpoints": []},
        {"checkpoints": {"knn_top1": {"step": "3"}}},
        {"checkpoints": {"knn_top1": 3}},
        {"semi": 5},
        {"semi": {"10%": {"finetune": ["80"]}}},
        {"semi": {"10%": {"settings": {"checkpoint": "newest"}}}},
        {"other_data": 5},
        {"replicas": "x"},
        {"replicas": 0},
        {"replicas": [1]},
        {"seconds": "1"},
        {"train_examples": "many"},
        {"versions": []},
        {"config_changes": {}},
    ]
    for content in [*odd, *({"other_data": {"digits": each}} for each in odd), {"other_data": {"digits": 5}}]:
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"{next(iter(content))} of another form"):
            Results(path).read()
    known = {"semi": {"10%": {"finetune": [80.0, 81], "settings": {"checkpoint": {"step": 3, "weights": "a"}}}}}
    known |= {"train_examples": None, "checkpoints": {"knn_top1": {"weights": "a"}}, "anything": ["else"]}
    path.write_text(json.dumps(known | {"other_data": {"digits": known}}))
    assert Results(path).read()["other_data"]["digits"] == known


def test_mark_up_in_results_does_not_reach_the_card():
    from keras_moco.evaluation.model_card import _table_of

    digest = "x` |\n\n<script>alert(1)</script> [a](javascript:1)"
    card = _table_of({"linear_top1": 12.5}, {"linear_top1": {"weights": digest, "step": 3}}, None)
    assert "<script>" not in card and "\n\n" not in card and "[a](" not in card
