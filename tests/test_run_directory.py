"""A folder belongs to one run: others are turned away before anything is written."""

import json
from pathlib import Path

import pytest

from keras_moco import run_directory
from keras_moco.config import Config, read_flagfile
from keras_moco.run_directory import RunDirectory

CONFIG = Config(dataset="digits", queue_size=512, batch_size=128)


def contents(folder):
    """Everything below a folder, with the bytes of the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refusal(action, *arguments):
    """The whole sentence with which something is refused."""
    with pytest.raises(ValueError) as caught:
        action(*arguments)
    return str(caught.value)


# Whose folder it is


def test_naming_and_checking_a_folder_creates_nothing(tmp_path):
    RunDirectory(tmp_path / "runs" / "new").check(CONFIG)
    assert contents(tmp_path) == {}


def test_a_new_folder_is_created_with_its_parents(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "new")
    run.claim(CONFIG)
    assert [path.name for path in run.path.iterdir()] == ["flags.cfg"]
    assert run.config() == CONFIG


def test_an_empty_folder_is_taken(tmp_path):
    RunDirectory(tmp_path).claim(CONFIG)
    assert RunDirectory(tmp_path).config() == CONFIG


def test_the_flagfile_says_how_to_go_on(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.claim(CONFIG)
    first, *rest = run.flagfile.read_text().splitlines()
    command = f"python train.py --flagfile={run.flagfile}"
    assert first.startswith("#") and command in first
    assert "\n".join(rest) + "\n" == CONFIG.to_flagfile()
    assert read_flagfile(run.flagfile) == CONFIG


@pytest.mark.parametrize("entry", ["thesis.txt", ".hidden", "folder/"])
def test_a_folder_of_other_things_is_refused(entry, tmp_path):
    (tmp_path / entry).mkdir() if entry.endswith("/") else (tmp_path / entry).write_text("years of work")
    before = contents(tmp_path)
    for action in (RunDirectory(tmp_path).check, RunDirectory(tmp_path).claim):
        assert refusal(action, CONFIG) == (
            f"`workdir` must be new, empty, or the folder of a run. Received: {tmp_path}, which holds other things. "
            "Choose another --workdir."
        )
    assert contents(tmp_path) == before


def test_a_file_is_refused(tmp_path):
    path = tmp_path / "run"
    path.write_text("a file")
    for action in (RunDirectory(path).check, RunDirectory(path).claim):
        assert refusal(action, CONFIG) == (
            f"`workdir` must be a folder. Received: {path}, a file. Choose another --workdir."
        )
    assert path.read_text() == "a file"


def test_the_same_configuration_goes_on(tmp_path):
    run = RunDirectory(tmp_path)
    run.claim(CONFIG)
    run.record(epochs=3)
    before = contents(tmp_path)
    RunDirectory(tmp_path).claim(CONFIG)
    assert contents(tmp_path) == before


def test_what_does_not_touch_the_result_may_change(tmp_path):
    RunDirectory(tmp_path).claim(CONFIG)
    now = Config(dataset="digits", queue_size=512, batch_size=128, knn_k=20, log_steps=1, data_dir="elsewhere")
    RunDirectory(tmp_path).claim(now)
    assert RunDirectory(tmp_path).config() == now


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    RunDirectory(tmp_path).claim(CONFIG)
    before = contents(tmp_path)
    other = Config(dataset="digits", queue_size=256, batch_size=128, temperature=0.2, knn_k=20)
    for action in (RunDirectory(tmp_path).check, RunDirectory(tmp_path).claim):
        assert refusal(action, other) == (
            "`workdir` holds a run of another configuration, which would be mixed up with this one. "
            f"Received: {tmp_path} with queue_size: 512 -> 256, temperature: 0.07 -> 0.2. "
            "Choose another --workdir, or the old values."
        )
    assert contents(tmp_path) == before


def test_a_folder_without_a_run_has_no_configuration(tmp_path):
    assert refusal(RunDirectory(tmp_path).config) == (
        f"`workdir` must be the folder of a run. Received: {tmp_path}, without flags.cfg. "
        "Give the --workdir of a run of train.py."
    )


# What is recorded


def test_nothing_is_recorded_at_first(tmp_path):
    assert RunDirectory(tmp_path / "new").results() == {}


def test_figures_are_merged(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.record(knn_top1=10.5, epochs=2) == {"knn_top1": 10.5, "epochs": 2}
    assert run.record(knn_top1=71.25, versions={"keras": "3"}) == {
        "knn_top1": 71.25,
        "epochs": 2,
        "versions": {"keras": "3"},
    }
    assert RunDirectory(tmp_path).results() == json.loads(run.results_json.read_text())
    assert RunDirectory(tmp_path).results()["knn_top1"] == 71.25
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def interrupted_while_writing(path, text):
    with open(path, "w") as file:
        file.write(text[: len(text) // 2])
    raise KeyboardInterrupt


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "owner, name, crash",
    [(Path, "write_text", interrupted_while_writing), (run_directory.os, "replace", interrupted)],
    ids=["while writing", "before renaming"],
)
def test_a_crash_leaves_the_figures_as_they_were(owner, name, crash, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    run.record(knn_top1=10.5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, crash)
        run.record(knn_top1=71.25)
    assert run.results() == {"knn_top1": 10.5}
    assert run.record(epochs=2) == {"knn_top1": 10.5, "epochs": 2}  # and work goes on
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
