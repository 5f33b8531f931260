"""A folder belongs to one run: others are turned away before anything is written."""

import dataclasses
import errno
import json
from pathlib import Path

import pytest

from keras_moco import durable
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
    assert RunDirectory(tmp_path).claim(now) == {}
    assert RunDirectory(tmp_path).config() == now


def test_what_is_allowed_to_change_is_told_and_noted_down(tmp_path):
    assert RunDirectory(tmp_path).claim(CONFIG) == {}
    changes = {"epochs": 300, "temperature": 0.2}
    now = dataclasses.replace(CONFIG, **changes, allow_config_change=("temperature", "weight_decay", "epochs"))
    before = contents(tmp_path)
    RunDirectory(tmp_path).check(now)
    assert contents(tmp_path) == before
    assert RunDirectory(tmp_path).claim(now) == {"temperature": "0.07 -> 0.2", "epochs": "200 -> 300"}
    # From now on it is this one, and whoever changes it again is asked again.
    assert RunDirectory(tmp_path).config() == dataclasses.replace(CONFIG, **changes)
    assert RunDirectory(tmp_path).claim(dataclasses.replace(CONFIG, **changes)) == {}
    assert "epochs: 300 -> 200" in refusal(RunDirectory(tmp_path).claim, CONFIG)


REFUSED = [  # settings, what is allowed to differ, what is refused, and the way out that is offered beside the others
    ({"temperature": 0.2}, (), "temperature: 0.07 -> 0.2", ", or --allow_config_change=temperature"),
    (
        {"temperature": 0.2, "epochs": 300, "schedule": "cosine"},
        ("temperature",),
        "epochs: 200 -> 300, schedule: step -> cosine",
        ", or --allow_config_change=epochs,schedule",
    ),
    ({"queue_size": 256, "temperature": 0.2}, (), "queue_size: 512 -> 256, temperature: 0.07 -> 0.2", ""),
    ({"queue_size": 256, "temperature": 0.2}, ("temperature",), "queue_size: 512 -> 256", ""),
    ({"init_from": "runs/a"}, (), "init_from: None -> runs/a", ""),
]


@pytest.mark.parametrize("settings, allowed, refused, offer", REFUSED)
def test_another_configuration_is_refused_with_what_differs_and_what_can_be_done(
    settings, allowed, refused, offer, tmp_path
):
    RunDirectory(tmp_path).claim(CONFIG)
    before = contents(tmp_path)
    other = dataclasses.replace(CONFIG, **settings, knn_k=20, allow_config_change=allowed)
    for action in (RunDirectory(tmp_path).check, RunDirectory(tmp_path).claim):
        assert refusal(action, other) == (
            "`workdir` holds a run of another configuration, which would be mixed up with this one. "
            f"Received: {tmp_path} with {refused}. Choose another --workdir, or the old values{offer}."
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


@pytest.mark.parametrize("text", ["", "{", "kNN: 71 %", '{"knn_top1": 10.5'])
def test_damaged_figures_are_told_and_not_written_over(text, tmp_path):
    run = RunDirectory(tmp_path)
    run.results_json.write_text(text)
    for told in (refusal(run.results), refusal(lambda: run.record(epochs=2))):
        rule, _, received = told.partition(" Received: ")
        assert rule == "`results.json` must be as it was written."
        assert received.startswith(f"{run.results_json}, which is no JSON (Expecting ")
        assert received.endswith("). Repair or delete it: training needs nothing of it but the accuracy at the start.")
    assert run.results_json.read_text() == text


# Whole or not at all


def cut_off_while_writing(end):
    def write_text(path, text, **_):
        path.write_bytes(text[: len(text) // 2].encode())
        raise end

    return write_text


def cut_off(end):
    def cut_off(*_):
        raise end

    return cut_off


MOMENTS = {
    "while writing": (Path, "write_text", cut_off_while_writing),
    "before it is on the disk": (durable.os, "fsync", cut_off),
    "before renaming": (durable.os, "replace", cut_off),
}
WRITES = {
    "figures": lambda run: run.record(knn_top1=71.25),
    "flagfile": lambda run: run.claim(dataclasses.replace(CONFIG, log_steps=1)),
}


@pytest.fixture(params=WRITES)
def written(request, tmp_path):
    """A run, and what writes one of its files anew."""
    run = RunDirectory(tmp_path)
    run.claim(CONFIG)
    run.record(knn_top1=10.5)
    return run, WRITES[request.param]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_crash_leaves_a_file_as_it_was(moment, written, monkeypatch):
    run, write = written
    before = contents(run.path)
    owner, name, crash = MOMENTS[moment]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, crash(KeyboardInterrupt()))
        write(run)
    assert {path: contents(run.path)[path] for path in before} == before
    write(run)  # and work goes on, with what was left of the first try
    assert contents(run.path).keys() == before.keys()
    assert contents(run.path) != before


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_full_disk_leaves_everything_as_it_was_and_is_told(moment, written, monkeypatch):
    run, write = written
    before = contents(run.path)
    owner, name, fail = MOMENTS[moment]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr(owner, name, fail(OSError(errno.ENOSPC, "No space left on device")))
        write(run)
    assert contents(run.path) == before  # and nothing beside it


def test_a_file_and_its_name_are_on_the_disk_when_it_is_written(tmp_path, monkeypatch):
    events = []
    replace = durable.os.replace
    monkeypatch.setattr(durable, "flush", lambda path: events.append(("flush", path.name)))
    monkeypatch.setattr(
        durable.os, "replace", lambda *names: (events.append(("replace", names[1].name)), replace(*names))
    )
    durable.write_text(tmp_path / "results.json", "{}")
    assert events == [("flush", ".results.json.tmp"), ("replace", "results.json"), ("flush", tmp_path.name)]


def test_any_character_can_be_written(tmp_path):
    run = RunDirectory(tmp_path / "Käthe ∞")
    run.claim(dataclasses.replace(CONFIG, workdir=str(run.path)))
    assert run.config().workdir == str(run.path)
