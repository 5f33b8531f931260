"""docs/reading_the_curves.md shows what the stored logs say."""

import importlib.util
import math
import re
import statistics
from pathlib import Path

import pytest
from PIL import Image

from keras_moco.callbacks import health
from keras_moco.config import read_flagfile

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reading_the_curves.md").read_text(encoding="utf-8")


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plot, curves = load("plot_curves"), load("curves")
LOGS = plot.read_all()
REFERENCE, FIRST_STEPS, RUNS, SAID = LOGS
CHANCE = plot.chance("runs")


def test_the_stored_logs_are_those_of_the_benchmark():
    assert RUNS.keys() == curves.RUNS.keys() == SAID.keys() == plot.NAMES.keys()
    assert {name: said["flags"] for name, said in SAID.items()} == curves.RUNS
    assert len(FIRST_STEPS) == curves.STEPS
    assert sum(path.stat().st_size for path in curves.FOLDER.iterdir()) < 60_000


def test_chance_is_that_of_the_queues(monkeypatch):
    monkeypatch.chdir(ROOT)
    quick, fashion = (read_flagfile(f"configs/{name}.cfg") for name in ("quickstart", "fashion_mnist"))
    assert plot.chance("runs") == math.log(1 + quick.queue_size)
    assert plot.chance("reference") == math.log(1 + fashion.queue_size)
    assert all(len(rows) == quick.epochs for rows in RUNS.values()) and len(REFERENCE) == fashion.epochs


def test_the_page_shows_the_tables_of_the_stored_logs():
    assert plot.with_tables(PAGE, LOGS) == PAGE
    assert all(f"<!-- table: {name} -->\n{make(*LOGS)}\n<!-- end -->" in PAGE for name, make in plot.TABLES.items())


@pytest.mark.parametrize("name", plot.FIGURES)
def test_the_figures_are_drawn_and_shown(name, tmp_path):
    plot.FIGURES[name](LOGS, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as ours, Image.open(ROOT / "docs" / f"{name}.png") as theirs:
        assert ours.size == theirs.size
    assert re.search(rf"!\[.+\]\({name}\.png\)", PAGE)


def test_times_are_no_part_of_a_stored_log():
    row = {"epoch": "0", "loss": "5.123456789", "images_per_second": "3.0", "step_seconds": "1", "knn_top1": "NA"}
    assert curves.rounded(row) == {"epoch": "0", "loss": "5.1235", "knn_top1": "NA"}


def test_the_warnings_are_those_of_health():
    beginnings = {
        text.partition("{")[0]: text.partition("}")[2][:20]
        for text in (health.COLLAPSE, health.TOO_EASY, health.AT_CHANCE)
    }
    warnings = [warning for said in SAID.values() for warning in said["warnings"]]
    assert warnings
    assert all(any(warning.startswith(beginning) for beginning in beginnings) for warning in warnings)


# What the text says of them.


def column(name, level):
    return [row[level] for row in RUNS[name]]


def test_while_the_queue_fills_the_loss_rises_to_chance_and_then_it_falls():
    losses = [row["loss"] for row in FIRST_STEPS]
    full = next(number for number, row in enumerate(FIRST_STEPS) if row["queue_fill"] == 1)
    assert full + 1 == 16 and FIRST_STEPS[0]["contrast_top1"] == 1
    assert losses[0] < 1 and losses[-1] < 0.95 * plot.chance("first_steps")
    assert max(losses) == pytest.approx(plot.chance("first_steps"), rel=0.02)
    assert full <= losses.index(max(losses)) < full + 5


def test_from_epoch_10_on_the_contrast_accuracy_rises_far_more_than_the_knn_accuracy():
    at, end = REFERENCE[9], REFERENCE[-1]
    assert 100 * (end["contrast_top1"] - at["contrast_top1"]) == pytest.approx(22, abs=0.5)
    assert end["knn_top1"] - at["knn_top1"] == pytest.approx(1.3, abs=0.05)


def test_the_healthy_run_is_worse_before_it_is_better_and_says_nothing():
    accuracy = column("healthy", "knn_top1")
    assert f"from {SAID['healthy']['knn_top1_initial']:.1f} to {min(accuracy):.1f} %" in " ".join(PAGE.split())
    assert accuracy.index(min(accuracy)) < 10 and accuracy[-1] > SAID["healthy"]["knn_top1_initial"]
    assert not SAID["healthy"]["warnings"]


def test_too_high_a_rate_collapses():
    assert min(column("rate_too_high", "feature_std")) < health.COLLAPSED
    assert max(column("rate_too_high", "effective_rank")) < 3
    assert min(column("rate_too_high", "positive_similarity")[1:6]) > 0.99


def test_too_low_a_rate_stays_at_chance_and_forgets():
    assert column("rate_too_low", "loss")[1:] == pytest.approx([CHANCE] * 39, rel=0.015)
    spread = column("rate_too_low", "feature_std")
    assert max(spread) - min(spread) < 0.02
    assert column("rate_too_low", "knn_top1")[-1] < SAID["rate_too_low"]["knn_top1_initial"] - 4


def test_without_key_momentum_the_embeddings_shrink_and_get_worse():
    assert min(column("no_key_momentum", "feature_std")) < 0.1
    assert column("no_key_momentum", "knn_top1")[-1] < 45
    assert min(column("no_key_momentum", "loss")[2:20]) > 0.96 * CHANCE


def test_a_wrong_scaling_shows_in_use_alone():
    first = slice(0, 40 * 2 // 3)
    assert statistics.median(column("wrong_scaling", "alignment")[first]) < 0.01
    assert sum(rank < 5 for rank in column("wrong_scaling", "effective_rank")[first]) > 20
    assert min(column("wrong_scaling", "feature_std")) > 0.2
    assert not SAID["wrong_scaling"]["warnings"]


def test_crops_in_between_are_best_and_none_make_the_task_easy():
    assert column("no_crops", "knn_top1")[-1] < column("larger_crops", "knn_top1")[-1]
    assert 100 * column("no_crops", "contrast_top1")[-1] == pytest.approx(94, abs=0.5)


def test_easier_tasks_are_no_illness_here():
    for name in ("larger_crops", "no_crops", "batch_norm_plain"):
        assert column(name, "knn_top1")[-1] > column("healthy", "knn_top1")[-1]
        assert column(name, "contrast_top1")[-1] > column("healthy", "contrast_top1")[-1]
        assert not SAID[name]["warnings"]
