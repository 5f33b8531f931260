"""A folder belongs to one run: others are turned away before anything is written."""

import dataclasses
import os
from unittest import mock

import pytest

from keras_moco.config import Config, read_flagfile
from keras_moco.run_directory import RunDirectory

CONFIG = Config(dataset="digits", queue_size=512, batch_size=128)


def contents(folder):
    """Everything below a folder, with the bytes of the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refusal(path, config):
    """The message with which a folder is refused, untouched."""
    before = contents(path)
    for action in (RunDirectory(path).check, RunDirectory(path).claim):
        with pytest.raises(ValueError) as caught:
            action(config)
    assert contents(path) == before
    return str(caught.value)


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path)
    run.claim(CONFIG)
    return run


@pytest.mark.parametrize("name", ["", "runs/Käthe"])
def test_a_new_or_empty_folder_is_claimed_with_a_flagfile_that_says_how_to_resume(name, tmp_path):
    run = RunDirectory(tmp_path / name)
    run.check(CONFIG)
    assert contents(tmp_path) == {}
    config = dataclasses.replace(CONFIG, workdir=str(run.path))
    assert run.claim(config) == {}
    assert [path.name for path in run.path.iterdir()] == ["flags.cfg"]
    assert run.config() == read_flagfile(run.flagfile) == config
    first, _, rest = run.flagfile.read_text(encoding="utf-8").partition("\n")
    assert first.startswith("#") and f"python train.py --flagfile={run.flagfile}" in first
    assert rest == config.to_flagfile()


def test_a_file_and_a_folder_of_other_things_are_refused(tmp_path):
    (tmp_path / ".hidden").write_text("years of work")
    assert f"Received: {tmp_path}, " in refusal(tmp_path, CONFIG)
    assert f"Received: {tmp_path / '.hidden'}, a file" in refusal(tmp_path / ".hidden", CONFIG)
    with pytest.raises(ValueError, match=f"Received: {tmp_path}, without flags.cfg"):
        RunDirectory(tmp_path).config()


def test_an_allowed_change_is_returned_and_from_then_on_in_force(run):
    changes = {"epochs": 300, "temperature": 0.2}
    now = dataclasses.replace(CONFIG, **changes, allow_config_change=("temperature", "weight_decay", "epochs"))
    before = contents(run.path)
    run.check(now)
    assert contents(run.path) == before
    assert run.claim(now) == {"temperature": "0.07 -> 0.2", "epochs": "200 -> 300"}
    assert run.config() == dataclasses.replace(CONFIG, **changes)
    assert run.claim(dataclasses.replace(CONFIG, **changes, knn_k=20, log_steps=1, data_dir="elsewhere")) == {}
    assert "epochs: 300 -> 200" in refusal(run.path, CONFIG)


def test_another_configuration_is_refused_with_what_differs_and_what_may_be_allowed(run):
    allowed = {"knn_k": 20, "temperature": 0.2, "allow_config_change": ("temperature",)}
    text = refusal(run.path, dataclasses.replace(CONFIG, **allowed, epochs=300, schedule="cosine"))
    assert f"Received: {run.path} with epochs: 200 -> 300, schedule: step -> cosine. " in text
    assert text.endswith(" --allow_config_change=epochs,schedule.")
    text = refusal(run.path, dataclasses.replace(CONFIG, **allowed, queue_size=256))
    assert f"Received: {run.path} with queue_size: 512 -> 256. " in text and "--allow_config_change" not in text


def test_results_and_flagfile_are_replaced_whole_or_not_at_all(run, monkeypatch):
    run.record(knn_top1=10.5)
    before = contents(run.path)
    for write in (lambda: run.record(knn_top1=71.25), lambda: run.claim(dataclasses.replace(CONFIG, log_steps=1))):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
            full = OSError(28, "No space left on device")
            patch.setattr(os, "replace", mock.Mock(side_effect=full))  # as `keras_moco.durable` ends
            write()
        assert contents(run.path) == before
