"""Weights & Biases offline: what its client wrote, read from its files."""

import os
import signal

import pytest

from tests.loggers.wandb_files import history, of_kind, settings
from tests.tiny import tiny_config
from tests.whole_runs import STEPS, log, pretrain, stop_in_mid_epoch

wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # those of wandb are not ours


@pytest.fixture
def offline(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # it reads them once
    return tiny_config(tmp_path / "digits", log_to=("tensorboard", "csv", "wandb"))


def test_a_stopped_and_resumed_run_is_one_run_with_each_epoch_once(offline, capfd):
    handler = signal.getsignal(signal.SIGINT)
    stop_in_mid_epoch(offline)
    run = pretrain(offline).path
    assert signal.getsignal(signal.SIGINT) is handler
    first, second = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    begun, resumed = (of_kind(path, "run")[0] for path in (first, second))
    assert begun.run_id == resumed.run_id and begun.display_name == "digits" and begun.project == "keras_moco"
    rows = [row for path in (first, second) for row in history(path) if "loss" in row]
    assert [(row["epoch"], row["_step"]) for row in rows] == [(0, STEPS), (1, 2 * STEPS)]
    for row, expected in zip(rows, log(run), strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(
            {name: float(text) for name, text in expected.items()}
        )
    found = settings(first)
    assert (found["temperature"], found["epochs"], found["image_mean"]) == (0.1, 2, "0.3")
    assert "wandb" not in capfd.readouterr().err  # nothing but our own lines
    pretrain(offline)  # it is finished
    assert len([*run.glob("wandb/offline-run-*")]) == 2


def test_pictures_and_card_are_those_of_the_run(offline):
    run = pretrain(offline, at_the_end=pytest.MonkeyPatch.context).path
    [file] = run.glob("wandb/offline-run-*/run-*.wandb")
    shown = {name: value for row in history(file) for name, value in row.items() if name.endswith("/path")}
    assert shown.keys() == {f"{name}/path" for name in ("curves", "views", "neighbours", "embedding")}
    for name, path in shown.items():
        assert (file.parent / "files" / path).read_bytes() == (run / f"{name.removesuffix('/path')}.png").read_bytes()
    card = (run / "export" / "MODEL_CARD.md").read_bytes()
    assert (file.parent / "files" / "MODEL_CARD.md").read_bytes() == card


def test_a_client_that_cannot_begin_only_warns(offline, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "x")  # which no key looks like
    wandb.teardown()
    outcome = pretrain(offline)
    assert outcome.results["epochs"] == 2
    lines = [line for line in outcome.printed.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 2 and all(line.startswith("warning: wandb was not written (") for line in lines)
