"""A folder belongs to one run: others are turned away before anything is written."""

import dataclasses
import errno
import os
import shutil
from pathlib import Path
from unittest import mock

import pytest

from keras_moco.config import Config
from keras_moco.config.flagfiles import read_flagfile
from keras_moco.runs.checkpoint_index import find_whole
from keras_moco.runs.directory import RunDirectory
from tests.data.written import time_limit
from tests.permissions import as_a_user, mode
from tests.run_command import parsed

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
    assert first.startswith("#") and "keras-moco pretrain --flagfile=" in first
    assert rest == config.to_flagfile() and str(run.path) not in run.flagfile.read_text(encoding="utf-8")


def test_a_file_and_a_folder_of_other_things_are_refused(tmp_path):
    (tmp_path / ".hidden").write_text("years of work")
    assert f"Received: {tmp_path}, " in refusal(tmp_path, CONFIG)
    assert f"Received: {tmp_path / '.hidden'}, a file" in refusal(tmp_path / ".hidden", CONFIG)
    with pytest.raises(ValueError, match=f"Received: {tmp_path}, without flags.cfg"):
        RunDirectory(tmp_path).config()


def test_an_allowed_change_is_returned_and_holds_from_then_on(run):
    changes = {"epochs": 300, "temperature": 0.2}
    now = dataclasses.replace(CONFIG, **changes, allow_config_change=("temperature", "weight_decay", "epochs"))
    before = contents(run.path)
    run.check(now)
    assert contents(run.path) == before
    assert run.claim(now) == {"temperature": "0.07 -> 0.2", "epochs": "200 -> 300"}
    assert run.config() == dataclasses.replace(CONFIG, **changes, workdir=str(run.path))
    assert run.claim(dataclasses.replace(CONFIG, **changes, knn_k=20, log_steps=1, data_dir="elsewhere")) == {}
    assert "epochs: 300 -> 200" in refusal(run.path, CONFIG)


def test_another_configuration_is_refused_with_its_differences(run):
    allowed = {"knn_k": 20, "temperature": 0.2, "allow_config_change": ("temperature",)}
    text = refusal(run.path, dataclasses.replace(CONFIG, **allowed, epochs=300, schedule="cosine"))
    assert f"Received: {run.path} with epochs: 200 -> 300, schedule: step -> cosine. " in text
    assert text.endswith(" --allow_config_change=epochs,schedule.")
    text = refusal(run.path, dataclasses.replace(CONFIG, **allowed, queue_size=256))
    assert f"Received: {run.path} with queue_size: 512 -> 256. " in text and "--allow_config_change" not in text


def test_results_and_flagfile_are_replaced_whole_or_not_at_all(run, monkeypatch):
    run.results.record(knn_top1=10.5)
    before = contents(run.path)
    for write in (
        lambda: run.results.record(knn_top1=71.25),
        lambda: run.claim(dataclasses.replace(CONFIG, log_steps=1)),
    ):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
            full = OSError(28, "No space left on device")
            patch.setattr(os, "replace", mock.Mock(side_effect=full))  # as `keras_moco.storage.atomic` ends
            write()
        assert contents(run.path) == before


# Moved, copied, shared


def test_a_copied_or_moved_run_is_that_of_its_folder(run, tmp_path):
    for name in ("copy", "Käthe's runs"):
        copy = shutil.copytree(run.path, tmp_path.parent / f"{tmp_path.name} {name}") / "flags.cfg"
        assert read_flagfile(copy) == dataclasses.replace(CONFIG, workdir=str(copy.parent))
    link = tmp_path / "latest.cfg"
    link.symlink_to(copy)
    assert read_flagfile(link).workdir == str(copy.parent)
    # As earlier versions wrote it.
    old = f"# Go on with this run:  python train.py --flagfile={run.flagfile}\n--workdir={run.path}\n"
    copy.write_text(old + CONFIG.to_flagfile())
    assert read_flagfile(copy).workdir == RunDirectory(copy.parent).config().workdir == str(copy.parent)
    # With whatever somebody has written into it.
    for text in (f"\n{old}{CONFIG.to_flagfile()}", f"\ufeff{old}", f"# Mine.\n{old}"):
        copy.write_text(text, encoding="utf-8")
        assert read_flagfile(copy).workdir == str(copy.parent)
    # A recipe is not a run, whatever its name and folder.
    recipe = tmp_path / "recipe" / "flags.cfg"
    recipe.parent.mkdir()
    recipe.write_text("--workdir=runs/x\n")
    assert read_flagfile(recipe).workdir == "runs/x"


@pytest.mark.parametrize(
    "given, folder",
    [
        (["--flagfile=RUN/flags.cfg", "--seed=1"], "RUN"),
        (["--flagfile", "RUN/flags.cfg", "--seed=1", "--", "more"], "RUN"),
        (["--workdir=other", "--flagfile", "RUN/flags.cfg", "more"], "other"),
        (["-flagfile=RUN/flags.cfg", "--workdir=other"], "other"),
        (["--workdir", "other", "--flagfile=RUN/flags.cfg"], "other"),
        (["--flagfile=RUN/other.cfg", "--flagfile=RUN/flags.cfg"], "RUN"),
        (["--flagfile=RUN/nested.cfg", "--seed=1"], "RUN"),
        (["--flagfile=RUN/log.cfg"], "runs/moco"),
        (["--workdir=other"], "other"),
        ([], "runs/moco"),
    ],
)
def test_the_flagfile_of_a_run_resumes_it_unless_another_folder_is_named(given, folder, run, tmp_path):
    for name, text in (
        ("other.cfg", ""),
        ("log.cfg", run.flagfile.read_text()),
        ("nested.cfg", f"--flagfile={run.flagfile}"),
    ):
        (tmp_path / name).write_text(text)
    config, arguments = parsed(Config, [argument.replace("RUN", str(run.path)) for argument in given])
    assert config.workdir == folder.replace("RUN", str(run.path)) and arguments == ("more" if "more" in given else "")
    assert config.queue_size == (None if given in ([], ["--workdir=other"]) else 512)


def test_a_kill_before_there_is_a_flagfile_leaves_a_usable_folder(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", mock.Mock(side_effect=Killed))
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # nor does the process tidy up
        patch.setattr(os, "unlink", lambda *_: None)
        with run.locked():
            run.claim(CONFIG)
    left = sorted(path.name.rstrip("0123456789abcdef.tmp") for path in run.path.iterdir())
    assert left == [".flags.cfg", ".flags.cfg.lock", ".training.lock"]
    with run.locked():
        assert run.claim(CONFIG) == {}
    assert [path.name for path in run.path.iterdir()] == ["flags.cfg"]
    assert run.config() == dataclasses.replace(CONFIG, workdir=str(run.path))


def test_a_second_process_is_refused_and_an_unused_folder_is_removed(tmp_path):
    run = RunDirectory(tmp_path / "a" / "b" / "run")
    with run.locked():
        with pytest.raises(ValueError, match=rf"Received: {run.path}, where process {os.getpid()} on \S+ trains\. "):
            with RunDirectory(run.path).locked():
                pass
        assert os.listdir(run.path) == [".training.lock"]
    assert list(tmp_path.iterdir()) == []
    with run.locked():
        run.claim(CONFIG)
    assert [path.name for path in run.path.iterdir()] == ["flags.cfg"]


def test_a_folder_that_is_moved_or_deleted_during_training_is_noticed(tmp_path):
    for change in (lambda path: path.rename(tmp_path / "moved"), shutil.rmtree):
        run = RunDirectory(tmp_path / "run")
        with run.locked() as check_in_place:
            run.claim(CONFIG)
            check_in_place()
            change(run.path)
            with pytest.raises(ValueError, match=f"Received: {run.path}, which was moved or deleted."):
                check_in_place()
            with run.locked() as check_another:  # of a run that is begun in its place
                check_another()
                with pytest.raises(ValueError, match="was moved or deleted"):
                    check_in_place()


def test_where_files_cannot_be_locked_a_note_says_so(run, monkeypatch, capsys):
    monkeypatch.setattr("fcntl.flock", mock.Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with run.locked():
        pass
    assert capsys.readouterr().out.startswith(f"note: files cannot be locked in {run.path}")


def test_a_folder_that_cannot_be_read_is_refused(run, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("not mounted")
    for act in (RunDirectory(link).check, lambda config: RunDirectory(link).config()):
        with pytest.raises(ValueError, match=f"Received: {link}, a link to what is not there. "):
            act(CONFIG)
    with as_a_user(tmp_path), mode(run.path, 0o300):
        for act in (run.check, run.claim, lambda _: run.config()):
            with pytest.raises(ValueError, match=f"Received: {run.path}, Permission denied. "):
                act(CONFIG)


def test_pipes_among_the_files_of_a_run_are_refused(run):
    folder = run.checkpoints / "step-00000001"
    folder.mkdir(parents=True)
    run.flagfile.unlink()
    for path in (run.flagfile, run.results_json, run.log_csv, folder / "manifest.json"):
        os.mkfifo(path)
    for path, use in (
        (run.flagfile, run.config),
        (run.results_json, run.results.read),
        (run.log_csv, run.logged_epochs),
        (folder / "manifest.json", lambda: find_whole(run.checkpoints)),
    ):
        with time_limit(20), pytest.raises((ValueError, OSError)) as error:
            use()
        assert str(path) in str(error.value) and "a named pipe" in str(error.value)
