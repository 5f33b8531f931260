"""A folder belongs to one run: others are turned away before anything is written."""

import dataclasses
import json
import os

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


@pytest.mark.parametrize("name", ["", "runs/new", "Käthe"])
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


@pytest.mark.parametrize("entry", ["thesis.txt", ".hidden", "folder/"])
def test_a_folder_of_other_things_is_refused(entry, tmp_path):
    (tmp_path / entry).mkdir() if entry.endswith("/") else (tmp_path / entry).write_text("years of work")
    assert f"Received: {tmp_path}, " in refusal(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=f"Received: {tmp_path}, without flags.cfg"):
        RunDirectory(tmp_path).config()


def test_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    assert f"Received: {tmp_path / 'run'}, a file" in refusal(tmp_path / "run", CONFIG)
    assert (tmp_path / "run").read_text() == "a file"


def test_the_same_configuration_resumes(run):
    run.record(epochs=3)
    before = contents(run.path)
    assert RunDirectory(run.path).claim(CONFIG) == {}
    assert contents(run.path) == before


def test_what_does_not_affect_the_result_may_change(run):
    now = dataclasses.replace(CONFIG, knn_k=20, log_steps=1, data_dir="elsewhere")
    assert run.claim(now) == {} and run.config() == now


def test_an_allowed_change_is_returned_and_from_then_on_in_force(run):
    changes = {"epochs": 300, "temperature": 0.2}
    now = dataclasses.replace(CONFIG, **changes, allow_config_change=("temperature", "weight_decay", "epochs"))
    before = contents(run.path)
    run.check(now)
    assert contents(run.path) == before
    assert run.claim(now) == {"temperature": "0.07 -> 0.2", "epochs": "200 -> 300"}
    assert run.config() == dataclasses.replace(CONFIG, **changes)
    assert run.claim(dataclasses.replace(CONFIG, **changes)) == {}
    assert "epochs: 300 -> 200" in refusal(run.path, CONFIG)


@pytest.mark.parametrize(
    "settings, allowed, refused, offered",
    [
        ({"temperature": 0.2}, (), "temperature: 0.07 -> 0.2", "temperature"),
        (
            {"temperature": 0.2, "epochs": 300, "schedule": "cosine"},
            ("temperature",),
            "epochs: 200 -> 300, schedule: step -> cosine",
            "epochs,schedule",
        ),
        ({"queue_size": 256, "temperature": 0.2}, (), "queue_size: 512 -> 256, temperature: 0.07 -> 0.2", None),
        ({"queue_size": 256, "temperature": 0.2}, ("temperature",), "queue_size: 512 -> 256", None),
        ({"init_from": "runs/a"}, (), "init_from: None -> runs/a", None),
    ],
)
def test_another_configuration_is_refused_with_what_differs_and_what_may_be_allowed(
    settings, allowed, refused, offered, run
):
    text = refusal(run.path, dataclasses.replace(CONFIG, **settings, knn_k=20, allow_config_change=allowed))
    assert f"Received: {run.path} with {refused}. " in text
    assert text.endswith(f" --allow_config_change={offered}.") if offered else "--allow_config_change" not in text


def test_results_are_merged(run):
    assert run.results() == {}
    assert run.record(knn_top1=10.5, epochs=2) == {"knn_top1": 10.5, "epochs": 2}
    found = run.record(knn_top1=71.25, versions={"keras": "3"})
    assert found == {"knn_top1": 71.25, "epochs": 2, "versions": {"keras": "3"}}
    assert found == RunDirectory(run.path).results() == json.loads(run.results_json.read_text())


@pytest.mark.parametrize("text", ["", '{"knn_top1": 10.5'])
def test_damaged_results_are_reported_and_not_overwritten(text, run):
    run.results_json.write_text(text)
    for action in (run.results, lambda: run.record(epochs=2)):
        with pytest.raises(ValueError, match=f"{run.results_json}, .*Expecting"):
            action()
    assert run.results_json.read_text() == text


def test_results_and_flagfile_are_replaced_whole_or_not_at_all(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    run.record(knn_top1=10.5)
    before = contents(run.path)
    for write in (lambda: run.record(knn_top1=71.25), lambda: run.claim(dataclasses.replace(CONFIG, log_steps=1))):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
            patch.setattr(os, "replace", full)  # as `keras_moco.durable` ends
            write()
        assert contents(run.path) == before
